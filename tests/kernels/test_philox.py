"""The generator against the published known answers."""

import pytest
import torch
from iris_kernels.philox import philox_4x32


def signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


# "kat_vectors" of Random123, philox4x32 with 10 rounds: key, counter, result.
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(key: tuple[int, int], counter: tuple, expected: tuple[int, ...]) -> None:
    seed = torch.tensor(signed(key[1] << 32 | key[0]))
    assert tuple(philox_4x32(seed, counter).tolist()) == expected


def test_counters_broadcast_and_stand_alone() -> None:
    seed = torch.tensor(5)
    rows, columns = torch.arange(3)[:, None], torch.arange(7)
    together = philox_4x32(seed, (columns, rows, torch.tensor(9), 2))
    assert together.shape == (3, 7, 4)
    assert torch.equal(together[2, 4], philox_4x32(seed, (4, 2, 9, 2)))
    assert together.min() >= 0
    assert together.max() < 2**32


def test_each_row_may_have_its_own_seed() -> None:
    seeds = torch.tensor([5, -7, 2**62])
    together = philox_4x32(seeds[:, None], (torch.arange(6), 1, 2, 3))
    for row, seed in zip(together, seeds, strict=True):
        assert torch.equal(row, philox_4x32(seed, (torch.arange(6), 1, 2, 3)))
