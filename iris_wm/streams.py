"""Counter-based randomness: every random draw belongs to a stream named (seed, name, step).

Nothing here holds state, so resuming a run needs no generator state: the step alone brings the stream back.
"""

import hashlib

import torch


def stream_seed(seed: int, name: str, step: int = 0) -> int:
    """A 63-bit seed for the stream (seed, name, step); equal arguments give equal seeds on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream_generator(
    seed: int, name: str, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator at the start of the stream (seed, name, step)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name, step))
