"""Runs the tests of tests/kernels/interpreter and the golden vectors in a process in which Triton interprets."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run_interpreted(*arguments: str, timeout: float) -> None:
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "IRIS_KERNELS_BACKEND": "triton",
    }
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={timeout}",
        "tests/kernels/interpreter", "tests/interop/test_golden.py", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.timeout(900)
def test_kernels_in_the_interpreter() -> None:
    run_interpreted("-m", "not slow", "-k", "interpreter or world", timeout=890)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_wide_sweeps_and_all_golden_vectors_in_the_interpreter() -> None:
    run_interpreted(timeout=2390)
