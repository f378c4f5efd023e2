"""Tokens and reconstructions of the replay, computed once an epoch while the tokenizer is frozen.

An epoch's batches are known ahead, so exactly the frames that it will ask for are encoded, each once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from iris_wm.data.replay import Replay
from iris_wm.tokenizer.tokenizer import Tokenizer

CHUNK = 128


class TokenCache:
    """obs_tokens and, for a policy that sees frames, reconstructions, by the frame's index in the replay."""

    def __init__(self, replay: Replay, tokens_per_frame: int) -> None:
        self.replay = replay
        self.is_fresh = False
        self._obs_tokens = torch.zeros(0, tokens_per_frame, dtype=torch.int32, device=replay.device)
        self._slots = torch.zeros(0, dtype=torch.int64, device=replay.device)
        self._reconstructions = torch.zeros(0, device=replay.device)

    def invalidate(self) -> None:
        """The tokenizer has changed, or a new epoch needs other frames."""
        self.is_fresh = False

    @torch.no_grad()
    def fill(
        self, tokenizer: Tokenizer, encode: Tensor, decode: Tensor, on_progress: Callable[[int, int], None]
    ) -> None:
        """Compute an epoch's tokens and reconstructions.

        Args:
            tokenizer: frozen until invalidate.
            encode: (num_steps,) bool, frames whose tokens are needed.
            decode: (num_steps,) bool, those of them whose reconstructions are needed.
            on_progress: called with (frames done, frames in all) after each chunk; may raise to interrupt.
        """
        device = self.replay.device
        num_steps, num_decoded = self.replay.num_steps, int(decode.sum())
        self._obs_tokens = self._obs_tokens.new_zeros(num_steps, self._obs_tokens.shape[1])
        self._slots = (decode.cumsum(0) - 1).clamp_min(0).to(device)
        size = tokenizer.config.autoencoder.resolution
        self._reconstructions = torch.zeros(num_decoded, 3, size, size, device=device)
        to_do = encode.nonzero().squeeze(1)
        for start in range(0, len(to_do), CHUNK):
            chunk = to_do[start : start + CHUNK]
            obs_tokens = tokenizer.encode(self.replay.frames_at(chunk))
            self._obs_tokens[chunk.to(device)] = obs_tokens.to(torch.int32)
            wanted = (
                decode[chunk].nonzero().squeeze(1)
            )  # on the host: a mask of the device would be waited for
            if len(wanted):
                slots = self._slots[chunk[wanted].to(device)]
                self._reconstructions[slots] = tokenizer.decode(obs_tokens[wanted.to(device)])
            on_progress(min(start + CHUNK, len(to_do)), len(to_do))
        self.is_fresh = True

    def obs_tokens(self, frame_indices: Tensor) -> Tensor:
        """(...) int64 -> (..., K) int64."""
        assert self.is_fresh
        return self._obs_tokens[frame_indices].long()

    def reconstructions(self, frame_indices: Tensor) -> Tensor:
        """(...) int64 -> (..., 3, R, R) float32 in [0, 1]."""
        assert self.is_fresh
        return self._reconstructions[self._slots[frame_indices]]
