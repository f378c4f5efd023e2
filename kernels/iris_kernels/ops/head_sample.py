"""The world model's head, a sampler without host syncs, and the next token's input, in one launch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from iris_kernels.arguments import Draws, HeadWeights
from iris_kernels.backend import runs_directly, shape_error, use_c, use_triton
from iris_kernels.cpu_kernels import head_sample as c_kernel
from iris_kernels.reference import head_sample as reference

MAXIMUM_WIDTH = 512
MAXIMUM_HEAD_CODES = 1024
MAXIMUM_CUT_HEAD_CODES = 512  # with top_k or top_p, and with float32 weights
MAXIMUM_CODES = 8192
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def head_sample(
    x: Tensor,
    weights: HeadWeights,
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int = 0,
    *,
    place: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Final LN, Linear, ReLU, Linear, a sampled token, and that token's embedding at its position.

    `logits = fc_2(relu(fc_1(ln(x))))`; the token is drawn as by `sample_tokens`, with one row a game;
    `next_x = token_embedding[token] + position_embedding[position]`.

    Args:
        x: (B, C) float32, the residual stream at the rows that predict.
        weights: the linear layers of one dtype: float32, float16 or bfloat16.
        position: (B,) int32: the position of the token being drawn; past P - 1 the last row is used.
        seed, step, stream, place, temperature, top_k, top_p: as in `sample_tokens`.

    Returns:
        tokens (B,) int64, next_x (B, C) float32 and logits (B, V) float32 before temperature and cuts. No gradient.

    Raises:
        ValueError: a shape, dtype or option outside the above.
    """
    if x.ndim != 2 or x.dtype != torch.float32:
        raise shape_error("head_sample", "x", x, "(B, C) float32")
    draws = Draws(seed, step, stream, place, float(temperature), top_k, float(top_p))
    _check_head(x, weights, position)
    _check_draws("head_sample", x, draws)
    if len(seed) != len(x):
        raise shape_error("head_sample", "seed", seed, f"({len(x)},) int64 on {x.device}")
    if runs_directly("head_sample", x, _head_problem(x, weights, draws)):
        return reference.head_sample(x, weights, position, draws)
    return _head_sample(x, list(weights), position, *draws)


