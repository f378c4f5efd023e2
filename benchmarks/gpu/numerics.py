"""Every kernel on this device against its reference in float32 on the CPU, and the repository's own tests of both."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import iris_kernels
import torch
from decode_layers import make_head, make_layer
from iris_kernels import HeadWeights, LayerWeights
from stage import Stage
from torch import Tensor

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}  # RMS ratio
TESTS = ("head_sample", "group_norm_silu", "decode_layers", "attention")
WIDTH, HEADS, LENGTH = 256, 4, 340


def run(stage: Stage) -> None:
    """A quick check of each kernel in three dtypes, then the tests, one file after the other."""
    for check in (_attention, _decode_layers, _head_sample, _group_norm_silu):
        for dtype in LIMITS:
            stage.case(f"{check.__name__[1:]} {str(dtype)[6:]}", _compare, stage, check, dtype)
    stage.case("sample_tokens", _frequencies, stage)
    if importlib.util.find_spec("pytest") is None:
        stage.case("tests", lambda: {"note": "pytest is not installed: the quick checks are all there is"})
        return
    if stage.is_small:  # importing all of the agent takes longer than the rest of the rehearsed stage
        stage.case(
            "tests", _pytest, stage, "tests/kernels/test_group_norm_silu.py", "-k", "equals or contract"
        )
        return
    tests = "tokenizer or world or losses or policy or lambda or argmax"
    stage.case("golden vectors", _pytest, stage, "tests/interop/test_golden.py", "-k", tests)
    for name in TESTS:
        stage.case(f"tests: {name}", _pytest, stage, f"tests/kernels/test_{name}.py", "-m", "gpu")


def _compare(
    stage: Stage, check: Callable[[torch.device, torch.dtype], list[Tensor]], dtype: torch.dtype
) -> dict[str, float]:
    """The largest error of all results, over the size of what the reference gives for the same numbers."""
    got = _with_backend("auto" if stage.is_small else "triton", check, stage.device, dtype)
    wanted = _with_backend("torch", check, torch.device("cpu"), dtype, torch.float32)
    errors = [
        float((own.cpu().double() - truth.double()).norm() / truth.double().norm())
        for own, truth in zip(got, wanted, strict=True)
    ]
    assert max(errors) < LIMITS[dtype], f"relative errors {errors}, expected less than {LIMITS[dtype]}"
    return {"relative_error": max(errors)}


def _with_backend(backend: str, check: Callable[..., list[Tensor]], *arguments: Any) -> list[Tensor]:
    os.environ["IRIS_KERNELS_BACKEND"] = backend
    try:
        return check(*arguments)
    finally:
        os.environ["IRIS_KERNELS_BACKEND"] = "auto"


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _attention(device: torch.device, dtype: torch.dtype, computed: torch.dtype | None = None) -> list[Tensor]:
    """Both directions, the mask of each way to predict, dropout."""
    results: list[Tensor] = []
    seed = torch.tensor([7], device=device)
    for mask, rows in (("causal", 68), ("block_causal", 68), ("parallel", 66)):
        step = 0 if mask == "causal" else 17
        q, k, v, grad = (
            _random(2, 3, rows, 64, seed=i).to(dtype).to(device, computed or dtype) for i in range(4)
        )
        inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
        for dropout in (0.0, 0.1):
            out = iris_kernels.attention(
                *inputs, mask=mask, tokens_per_step=step, dropout=dropout, seed=seed if dropout else None
            )
            results += [out.detach(), *torch.autograd.grad(out, inputs, grad)]
    return results


@torch.no_grad()
def _decode_layers(
    device: torch.device, dtype: torch.dtype, computed: torch.dtype | None = None
) -> list[Tensor]:
    """A frame, then token by token, as a roll-out does; the second time with rotary positions."""
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    weights = LayerWeights(*(part.to(device, computed or dtype) for part in make_layer(dtype, cpu).tensors))
    caches = torch.zeros(2, 1, 5, HEADS, LENGTH, WIDTH // HEADS, device=device, dtype=computed or dtype)
    x, angles = _random(5, 53, WIDTH).to(device), 3 * _random(5, 53, WIDTH // HEADS // 2).to(device)
    results = []
    for turns in (None, torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(2)):
        start = 0
        for num_rows in (17, 1, 1, 33, 1):
            where = start + torch.arange(5, dtype=torch.int32, device=device)  # each row stands elsewhere
            new = slice(start, start + num_rows)
            by = None if turns is None else turns[:, new].contiguous()
            results.append(iris_kernels.decode_layers(x[:, new], [weights], *caches, where, turns=by))
            start += num_rows
    return results


@torch.no_grad()
def _head_sample(
    device: torch.device, dtype: torch.dtype, computed: torch.dtype | None = None
) -> list[Tensor]:
    """Its logits; what it draws of them is the tests' and `_frequencies`' matter."""
    torch.manual_seed(0)
    parts = make_head(dtype, torch.device("cpu"))
    head = HeadWeights(*(part.to(device, computed or dtype) for part in parts))
    where = torch.arange(70, dtype=torch.int32, device=device)
    number = torch.arange(70, device=device)
    x = _random(70, WIDTH).to(device)
    return [iris_kernels.head_sample(x, head, where, number, number)[2]]


def _group_norm_silu(
    device: torch.device, dtype: torch.dtype, computed: torch.dtype | None = None
) -> list[Tensor]:
    """Both directions, channels last."""
    results = []
    for channels, side in ((64, 32), (128, 8)):
        x, grad = (3 + _random(4, channels, side, side, seed=i) for i in range(2))
        x, grad = (
            maps.to(dtype).to(device, computed or dtype).contiguous(memory_format=torch.channels_last)
            for maps in (x, grad)
        )
        inputs = [x, *(_random(channels, seed=i).to(device) for i in range(2))]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        out = iris_kernels.group_norm_silu(*inputs, 32)
        results += [out.detach(), *torch.autograd.grad(out, inputs, grad)]
    return results


def _frequencies(stage: Stage) -> dict[str, float]:
    """How often each code is drawn, against its probability."""
    rows, codes = 2_000 if stage.is_small else 200_000, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    seed, step = (torch.tensor([number], device=stage.device) for number in (3, 11))
    drawn = iris_kernels.sample_tokens(logits.to(stage.device).repeat(rows, 1), seed, step)
    expected = logits.softmax(0) * rows
    chi_square = float(((drawn.cpu().bincount(minlength=codes) - expected).square() / expected).sum())
    assert chi_square < 37.7, f"chi square {chi_square:.1f}, expected less than 37.7 (p = 0.001)"
    return {"chi_square": chi_square}


def _pytest(stage: Stage, *arguments: str) -> dict[str, Any]:
    """The tests of a file; in several processes where that is installed, since most of the time is compiling."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments]
    if not stage.is_small and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    backend = {} if stage.is_small else {"IRIS_KERNELS_BACKEND": "triton"}
    done = subprocess.run(
        command,
        env=os.environ | {"IRIS_TEST_DEVICE": stage.device.type} | backend,
        capture_output=True,
        text=True,
        timeout=max(1.0, stage.seconds_left()),
    )
    print(done.stdout[-20000:], done.stderr[-5000:], flush=True)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    assert done.returncode == 0, "; ".join([*failed[:3], lines[-1]])
    return {"tests": lines[-1]}
