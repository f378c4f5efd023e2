"""Keeps the tests that need Triton's interpreter out of processes that do not run it; a CUDA fixture."""

import os

import pytest
import torch

# Triton reads the variable when it is imported, so these tests have a process of their own: see
# test_interpreter_process.py.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreter/*"]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The first CUDA device, with the kernels demanded; skips where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "triton")
    return torch.device("cuda:0")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers."""
    torch.manual_seed(0)
