"""Files that lie or carry code, through every door that reads files: refused in one line, and nothing runs."""

import json
import os
import pickle
import re
import resource
import struct
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iris_wm import cli
from iris_wm.agent import Agent
from iris_wm.checkpoint import durable
from iris_wm.checkpoint.agent_files import (
    AGENT_CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    agent_to_bytes,
)
from iris_wm.checkpoint.errors import DamagedState
from iris_wm.interop.published_iris import load_published
from iris_wm.runs.open import open_run

ROOT = Path(__file__).parents[2]
MEMORY_LIMIT = 1_000_000_000  # bytes that refusing a file may take


class Marker:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zipped(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")


def header(mapping: object) -> bytes:
    data = json.dumps(mapping).encode()
    return struct.pack("<Q", len(data)) + data


def claim(shape: list[int], stop: int) -> bytes:
    return header({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, stop]}})


SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 100 GB": struct.pack("<Q", 10**11) + b"{}",
    "400 GB tensor": claim([10**11], 4 * 10**11),
    "overflowing shape": claim([2**32, 2**32, 2**32], 4),
    "negative shape": claim([-1], 4) + b"1234",
    "shape and bytes differ": claim([4], 4) + b"1234",
    "overlap": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                       "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}) + b"123456",
    "unknown dtype": header({"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}) + b"1234",
    "not json": struct.pack("<Q", 4) + b"nope",
    "deep json": struct.pack("<Q", 20000) + b"[" * 20000,
    "html": b"<!DOCTYPE html><html></html>",
    "pickle": pickle.dumps([1, 2, 3]),
}  # fmt: skip


def seal(folder: Path, weights: bytes, config: object) -> Path:
    """An agent folder whose checksums are right, whatever is in it."""
    import hashlib

    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    entry = {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    document = durable.seal(FORMAT, FORMAT_VERSION, {"config": config, "weights": entry})
    (folder / AGENT_CONFIG_FILE).write_bytes(document)
    return folder


@pytest.fixture
def agent_config(tiny_agent) -> dict:
    from iris_wm.config import to_mapping

    return to_mapping(tiny_agent().config)


@pytest.fixture(autouse=True)
def little_memory():
    """Peak memory may not grow by what a file only claims."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MEMORY_LIMIT


@pytest.mark.parametrize("data", SAFETENSORS.values(), ids=SAFETENSORS)
def test_weights_that_lie(tmp_path, agent_config, data):
    with pytest.raises((DamagedState, ValueError)) as caught:
        Agent.load(seal(tmp_path / "agent", data, agent_config))
    assert "\n" not in str(caught.value)


CONFIGS: dict[str, Callable[[dict], object]] = {
    "10^10 wide": lambda c: c | {"world": c["world"] | {"embed_dim": 10**10}},
    "10^10 codes": lambda c: (
        c | {"tokenizer": c["tokenizer"] | {"quantizer": {"kind": "vq", "codebook_size": 10**10}}}
    ),
    "10^10 layers": lambda c: c | {"world": c["world"] | {"num_layers": 10**10}},
    "10^10 actions": lambda c: c | {"action_sizes": [10**10]},
    "10^10 context": lambda c: c | {"world": c["world"] | {"context_steps": 10**10}},
    "10^10 hidden": lambda c: c | {"policy": c["policy"] | {"hidden_size": 10**10}},
    "class path": lambda c: c | {"class_path": "os.system"},
    "instantiator": lambda c: c | {"_instantiator": "builtins.exec"},
    "a list": lambda c: [c],
    "negative": lambda c: c | {"action_sizes": [-1]},
    "a text": lambda c: c | {"action_sizes": "4"},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_configs_that_lie(tmp_path, agent_config, tiny_agent, change):
    folder = seal(
        tmp_path / "agent", agent_to_bytes(tiny_agent().weights(), {})[WEIGHTS_FILE], change(agent_config)
    )
    with pytest.raises((DamagedState, ValueError)) as caught:
        Agent.load(folder)
    assert "\n" not in str(caught.value)


def pickles(marker: Path) -> dict[str, bytes]:
    return {
        "a call": pickle.dumps(Marker(marker)),
        "a call in a dict": pickle.dumps({"tokenizer.weight": Marker(marker)}),
        "protocol 0": pickle.dumps(Marker(marker), protocol=0),
        "eval": b'cbuiltins\neval\n(S\'__import__("os").mkdir("' + str(marker).encode() + b"\")'\ntR.",
    }


@pytest.mark.parametrize("name", ["a call", "a call in a dict", "protocol 0", "eval"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["zip", "plain"])
@pytest.mark.parametrize("environment", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_pickles_run_nowhere(tmp_path, monkeypatch, agent_config, name, wrapped, environment):
    """Also under the variable that switches torch's protection off."""
    if environment:
        monkeypatch.setenv(environment, "1")
    marker, path = tmp_path / "marker", tmp_path / "model.pt"
    data = pickles(marker)[name]
    if wrapped:
        zipped(path, data)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match="not a published IRIS checkpoint"):
        load_published(path)
    assert cli.main(["import", str(path), str(tmp_path / "agent")]) == 2
    with pytest.raises((DamagedState, ValueError)):
        Agent.load(seal(tmp_path / "sealed", path.read_bytes(), agent_config))
    with pytest.raises(ValueError, match="no such folder"):
        Agent.load(path)
    with pytest.raises(ValueError, match="not a run folder"):
        open_run(path)
    assert cli.main(["fit", "--config", str(path), "--run", str(tmp_path / "run")]) == 2
    assert not marker.exists()
    assert not (tmp_path / "run").exists()


def test_a_tensor_that_claims_more_than_its_file(tmp_path):
    """800 GB with stride 0, which weights_only accepts."""
    path = tmp_path / "model.pt"
    torch.save({"tokenizer.embedding.weight": torch.zeros(1).expand(200_000_000_000)}, path)
    with pytest.raises(ValueError, match="published checkpoint"):
        load_published(path)


@pytest.mark.parametrize(
    "url", ["https://example.org/a", "http://127.0.0.1:1/a", "file:///etc/passwd", "s3://a/b"]
)
def test_urls_are_no_paths(url, tmp_path, capsys):
    for arguments in (
        ["fit", "--config", url, "--run", str(tmp_path / "run")], ["evaluate", url], ["dream", url], ["report", url],
        ["play", url], ["import", url, str(tmp_path / "a")], ["export", url, str(tmp_path / "a")],
        ["checkpoint", "verify", url], ["checkpoint", "export", url, str(tmp_path / "a")],
    ):  # fmt: skip
        assert cli.main(arguments) == 2, arguments
        assert capsys.readouterr().err.count("\n") == 1
    for load in (Agent.load, open_run, load_published):
        with pytest.raises(ValueError, match=re.escape(url.split("//")[1])):
            load(url)
    assert list(tmp_path.iterdir()) == []


def sources() -> list[Path]:
    return [*(ROOT / "iris_wm").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]


def test_no_door_for_code():
    """No pickle, no unsafe YAML, no archive extraction, no shell; torch.load only with weights_only=True."""
    forbidden = re.compile(
        r"\bpickle\b|allow_pickle|dill|joblib|yaml\.(load|full_load|unsafe_load|Loader|FullLoader|UnsafeLoader)\b|"
        r"extractall|\beval\(|\bexec\(|os\.system|shell=True|weights_only=False|hub\.load|urlopen|urlretrieve"
    )
    for path in sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("#")[0]
            found = forbidden.search(code)
            assert not found or ".eval(" in code, f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            assert not re.search(r"(?<!safetensors\.)torch\.load\(", code) or "weights_only=True" in code, (
                f"{path}:{number}"
            )


def test_dependencies_are_bounded():
    """Known malicious and vulnerable releases cannot be installed."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    least = {re.split(r"[<>=!~;\[ ]", text)[0]: text for text in dependencies}

    def lower_bound(name: str) -> tuple[int, ...]:
        match = re.search(r">=([0-9.]+)", least[name])
        assert match, least[name]
        return tuple(map(int, match[1].split(".")))

    assert lower_bound("lightning") >= (2, 6, 6), (
        "2.6.2 and 2.6.3 were malware, 2.6.5 runs code from checkpoints"
    )
    assert lower_bound("torch") >= (2, 10), "weights_only of older ones can be tricked"
    assert all(re.search(r">=|==", text) for text in dependencies)


def test_an_archive_is_not_opened(tmp_path):
    path = tmp_path / "run.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("../escaped")
        archive.addfile(info)
    assert cli.main(["import", str(path), str(tmp_path / "agent")]) == 2
    with pytest.raises(ValueError, match="run folder"):
        open_run(path)
    assert sorted(os.listdir(tmp_path)) == ["run.tar"]
    assert "escaped" not in os.listdir(tmp_path.parent)


def test_nothing_reads_from_the_current_folder(tmp_path, monkeypatch, capsys):
    """A config, a .env or a module that lies around there changes nothing."""
    (tmp_path / "config.yaml").write_text("seed: [\n")
    (tmp_path / "yaml.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in sys.path
    assert (
        cli.main(["fit", "--config", str(ROOT / "configs" / "debug.yaml"), "--run", "r", "--print-config"])
        == 0
    )
    assert "id: Breakout" in capsys.readouterr().out
