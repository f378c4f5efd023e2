"""The world model's head, a sampler without host syncs, and the next token's input, in one launch."""

from typing import Literal, overload

import torch
from torch import Tensor

from iris_kernels.backend import runs_eagerly, shape_error, use_c, use_triton
from iris_kernels.cpu_kernels import sample_tokens as c_kernel
from iris_kernels.reference import head_sample as reference

MAXIMUM_WIDTH = 512
MAXIMUM_HEAD_CODES = 1024
MAXIMUM_CUT_HEAD_CODES = 512  # with top_k or top_p, and with float32 weights
MAXIMUM_CODES = 8192
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@overload
def head_sample(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    table: Tensor,
    position_embedding: Tensor,
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int = ...,
    *,
    place: int = ...,
    temperature: float = ...,
    top_k: int = ...,
    top_p: float = ...,
    return_logits: Literal[False] = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def head_sample(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    table: Tensor,
    position_embedding: Tensor,
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int = ...,
    *,
    place: int = ...,
    temperature: float = ...,
    top_k: int = ...,
    top_p: float = ...,
    return_logits: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...
def head_sample(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    table: Tensor,
    position_embedding: Tensor,
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int = 0,
    *,
    place: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    return_logits: bool = False,
) -> tuple[Tensor, ...]:
    """Final LN, Linear, ReLU, Linear, a sampled token, and that token's embedding at its position.

    `logits = relu(layer_norm(x) w1^T + b1) w2^T + b2`; the token is drawn from softmax(logits / temperature),
    cut to the top k and then to the nucleus p, by the Gumbel-max trick with Philox noise; see `sample_tokens`.
    `next_x = table[token] + position_embedding[position]`.

    Args:
        x: (G, M, C) float32, the residual stream at the rows that predict, one of each of M games.
        ln_weight, ln_bias: (G, C).
        w1: (G, H, C) float32, float16 or bfloat16; b1: (G, H).
        w2: (G, V, H) in w1's dtype; b2: (G, V).
        table: (G, V, C), the embedding of the codes.
        position_embedding: (G, P, C).
        position: (M,) int32: the position of the token being drawn; past P - 1 the last row is used.
        seed, step, stream, place: as in `sample_tokens`, with one row a game.
        temperature: 0 takes the likeliest code.
        top_k: 0 keeps all. Codes as likely as the k-th are kept too.
        top_p: 1.0 keeps all.
        return_logits: also return the logits.

    Returns:
        tokens (G, M) int64, next_x (G, M, C) float32 and, where asked for, logits (G, M, V) float32 before
        temperature and cuts. No gradient.

    Raises:
        ValueError: a shape, dtype or option outside the above.
    """
    if x.ndim != 3 or x.dtype != torch.float32:
        raise shape_error("head_sample", "x", x, "(G, M, C) float32")
    groups, rows, width = x.shape
    if seed.shape != (rows,):
        raise shape_error("head_sample", "seed", seed, f"({rows},) int64 on {x.device}")
    _check_sampling("head_sample", x, seed, step, stream, place, temperature, top_k, top_p)
    hidden, codes, positions = (
        tensor.shape[1] if tensor.ndim == 3 else -1 for tensor in (w1, w2, position_embedding)
    )
    expected = {
        "ln_weight": (ln_weight, (groups, width)),
        "ln_bias": (ln_bias, (groups, width)),
        "w1": (w1, (groups, hidden, width)),
        "b1": (b1, (groups, hidden)),
        "w2": (w2, (groups, codes, hidden)),
        "b2": (b2, (groups, codes)),
        "table": (table, (groups, codes, width)),
        "position_embedding": (position_embedding, (groups, positions, width)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape or not tensor.is_floating_point():
            raise shape_error("head_sample", name, tensor, f"{shape} of a floating dtype")
    if w2.dtype != w1.dtype:
        raise shape_error("head_sample", "w2", w2, f"w1's dtype {w1.dtype}")
    if position.shape != (rows,) or position.dtype != torch.int32 or position.device != x.device:
        raise shape_error("head_sample", "position", position, f"({rows},) int32 on {x.device}")
    run = _head_sample
    if (
        not torch.is_grad_enabled()
        and runs_eagerly(x)
        and not use_triton("head_sample", x.device, _head_problem(x, w1, w2, top_k, top_p))
    ):
        run = reference.head_sample  # type: ignore[assignment]
    tokens, next_x, logits = run(
        x, ln_weight, ln_bias, w1, b1, w2, b2, table, position_embedding, position, seed, step,
        stream, place, float(temperature), top_k, float(top_p),
    )  # fmt: skip
    return (tokens, next_x, logits) if return_logits else (tokens, next_x)


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

    What a row draws depends on its logits and on (seed, step, stream, place) alone, not on the other games.

    Args:
        logits: (M, V) of a floating dtype.
        seed: (B,) int64 on the logits' device, of each game.
        step: (B,) int64, how far each game is; 48 bits of it count.
        stream: 0 to 65535. Draws of different things at one step need different streams, or they share their noise.
        place: of a game's first row, 0 to 2**31 - 1; its other rows have the next ones. Several draws of one thing at
            one step need different places.
        temperature, top_k, top_p: as in `head_sample`.

    Returns:
        (M,) int64. No gradient.

    Raises:
        ValueError: a shape, dtype or option outside the above.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise shape_error("sample_tokens", "logits", logits, "(M, V) of a floating dtype")
    if seed.ndim != 1 or not len(seed) or len(logits) % len(seed):
        raise shape_error("sample_tokens", "seed", seed, f"(B,) int64, B a divisor of {len(logits)} rows")
    _check_sampling("sample_tokens", logits, seed, step, stream, place, temperature, top_k, top_p)
    run = _sample_tokens
    if (
        not torch.is_grad_enabled()
        and runs_eagerly(logits)
        and not use_triton("sample_tokens", logits.device, _sample_problem(logits))
    ):
        if use_c(logits.device) and c_kernel.is_available(logits, temperature, top_k, top_p):
            return c_kernel.launch(logits, seed, step, stream, place, temperature)
        run = reference.sample_tokens  # type: ignore[assignment]
    return run(logits, seed, step, stream, place, float(temperature), top_k, float(top_p))


def _check_sampling(
    op: str,
    x: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    for name, tensor in (("seed", seed), ("step", step)):
        if tensor.shape != seed.shape or tensor.dtype != torch.int64 or tensor.device != x.device:
            raise shape_error(op, name, tensor, f"{tuple(seed.shape)} int64 on {x.device}")
    if not 0 <= stream < 2**16:
        raise ValueError(f"{op}: stream is {stream}, expected 0 to 65535")
    if not 0 <= place < 2**31:
        raise ValueError(f"{op}: place is {place}, expected 0 to 2**31 - 1")
    if not temperature >= 0.0:
        raise ValueError(f"{op}: temperature is {temperature}, expected a number >= 0")
    if top_k < 0:
        raise ValueError(f"{op}: top_k is {top_k}, expected >= 0 (0 keeps all)")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"{op}: top_p is {top_p}, expected a number in (0, 1]")


def _sample_problem(logits: Tensor) -> str | None:
    if logits.dtype not in WEIGHT_DTYPES:
        return f"sample_tokens takes float32, float16 or bfloat16, got {logits.dtype}"
    if logits.shape[-1] > MAXIMUM_CODES:
        return f"sample_tokens takes up to {MAXIMUM_CODES} codes, got {logits.shape[-1]}"
    return None


def _head_problem(x: Tensor, w1: Tensor, w2: Tensor, top_k: int, top_p: float) -> str | None:
    if w1.dtype not in WEIGHT_DTYPES:
        return f"head_sample takes weights of float32, float16 or bfloat16, got {w1.dtype}"
    is_cut = top_k > 0 or top_p < 1.0
    is_small = is_cut or w1.dtype == torch.float32
    maximum = MAXIMUM_CUT_HEAD_CODES if is_small else MAXIMUM_HEAD_CODES
    if x.shape[2] > MAXIMUM_WIDTH or w2.shape[1] > maximum:
        return (
            f"head_sample takes C <= {MAXIMUM_WIDTH} and V <= {maximum} for {w1.dtype}"
            f"{' with top_k or top_p' if is_cut else ''}, got C={x.shape[2]}, V={w2.shape[1]}"
        )
    return None


@torch.library.custom_op("iris_kernels::head_sample", mutates_args=())
def _head_sample(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    table: Tensor,
    position_embedding: Tensor,
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if use_triton("head_sample", x.device, _head_problem(x, w1, w2, top_k, top_p)):
        from iris_kernels.triton_kernels import head_sample as kernels

        return kernels.launch_head_sample(
            x, ln_weight, ln_bias, w1, b1, w2, b2, table, position_embedding, position, seed, step,
            stream, place, temperature, top_k, top_p, *_new_outputs(x, w2),
        )  # fmt: skip
    return reference.head_sample(
        x, ln_weight, ln_bias, w1, b1, w2, b2, table, position_embedding, position, seed, step,
        stream, place, temperature, top_k, top_p,
    )  # fmt: skip


def _new_outputs(x: Tensor, w2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    groups, rows, width = x.shape
    tokens = x.new_empty(groups, rows, dtype=torch.int64)
    return tokens, x.new_empty(groups, rows, width), x.new_empty(groups, rows, w2.shape[1])


@_head_sample.register_fake
def _(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    table: Tensor,
    position_embedding: Tensor,
    position: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _new_outputs(x, w2)


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
    if use_triton("sample_tokens", logits.device, _sample_problem(logits)):
        from iris_kernels.triton_kernels import head_sample as kernels

        out = logits.new_empty(logits.shape[0], dtype=torch.int64)
        return kernels.launch_sample_tokens(logits, seed, step, stream, place, temperature, top_k, top_p, out)
    return reference.sample_tokens(logits, seed, step, stream, place, temperature, top_k, top_p)


@_sample_tokens.register_fake
def _(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)
