"""Which implementation a call runs: a Triton kernel or plain PyTorch."""

import functools
import importlib.util
import os
import warnings

import torch

BACKEND_VARIABLE = "IRIS_KERNELS_BACKEND"
BACKENDS = ("auto", "triton", "torch")
MINIMUM_CAPABILITY = (8, 0)

_already_warned: set[tuple[str, str]] = set()


def requested_backend() -> str:
    """The value of ``IRIS_KERNELS_BACKEND``: "auto" where unset.

    Raises:
        ValueError: the variable holds another word.
    """
    backend = os.environ.get(BACKEND_VARIABLE, "auto")
    if backend not in BACKENDS:
        raise ValueError(f"{BACKEND_VARIABLE}: got {backend!r}, expected one of {', '.join(BACKENDS)}")
    return backend


@functools.cache
def triton_is_installed() -> bool:
    """Whether `import triton` can be expected to work (it is a Linux-only dependency)."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _device_problem(index: int) -> str | None:
    if not torch.cuda.is_available():
        return None  # fake CUDA tensors while something is traced
    capability = torch.cuda.get_device_capability(index)
    if capability < MINIMUM_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, the kernels need 8.0"
    return None


def _wrong_device(device: torch.device) -> str | None:
    if not torch.cuda.is_initialized() or device.index in (None, torch.cuda.current_device()):
        return None
    return f"its tensors are on {device}, but the current device is cuda:{torch.cuda.current_device()}"


def _interpreter_is_on() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def use_triton(op: str, device: torch.device, problem: str | None) -> bool:
    """Decides for one call of `op`; warns once for each reason why a wanted kernel cannot run.

    Args:
        op: the operation's name, for messages.
        device: where its tensors are.
        problem: why the Triton kernel does not take these shapes or dtypes, or None where it does.

    Raises:
        ValueError: ``IRIS_KERNELS_BACKEND=triton`` with CPU tensors outside Triton's interpreter.
    """
    backend = requested_backend()
    if backend == "torch" or (backend == "auto" and device.type != "cuda"):
        return False
    if device.type not in ("cuda", "meta") and not _interpreter_is_on():
        raise ValueError(
            f"{op}: {BACKEND_VARIABLE}=triton needs tensors on a CUDA device, got {device}; "
            f"use auto, or set TRITON_INTERPRET=1 to run the kernels in Triton's interpreter"
        )
    if not triton_is_installed():
        problem = "Triton is not installed"
    elif device.type == "cuda" and problem is None:
        problem = _device_problem(device.index or 0) or _wrong_device(device)
    if problem is None:
        return True
    if (op, problem) not in _already_warned:
        _already_warned.add((op, problem))
        warnings.warn(f"{op} runs in plain PyTorch: {problem}", RuntimeWarning, stacklevel=3)
    return False


def use_c(device: torch.device) -> bool:
    """Whether a C kernel is wanted for tensors on this device, where there is one."""
    return device.type == "cpu" and requested_backend() == "auto"


def runs_directly(op: str, tensor: torch.Tensor, problem: str | None, *, has_gradient: bool = False) -> bool:
    """Whether a call may skip the custom op and go straight to the reference or a C kernel.

    Saves about 10 us a call on a CPU. False where a kernel of Triton runs, while `torch.compile` traces, for tensor
    subclasses, and with gradients on, unless that way has them too.
    """
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and (has_gradient or not torch.is_grad_enabled())
        and not use_triton(op, tensor.device, problem)
    )


def shape_error(op: str, name: str, tensor: torch.Tensor, expected: str) -> ValueError:
    """A `ValueError` that names the tensor, its shape and dtype, and what was expected."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return ValueError(f"{op}: {name} is {tuple(tensor.shape)} {dtype}, expected {expected}")
