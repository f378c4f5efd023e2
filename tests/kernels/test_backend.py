"""Choice of backend, messages, and that neither Triton nor iris_wm is needed to import the package."""

import subprocess
import sys

import iris_kernels
import pytest
import torch
from iris_kernels import backend


def test_works_without_triton_and_iris_wm() -> None:
    program = (
        "import sys; sys.modules['triton'] = None; import iris_kernels, torch; "
        "q = torch.zeros(1, 1, 2, 16); assert iris_kernels.attention(q, q, q).shape == q.shape; "
        "maps, one = torch.randn(2, 32, 4, 4), torch.ones(32); "
        "assert iris_kernels.group_norm_silu(maps, one, one, 32, 1e-6).shape == maps.shape; "
        "assert not any(name.split('.')[0] == 'iris_wm' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_import_does_not_load_triton() -> None:
    program = (
        "import sys, iris_kernels; assert 'triton' not in sys.modules or sys.modules['torch']._inductor; "
        "assert not any(name.startswith('iris_kernels.triton_kernels') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_unknown_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "cuda")
    with pytest.raises(
        ValueError, match="IRIS_KERNELS_BACKEND: got 'cuda', expected one of auto, triton, torch"
    ):
        iris_kernels.requested_backend()


def test_triton_needs_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q = torch.zeros(1, 1, 2, 16)
    with pytest.raises(
        ValueError, match="attention: IRIS_KERNELS_BACKEND=triton needs tensors on a CUDA device"
    ):
        iris_kernels.attention(q, q, q)


@pytest.mark.parametrize(
    ("variable", "device", "expected"),
    [("torch", "cuda", False), ("auto", "cpu", False), ("auto", "cuda", True)],
)
def test_choice(monkeypatch: pytest.MonkeyPatch, variable: str, device: str, expected: bool) -> None:
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", variable)
    monkeypatch.setattr(backend, "triton_is_installed", lambda: True)
    monkeypatch.setattr(backend, "_device_problem", lambda index: None)
    assert backend.use_triton("an_op", torch.device(device), None) is expected


def test_warns_once_for_each_reason(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "auto")
    monkeypatch.setattr(backend, "_already_warned", set())
    monkeypatch.setattr(backend, "triton_is_installed", lambda: True)
    monkeypatch.setattr(backend, "_device_problem", lambda index: None)
    for problem in ("too wide", "too wide", "too long"):
        assert not backend.use_triton("an_op", torch.device("cuda"), problem)
    messages = [str(warning.message) for warning in recwarn]
    assert messages == [
        "an_op runs in plain PyTorch: too wide",
        "an_op runs in plain PyTorch: too long",
    ]