def sample_tokens(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int = 0,
    *,
    place: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """Draws a code a row of B games, each with R of the M = B * R rows one after the other.

    The code is drawn from softmax(logits / temperature), cut to the top k and then to the nucleus p, by the Gumbel-max
    trick with noise of Philox. What a row draws depends on its logits and on (seed, step, stream, place) alone, not on
    the other games.

    Args:
        logits: (M, V) of a floating dtype.
        seed: (B,) int64 on the logits' device, of each game.
        step: (B,) int64, how far each game is; 48 bits of it count.
        stream: 0 to 65535. Draws of different things at one step need different streams, or they share their noise.
        place: of a game's first row, 0 to 2**31 - 1; its other rows have the next ones. Several draws of one thing at
            one step need different places.
        temperature: 0 takes the likeliest code.
        top_k: 0 keeps all. Codes as likely as the k-th are kept too.
        top_p: 1.0 keeps all.

    Returns:
        (M,) int64. No gradient.

    Raises:
        ValueError: a shape, dtype or option outside the above.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise shape_error("sample_tokens", "logits", logits, "(M, V) of a floating dtype")
    draws = Draws(seed, step, stream, place, float(temperature), top_k, float(top_p))
    _check_draws("sample_tokens", logits, draws)
    if runs_directly("sample_tokens", logits, _sample_problem(logits)):
        if use_c(logits.device) and c_kernel.is_available(logits, draws):
            return c_kernel.sample_tokens(logits, draws)
        return reference.sample_tokens(logits, draws)
    return _sample_tokens(logits, *draws)


def _check_draws(op: str, x: Tensor, draws: Draws) -> None:
    seed, num_rows = draws.seed, len(x)
    if seed.ndim != 1 or not len(seed) or num_rows % len(seed):
        raise shape_error(op, "seed", seed, f"(B,) int64, B a divisor of {num_rows} rows")
    for name, tensor in (("seed", seed), ("step", draws.step)):
        if tensor.shape != seed.shape or tensor.dtype != torch.int64 or tensor.device != x.device:
            raise shape_error(op, name, tensor, f"{tuple(seed.shape)} int64 on {x.device}")
    if not 0 <= draws.stream < 2**16:
        raise ValueError(f"{op}: stream is {draws.stream}, expected 0 to 65535")
    if not 0 <= draws.place < 2**31:
        raise ValueError(f"{op}: place is {draws.place}, expected 0 to 2**31 - 1")
    if not draws.temperature >= 0.0:
        raise ValueError(f"{op}: temperature is {draws.temperature}, expected a number >= 0")
    if draws.top_k < 0:
        raise ValueError(f"{op}: top_k is {draws.top_k}, expected >= 0 (0 keeps all)")
    if not 0.0 < draws.top_p <= 1.0:
        raise ValueError(f"{op}: top_p is {draws.top_p}, expected a number in (0, 1]")


def _check_head(x: Tensor, weights: HeadWeights, position: Tensor) -> None:
    num_rows, width = x.shape
    hidden, codes, positions = (
        len(tensor) for tensor in (weights.fc_1_bias, weights.fc_2_bias, weights.position_embedding)
    )
    shapes = HeadWeights._make(
        (
            (width,),
            (width,),
            (hidden, width),
            (hidden,),
            (codes, hidden),
            (codes,),
            (codes, width),
            (positions, width),
        )
    )
    for name, tensor, shape in zip(HeadWeights._fields, weights, shapes, strict=True):
        if tensor.shape != shape or not tensor.is_floating_point():
            raise shape_error("head_sample", name, tensor, f"{shape} of a floating dtype")
    if weights.fc_2_weight.dtype != weights.fc_1_weight.dtype:
        expected = f"fc_1_weight's dtype {weights.fc_1_weight.dtype}"
        raise shape_error("head_sample", "fc_2_weight", weights.fc_2_weight, expected)
    if position.shape != (num_rows,) or position.dtype != torch.int32 or position.device != x.device:
        raise shape_error("head_sample", "position", position, f"({num_rows},) int32 on {x.device}")


def _sample_problem(logits: Tensor) -> str | None:
    if logits.dtype not in DTYPES:
        return f"sample_tokens takes float32, float16 or bfloat16, got {logits.dtype}"
    if logits.shape[-1] > MAXIMUM_CODES:
        return f"sample_tokens takes up to {MAXIMUM_CODES} codes, got {logits.shape[-1]}"
    return None


def _head_problem(x: Tensor, weights: HeadWeights, draws: Draws) -> str | None:
    dtype, width, codes = weights.fc_1_weight.dtype, x.shape[1], len(weights.fc_2_bias)
    if dtype not in DTYPES:
        return f"head_sample takes weights of float32, float16 or bfloat16, got {dtype}"
    is_cut = draws.top_k > 0 or draws.top_p < 1.0
    maximum = MAXIMUM_CUT_HEAD_CODES if is_cut or dtype == torch.float32 else MAXIMUM_HEAD_CODES
    if width > MAXIMUM_WIDTH or codes > maximum:
        return (
            f"head_sample takes C <= {MAXIMUM_WIDTH} and V <= {maximum} for {dtype}"
            f"{' with top_k or top_p' if is_cut else ''}, got C={width}, V={codes}"
        )
    return None


@torch.library.custom_op("iris_kernels::head_sample", mutates_args=())
def _head_sample(
    x: Tensor,
    weights: Sequence[Tensor],
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    head, draws = HeadWeights(*weights), Draws(seed, step, stream, place, temperature, top_k, top_p)
    if use_triton("head_sample", x.device, _head_problem(x, head, draws)):
        from iris_kernels.triton_kernels import head_sample as kernels

        return kernels.launch_head_sample(x, head, position, draws, *_new_outputs(x, weights))
    return reference.head_sample(x, head, position, draws)


@_head_sample.register_fake
def _new_outputs(x: Tensor, weights: Sequence[Tensor], *_: object) -> tuple[Tensor, Tensor, Tensor]:
    codes = HeadWeights(*weights).fc_2_bias.shape[0]
    tokens = x.new_empty(x.shape[0], dtype=torch.int64)
    return tokens, x.new_empty(x.shape), x.new_empty(x.shape[0], codes)


@torch.library.custom_op("iris_kernels::sample_tokens", mutates_args=())
def _sample_tokens(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Tensor:
    draws = Draws(seed, step, stream, place, temperature, top_k, top_p)
    if use_triton("sample_tokens", logits.device, _sample_problem(logits)):
        from iris_kernels.triton_kernels import head_sample as kernels

        return kernels.launch_sample_tokens(logits, draws, _new_tokens(logits))
    return reference.sample_tokens(logits, draws)


@_sample_tokens.register_fake
def _new_tokens(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)
