"""The C kernels of the CPU: equal to the references, for any number of threads, and never missed where they are not."""

import platform
import shutil
import subprocess
import sys

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from iris_kernels.arguments import Draws
from iris_kernels.cpu_kernels import decode_layers as c_layer
from iris_kernels.cpu_kernels import group_norm_silu as c_norm
from iris_kernels.cpu_kernels import head_sample as c_sampler
from iris_kernels.cpu_kernels import library
from iris_kernels.reference import decode_layers as reference
from iris_kernels.reference import head_sample
from iris_kernels.reference.decode_layers import Rows
from torch import Tensor

needs_compiler = pytest.mark.skipif(
    not iris_kernels.has_c_attention(16, torch.float32), reason="no C compiler with OpenMP"
)
HEADS = 3


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def attention_inputs(
    size: int, new: int, positions: list[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv, caches whose dead rows are not numbers, with guard rows of another problem behind, and positions."""
    qkv = (2 * torch.randn(len(positions), new, 3 * HEADS * size)).to(dtype)
    caches = (2 * torch.randn(2, len(positions), HEADS, max(positions) + new + 2, size)).to(dtype)
    for row, position in enumerate(positions):
        caches[:, row, :, position:] = float("nan")
    return qkv, caches, torch.tensor(positions, dtype=torch.int32)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [16, 64, 112])
@pytest.mark.parametrize(
    ("new", "num_context", "position", "is_block_causal"),
    [
        (1, 1, 0, False), (1, 1, 1, False), (1, 1, 16, False), (1, 1, 339, False), (2, 2, 0, False),
        (2, 2, 37, False), (2, 1, 5, True), (3, 3, 7, False), (16, 16, 0, False), (17, 17, 51, False),
        (17, 17, 51, True), (18, 18, 3, False), (33, 17, 0, False), (33, 17, 187, True), (33, 0, 9, False),
        (50, 50, 1, False),
    ],
)  # fmt: skip
def test_decode_attention(
    size: int, new: int, num_context: int, position: int, is_block_causal: bool, dtype: torch.dtype
) -> None:
    qkv, caches, at = attention_inputs(size, new, [position, 0, position, position // 2], dtype)
    exact, rows = caches.double(), Rows(num_context, new, is_block_causal)
    wanted = reference.decode_attention(qkv.double(), *exact, at, rows)
    got = c_layer.decode_attention(qkv, *caches, at, rows)
    assert got.dtype == dtype
    assert relative_error(got, wanted) < (1e-6 if dtype == torch.float32 else 5e-3)
    torch.testing.assert_close(caches.double(), exact, atol=0, rtol=0, equal_nan=True)


@needs_compiler
@torch.no_grad()
def test_decode_attention_with_scores_far_apart() -> None:
    qkv, caches, at = attention_inputs(32, 2, [40, 39], torch.float32)
    qkv *= 30
    exact, rows = caches.double(), Rows(2, 2, False)
    wanted = reference.decode_attention(qkv.double(), *exact, at, rows)
    got = c_layer.decode_attention(qkv, *caches, at, rows)
    assert relative_error(got, wanted) < 1e-4


@needs_compiler
@torch.no_grad()
def test_rows_that_do_not_fit_are_refused() -> None:
    qkv, caches, at = attention_inputs(16, 2, [3, 3], torch.float32)
    at[1] = 6
    with pytest.raises(ValueError, match="2 rows at position 6 do not fit a cache of 7 rows"):
        c_layer.decode_attention(qkv, *caches, at, Rows(2, 2, False))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "num_groups", "height", "width"),
    [(64, 32, 9, 7), (64, 64, 4, 4), (32, 8, 5, 1), (16, 4, 16, 16), (128, 32, 1, 1), (48, 12, 3, 3)],
)
def test_group_norm_silu(channels: int, num_groups: int, height: int, width: int, dtype: torch.dtype) -> None:
    """With a mean ten times the deviation, which costs digits where sums of squares are subtracted."""
    x = (10 + torch.randn(3, channels, height, width)).to(dtype)
    inputs = [x, torch.randn(channels), torch.randn(channels)]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    assert c_norm.is_available(*leaves, num_groups)
    out = iris_kernels.group_norm_silu(*leaves, num_groups)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.dtype == dtype
    grad = torch.randn(out.shape).to(dtype)  # channels first: its layout is not the kernel's
    grads = torch.autograd.grad(out, leaves, grad)
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    wanted = F.silu(F.group_norm(exact[0], num_groups, exact[1], exact[2], 1e-6))
    wanted_grads = torch.autograd.grad(wanted, exact, grad.double())
    limit = 2e-5 if dtype == torch.float32 else 5e-3
    assert relative_error(out, wanted) < limit
    if channels > num_groups or height * width > 1:  # of single numbers the gradient of x is 0
        assert relative_error(grads[0], wanted_grads[0]) < limit
    for got, truth in zip(grads[1:], wanted_grads[1:], strict=True):
        assert got.dtype == torch.float32
        assert relative_error(got, truth) < limit


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("codes", [1, 2, 3, 17, 63, 64, 65, 512, 4096])
def test_sample_tokens(codes: int, temperature: float) -> None:
    """The same draws; only where two codes are equal but for rounding may it take the other."""
    logits = 3 * torch.randn(100, codes)
    for num_games, seed, step, stream, place in (
        (1, 7, 0, 0, 0), (20, -5, 2**33 + 1, 3, 1), (100, 2**62, 2**40, 65535, 2**31 - 1)
    ):  # fmt: skip
        seeds, steps = seed + torch.arange(num_games) * 2**33, step + torch.arange(num_games)
        draws = Draws(seeds, steps, stream, place, temperature, 0, 1.0)
        assert c_sampler.is_available(logits, draws)
        tokens = iris_kernels.sample_tokens(
            logits, seeds, steps, stream, place=place, temperature=temperature
        )
        noise = head_sample.gumbel_noise(100, codes, draws)
        sums = logits / temperature + noise
        torch.testing.assert_close(sums.gather(1, tokens[:, None])[:, 0], sums.amax(1), atol=1e-5, rtol=1e-6)


@needs_compiler
@torch.no_grad()
def test_sample_tokens_where_numbers_are_missing() -> None:
    one = torch.tensor([1])
    logits = torch.full((4, 70), float("-inf"))
    logits[0] = float("nan")
    logits[1, 69] = 0.0
    logits[2, ::2] = float("nan")
    logits[2, 7] = 100.0
    tokens = iris_kernels.sample_tokens(logits, one, one)
    assert tokens[1:3].tolist() == [69, 7]
    assert ((tokens >= 0) & (tokens < 70)).all()
    assert iris_kernels.sample_tokens(logits[:0], one, one).shape == (0,)


@needs_compiler
@torch.no_grad()
def test_the_number_of_threads_changes_no_bit() -> None:
    x = torch.randn(4, 64, 8, 8)
    qkv, caches, at = attention_inputs(64, 33, [60, 2, 31], torch.float32)
    results = []
    number = torch.tensor([1])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            normed = iris_kernels.group_norm_silu(x, torch.ones(64), torch.zeros(64), 32)
            mixed = c_layer.decode_attention(qkv, *caches.clone(), at, Rows(17, 33, False))
            results.append((normed, mixed, iris_kernels.sample_tokens(x.flatten(1), number, number)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for got, wanted in zip(result, results[0], strict=True):
            assert torch.equal(got, wanted)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "new", "wanted"), [(1, 1, 1), (3, 5, 5), (2, 33, 17), (64, 2, 1)])
def test_a_packed_layer_is_the_layer(batch: int, new: int, wanted: int, dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN packs no bfloat16 on this processor")
    width, heads = 64, 4
    shapes = [(width,), (3 * width, width), (width, width), (width,), (4 * width, width), (width, 4 * width)]
    tensors = []
    for shape in shapes:
        weight = torch.randn(shape) * shape[-1] ** -0.5
        tensors += [weight if len(shape) == 1 else weight.to(dtype), torch.randn(shape[0])]
    weights = iris_kernels.LayerWeights(*tensors)
    packed = iris_kernels.pack(weights)
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert packed.packed is None
        return
    assert packed.packed is not None
    x = torch.randn(batch, new, width)
    caches = torch.randn(2, 1, batch, heads, 60, width // heads).to(dtype)
    copies = caches.clone()
    at, num_context = torch.arange(batch, dtype=torch.int32) % 20, min(new, 17)
    whole = iris_kernels.decode_layers(x, [weights], *caches, at, num_context=num_context)
    got = iris_kernels.decode_layers(x, [packed], *copies, at, num_context=num_context, num_wanted=wanted)
    limit = 1e-6 if dtype == torch.float32 else 5e-3
    assert got.dtype == torch.float32
    assert relative_error(got, whole[:, -wanted:]) < limit
    assert relative_error(copies, caches) < limit


def test_the_torch_backend_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    assert not iris_kernels.has_c_attention(16, torch.float32)
    weights = iris_kernels.LayerWeights(*[torch.zeros(8, 8)] * 12)
    assert iris_kernels.pack(weights).packed is None
    layers = [weights._replace(packed=weights)]
    assert c_layer.choose(layers, torch.zeros(1, 1, 1, 1, 16)) == (reference.PARTS, layers)


def test_sizes_without_a_kernel() -> None:
    assert not c_layer.has_kernel(24, torch.float32)
    assert not c_layer.has_kernel(144, torch.float32)
    assert not c_layer.has_kernel(64, torch.float16)
    one = torch.ones(24)
    assert not c_norm.is_available(torch.ones(1, 24, 2, 2), one, one, 2)
    number = torch.tensor([1])
    draws = Draws(number, number, 0, 0, 1.0, 0, 1.0)
    assert not c_sampler.is_available(one[None], draws._replace(temperature=0.0))
    assert not c_sampler.is_available(one[None], draws._replace(top_k=5))
    assert not c_sampler.is_available(one[None].double(), draws)


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"])
def test_without_a_compiler_everything_runs_in_pytorch(compiler: str, tmp_path) -> None:
    program = (
        "import torch, iris_kernels; from iris_kernels.cpu_kernels import library\n"
        "assert not iris_kernels.has_c_attention(16, torch.float32)\n"
        "x = torch.randn(1, 32, 2, 2)\n"
        "out = iris_kernels.group_norm_silu(x, torch.ones(32), torch.zeros(32), 16)\n"
        "one = torch.tensor([1])\n"
        "with torch.no_grad(): assert iris_kernels.sample_tokens(x[0, :, 0], one, one).shape == (32,)\n"
        "assert torch.isfinite(out).all() and library.problem()"
    )
    environment = {"CC": compiler, library.CACHE_VARIABLE: str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120, env=environment)


@needs_compiler
@pytest.mark.parametrize("name", ["decode_layers", "head_sample", "group_norm_silu"])
def test_vectors_are_as_wide_as_the_processor(name: str, tmp_path) -> None:
    """gcc takes apart, number by number, what its target has no vectors for: a factor of five."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("only gcc tells")
    source, macros = library.SOURCES / f"{name}.c", ["-DHEAD_SIZE=16", "-DELEMENT_IS_BFLOAT16=0"]
    for target in ("-march=native", *(["-mavx2", "-mavx512f"] if platform.machine() == "x86_64" else [])):
        options = [each for each in library.COMPILE if not each.startswith("-march")]
        told = subprocess.run(
            [gcc, *options, target, *macros, "-Wvector-operation-performance", str(source), "-o", str(tmp_path / "o")],
            check=True, capture_output=True, text=True, timeout=120,
        ).stderr  # fmt: skip
        assert "piecewise" not in told, (target, told[:500])


@needs_compiler
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv(library.CACHE_VARIABLE, str(blocked))
    library.load.cache_clear()
    try:
        assert library.load("group_norm_silu", ELEMENT_IS_BFLOAT16=0) is None
        assert "group_norm_silu" in library.problem()
        monkeypatch.delenv(library.CACHE_VARIABLE)
        library.load.cache_clear()
        assert library.load("group_norm_silu", ELEMENT_IS_BFLOAT16=0) is not None
    finally:
        library.load.cache_clear()
