"""The head of the world model and its sampler in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.philox import philox_4x32
from iris_kernels.reference.decode_chain import LN_EPS


def gumbel_noise(
    num_rows: int, num_codes: int, seed: Tensor, step: Tensor, stream: int = 0, place: int = 0
) -> Tensor:
    """(num_rows, num_codes) float32 Gumbel noise of B games, each with num_rows / B rows.

    With seed and step of its game, code c of a game's row r takes word c % 4 of the counter (c // 4, place + r,
    low half of step, stream * 2**16 + bits 32 to 47 of step); its upper 23 bits, plus one half, are a uniform number
    in (0, 1).
    """
    device = seed.device
    seed, step = seed[:, None, None], step[:, None, None]
    codes = torch.arange((num_codes + 3) // 4, device=device)
    places = place + torch.arange(num_rows // len(seed), device=device)[:, None]
    words = philox_4x32(seed, (codes, places, step & 0xFFFFFFFF, (step >> 32 & 0xFFFF) + (stream << 16)))
    uniform = (words.flatten(0, 1).flatten(1)[:, :num_codes] >> 9).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def filter_logits(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets all but the likeliest codes to -inf: first the top k, then the nucleus of probability `top_p`.

    Codes as likely as the last one kept are kept too, so that the result does not depend on an order.
    """
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p < 1.0:
        ordered = logits.sort(dim=-1, descending=True).values
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        last = (before < top_p).sum(dim=-1, keepdim=True).clamp_min(1) - 1
        logits = logits.masked_fill(logits < ordered.gather(-1, last), float("-inf"))
    return logits


def sample_tokens(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Tensor:
    """See `iris_kernels.sample_tokens`."""
    logits = logits.float()
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    if temperature != 1.0:
        logits = logits * (1.0 / temperature)
    if top_k > 0 or top_p < 1.0:
        logits = filter_logits(logits, top_k, top_p)
    num_rows, num_codes = logits.shape
    return (logits + gumbel_noise(num_rows, num_codes, seed, step, stream, place)).argmax(dim=-1)


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
    stream: int,
    place: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, next_x, logits): see `iris_kernels.head_sample`."""
    groups, _, width = x.shape
    all_logits = []
    normed = F.layer_norm(x, (width,), eps=LN_EPS) * ln_weight[:, None] + ln_bias[:, None]
    for group in range(groups):
        hidden = F.linear(normed[group].to(w1.dtype), w1[group], b1[group].to(w1.dtype)).relu()
        all_logits.append(F.linear(hidden, w2[group], b2[group].to(w2.dtype)).float())
    logits = torch.stack(all_logits)
    drawn = (sample_tokens(group, seed, step, stream, place, temperature, top_k, top_p) for group in logits)
    tokens = torch.stack(list(drawn))
    last = position_embedding.shape[1] - 1
    at_position = position_embedding.index_select(1, position.to(torch.int64).clamp(0, last)).float()
    chosen = tokens[:, :, None].expand(-1, -1, width)
    next_x = table.gather(1, chosen).float() + at_position
    return tokens, next_x, logits
