"""Philox 4x32-10, the counter-based generator of every kernel, in plain PyTorch.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). The same key and
counter give the same bits here and in Triton's `tl.philox`, on any device and for any tiling.
"""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW_32 = 0xFFFFFFFF


def philox_4x32(
    seed: Tensor, counters: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int]
) -> Tensor:
    """Four 32-bit words for each counter.

    Args:
        seed: int64; its low and high halves are the 64-bit key.
        counters: four words, each an int or an int64 tensor in [0, 2**32). All five broadcast together.

    Returns:
        (*broadcast, 4) int64 with values in [0, 2**32).
    """
    device = seed.device
    words = [torch.as_tensor(word, dtype=torch.int64, device=device) for word in counters]
    shape = torch.broadcast_shapes(seed.shape, *(word.shape for word in words))
    # The halves that get multiplied, (c0, c2), share one buffer and the other two share another. A round
    # exchanges c0 and c2: the words stay in their rows and the constants change places instead.
    high = torch.stack([words[0].expand(shape), words[2].expand(shape)])
    low = torch.stack([words[1].expand(shape), words[3].expand(shape)])
    product = torch.empty_like(high)
    key = seed.view((1,) * (len(shape) - seed.ndim) + seed.shape)
    key_halves = (key & _LOW_32, (key >> 32) & _LOW_32)
    rounds = torch.arange(_ROUNDS, device=device).view(-1, *(1,) * key.ndim)
    keys = torch.stack([(key_halves[half] + rounds * _KEY_STEPS[half]) & _LOW_32 for half in (1, 0)], dim=1)
    keys[1::2] = keys[1::2].flip(1)
    high_rows, low_rows, product_rows = high.unbind(), low.unbind(), product.unbind()
    for round_index, round_key in enumerate(keys.unbind()):
        first, second = _MULTIPLIERS if round_index % 2 == 0 else _MULTIPLIERS[::-1]
        torch.mul(high_rows[0], first, out=product_rows[0])
        torch.mul(high_rows[1], second, out=product_rows[1])
        torch.bitwise_right_shift(product, 32, out=high)
        # At even rounds row 0 becomes c2 and takes in c3; at odd ones it becomes c0 and takes in c1. Either
        # word is in the other row of `low`.
        high_rows[0].bitwise_xor_(low_rows[1])
        high_rows[1].bitwise_xor_(low_rows[0])
        high.bitwise_xor_(round_key)
        high.bitwise_and_(_LOW_32)
        low, product, low_rows, product_rows = product, low, product_rows, low_rows
    low.bitwise_and_(_LOW_32)
    return torch.stack([high[0], low[0], high[1], low[1]], dim=-1)
