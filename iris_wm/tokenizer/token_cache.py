"""Tokens and reconstructions of real frames, computed once an epoch while the tokenizer is frozen.

An epoch's batches are known ahead, so exactly the frames that its readers will ask for are encoded, each once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from iris_wm.data.replay import Batches
from iris_wm.protocols import Learner, Source
from iris_wm.tokenizer.patches import AnyTokenizer

CHUNK = 128


class TokenCache:
    """obs_tokens and, for a policy that sees frames, reconstructions, by the frame's index in the source.

    on_progress: called with (frames done, frames in all) after each chunk; may raise to interrupt.
    """

    def __init__(
        self, tokenizer: AnyTokenizer, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.tokenizer, self.on_progress = tokenizer, on_progress
        self.is_fresh = False
        self._epoch = 0
        self._readers: list[tuple[Learner, bool]] = []
        self._obs_tokens = self._slots = self._reconstructions = torch.zeros(0)

    def add_reader(self, learner: Learner, reads_frames: bool = False) -> None:
        """From now on the cache holds what this learner's batches need, reconstructions too where it says so."""
        self._readers.append((learner, reads_frames))

    def invalidate(self) -> None:
        """The tokenizer changes."""
        self.is_fresh = False

    def prepare(self, batches: Batches, epoch: int) -> None:
        """Compute what the readers need in an epoch, unless that is done; the tokenizer is frozen until invalidate."""
        if self.is_fresh and self._epoch == epoch:
            return
        needed = [(batches.frames_needed(learner, epoch), frames) for learner, frames in self._readers]
        encode = torch.stack([each for each, _ in needed]).any(0)
        decode = torch.stack([each & frames for each, frames in needed]).any(0)
        self.fill(batches.source, encode, decode)
        self._epoch = epoch

    @torch.no_grad()
    def fill(self, source: Source, encode: Tensor, decode: Tensor) -> None:
        """Compute tokens and reconstructions.

        Args:
            source: of the frames.
            encode: (num_steps,) bool, frames whose tokens are needed.
            decode: (num_steps,) bool, those of them whose reconstructions are needed.
        """
        self.is_fresh = False
        device, num_decoded = self.tokenizer.quantizer.codebook.device, int(decode.sum())
        size = self.tokenizer.config.resolution
        shape = source.num_steps, self.tokenizer.tokens_per_frame
        self._obs_tokens = torch.zeros(shape, dtype=torch.int32, device=device)
        self._slots = (decode.cumsum(0) - 1).clamp_min(0).to(device)
        self._reconstructions = torch.zeros(num_decoded, 3, size, size, device=device)
        to_do = encode.nonzero().squeeze(1)
        for start in range(0, len(to_do), CHUNK):
            chunk = to_do[start : start + CHUNK]
            frames = source.gather(chunk[None], torch.ones(1, len(chunk), dtype=torch.bool)).frames[0]
            obs_tokens = self.tokenizer.encode(frames)
            self._obs_tokens[chunk.to(device)] = obs_tokens.to(torch.int32)
            # On the host: a mask of the device would be waited for.
            wanted = decode[chunk].nonzero().squeeze(1)
            if len(wanted):
                slots = self._slots[chunk[wanted].to(device)]
                self._reconstructions[slots] = self.tokenizer.decode(obs_tokens[wanted.to(device)])
            self.on_progress(min(start + CHUNK, len(to_do)), len(to_do))
        self.is_fresh = True

    def obs_tokens(self, frame_indices: Tensor) -> Tensor:
        """(...) int64 -> (..., K) int64."""
        assert self.is_fresh
        return self._obs_tokens[frame_indices].long()

    def reconstructions(self, frame_indices: Tensor) -> Tensor:
        """(...) int64 -> (..., 3, R, R) float32 in [0, 1]."""
        assert self.is_fresh
        return self._reconstructions[self._slots[frame_indices]]
