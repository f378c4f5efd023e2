"""Compiles every kernel for sm_80 and sm_90 without a GPU and bounds what it takes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
USES_MATRIX_UNITS = {
    "attention_forward",
    "attention_backward_kv",
    "attention_backward_q",
    "decode_attention",
    "ln_linear",
    "linear_residual",
    "head_sample",
}
WARPGROUP_KERNELS = {"attention_forward", "attention_backward_kv", "attention_backward_q"}
STREAMS_KEYS_OR_WEIGHTS = {"attention_forward", "decode_attention", "linear_residual", "head_sample"}
Entry = dict[str, object]

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    path = tmp_path_factory.mktemp("resources") / "resources.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, str(KERNELS / "benchmarks" / "resources.py"), "--json", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=890)
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout)
    return json.loads(path.read_text())


def name(entry: Entry) -> str:
    return f"{entry['kernel']} [{entry['label']}] sm_{entry['target']}"


def test_nothing_spills_and_everything_fits(compiled: list[Entry]) -> None:
    assert {entry["target"] for entry in compiled} == {80, 90}
    assert len(compiled) > 180
    assert [name(entry) for entry in compiled if entry["spills"]] == []
    assert [name(entry) for entry in compiled if entry["shared"] > entry["shared_limit"]] == []
    assert [name(entry) for entry in compiled if entry["blocks_per_sm"] < 1] == []


def test_the_sm_80_tables_also_fit_the_smaller_cards(compiled: list[Entry]) -> None:
    """Compute capability 8.6 and 8.9 allow 99 KB a block."""
    too_big = [name(entry) for entry in compiled if entry["target"] == 80 and entry["shared"] > 101376]
    assert too_big == []


def test_matrix_instructions_where_expected(compiled: list[Entry]) -> None:
    for entry in compiled:
        if entry["kernel"] not in USES_MATRIX_UNITS or not str(entry["label"]).startswith("bf16"):
            continue
        instructions = str(entry["instructions"]).split("+")
        assert {"mma", "wgmma"} & set(instructions), name(entry)
        if entry["target"] == 90 and entry["kernel"] in WARPGROUP_KERNELS:
            assert "wgmma" in instructions, name(entry)
        if entry["kernel"] in STREAMS_KEYS_OR_WEIGHTS:
            assert "cp.async" in instructions, name(entry)


def test_the_readme_holds_the_current_table(compiled: list[Entry]) -> None:
    import triton

    text = (KERNELS / "README.md").read_text()
    table = text.split("<!-- resources: begin -->")[1].split("<!-- resources: end -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()[4:]
        if "|" in line
    ]
    written = {(row[0], row[1], target): row[3 + i] for row in rows[1:] for i, target in enumerate((80, 90))}
    assert set(written) == {(e["kernel"], e["label"], e["target"]) for e in compiled}, (
        "run python kernels/benchmarks/resources.py --write"
    )
    version = re.search(r"Compiled by triton (\S+)\. ", table)
    if version is None or version[1] != triton.__version__:
        return  # another compiler: the bounds above hold, the figures may differ
    for entry in compiled:
        registers, _, shared, *_ = written[entry["kernel"], entry["label"], entry["target"]].split(" / ")
        assert abs(int(registers) - entry["registers"]) <= 24, name(entry)
        assert abs(float(shared) - entry["shared"] / 1024) <= 1.0, name(entry)
