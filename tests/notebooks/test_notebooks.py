"""The notebooks: stripped of outputs, and in their short form they run from top to bottom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_four():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "run nbstripout, or clear all outputs before committing"
        assert not cell.get("execution_count")
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert 'RUN = ""' in code[0], "the first cell names the run"


@pytest.mark.timeout(600)
def test_all_run_in_short_form(tmp_path: Path):
    """All in one process of nbmake, one after the other: the first trains the agent that all share."""
    pytest.importorskip("nbmake")
    options = ["-q", "--nbmake", "--nbmake-timeout=300", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, NOTEBOOKS)],
        cwd=ROOT,
        env={**os.environ, "IRIS_WM_SHORT": "1", "IRIS_WM_NOTEBOOK_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "4 passed" in done.stdout
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["notebook-"], "one agent for all"
