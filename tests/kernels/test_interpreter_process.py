"""Runs the tests of tests/kernels/interpreter in processes in which Triton interprets its kernels."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETER_TESTS = sorted((Path(__file__).parent / "interpreter").glob("test_*.py"))


ROOT = Path(__file__).parents[2]
GOLDEN = "tests/interop/test_golden.py"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run_interpreted(*arguments: str, timeout: float, **variables: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("path", INTERPRETER_TESTS, ids=lambda path: path.stem)
def test_kernels_in_the_interpreter(path: Path) -> None:
    run_interpreted(str(path), timeout=290)


def test_golden_world_with_the_kernels() -> None:
    run_interpreted(GOLDEN, "-k", "world", timeout=290, IRIS_KERNELS_BACKEND="triton")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_golden_vectors_with_the_kernels() -> None:
    run_interpreted(GOLDEN, "--timeout=600", timeout=1190, IRIS_KERNELS_BACKEND="triton")
