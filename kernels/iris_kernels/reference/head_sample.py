"""The head of the world model and its sampler in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.arguments import LN_EPS, Draws, HeadWeights
from iris_kernels.philox import philox_4x32


def gumbel_noise(num_rows: int, num_codes: int, draws: Draws) -> Tensor:
    """(num_rows, num_codes) float32 Gumbel noise of B games, each with num_rows / B rows.

    With seed and step of its game, code c of a game's row r takes word c % 4 of the counter (c // 4, place + r,
    low half of step, stream * 2**16 + bits 32 to 47 of step); its upper 23 bits, plus one half, are a uniform number
    in (0, 1).
    """
    seed, step = draws.seed[:, None, None], draws.step[:, None, None]
    device = seed.device
    codes = torch.arange((num_codes + 3) // 4, device=device)
    places = draws.place + torch.arange(num_rows // len(seed), device=device)[:, None]
    high = (step >> 32 & 0xFFFF) + (draws.stream << 16)
    words = philox_4x32(seed, (codes, places, step & 0xFFFFFFFF, high))
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


def sample_tokens(logits: Tensor, draws: Draws) -> Tensor:
    """See `iris_kernels.sample_tokens`."""
    logits = logits.float()
    if draws.temperature == 0.0:
        return logits.argmax(dim=-1)
    if draws.temperature != 1.0:
        logits = logits * (1.0 / draws.temperature)
    if draws.top_k > 0 or draws.top_p < 1.0:
        logits = filter_logits(logits, draws.top_k, draws.top_p)
    num_rows, num_codes = logits.shape
    return (logits + gumbel_noise(num_rows, num_codes, draws)).argmax(dim=-1)


def head_sample(
    x: Tensor, weights: HeadWeights, position: Tensor, draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, next_x, logits): see `iris_kernels.head_sample`."""
    w, dtype = weights, weights.fc_1_weight.dtype
    normed = F.layer_norm(x, x.shape[-1:], w.ln_weight.to(x.dtype), w.ln_bias.to(x.dtype), LN_EPS).to(dtype)
    hidden = F.linear(normed, w.fc_1_weight, w.fc_1_bias.to(dtype)).relu()
    logits = F.linear(hidden, w.fc_2_weight, w.fc_2_bias.to(dtype)).float()
    tokens = sample_tokens(logits, draws)
    places = position.to(torch.int64).clamp(0, len(w.position_embedding) - 1)
    return tokens, w.token_embedding[tokens].float() + w.position_embedding[places].float(), logits
