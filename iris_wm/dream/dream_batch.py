"""B dreams stepped together: where they may start, what the world model sees of their past, and new starts.

All rows of a TokenEnv share one place in the context. A row that starts again therefore starts for all: the
context of every row is filled again from that row's own last steps, as many as every row has. Nothing is padded,
no row ever sees another's steps, and what a row sees is always a whole number of its own last steps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_wm.dream.token_env import SamplingConfig, TokenEnv, max_past
from iris_wm.spaces import ActionSpace
from iris_wm.tokenizer.tokenizer import to_uint8


@dataclass(frozen=True)
class DreamStarts:
    """N real frames to dream from, each with the P real steps before it.

    frames: (N, C, H, W) uint8. past_frames: (N, P, C, H, W) uint8, oldest first. past_actions: (N, P, n) int64, the
    action taken in each past frame; the last one led to the start. P may be 0.
    """

    frames: Tensor
    past_frames: Tensor
    past_actions: Tensor

    @staticmethod
    def of(frames: Any, num_axes: int = 1) -> "DreamStarts":
        """Starts without a past, from (N, C, H, W) uint8 frames (a tensor or an array)."""
        tensor = torch.as_tensor(frames)
        empty = tensor.new_zeros((len(tensor), 0, *tensor.shape[1:])) if tensor.dim() else tensor
        return DreamStarts(tensor, empty, torch.zeros(*empty.shape[:2], num_axes, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.frames)

    def check(self, size: int, actions: ActionSpace) -> "DreamStarts":
        """Themselves; ValueError unless there is one and all fits frames (3, size, size) and the actions."""
        if (
            self.frames.dim() != 4
            or self.frames.shape[1:] != (3, size, size)
            or self.frames.dtype != torch.uint8
        ):
            raise ValueError(
                f"first_frames: expected uint8 (N, 3, {size}, {size}), got {_describe(self.frames)}"
            )
        if not len(self.frames):
            raise ValueError("first_frames: expected at least one frame to dream from, got none")
        num_past = self.past_frames.shape[1]
        if (
            self.past_frames.shape != (len(self), num_past, 3, size, size)
            or self.past_frames.dtype != torch.uint8
        ):
            raise ValueError(
                f"past_frames: expected uint8 ({len(self)}, {num_past}, 3, {size}, {size}), "
                f"got {_describe(self.past_frames)}"
            )
        past_actions = actions.check(self.past_actions, "past_actions", (len(self), num_past))
        return DreamStarts(self.frames, self.past_frames, past_actions)


@dataclass(frozen=True)
class DreamStep:
    """What B actions brought, on the CPU.

    frames: (B, H, W, C) uint8. obs_tokens: (B, K) int64. rewards: (B,) float64. terminations: (B,) bool.
    token_entropy: (B, K) float32, nats, of the distributions before temperature and top-k.
    reward_probabilities: (B, 3) float32 for -1, 0, 1. termination_probability: (B,) float32.
    """

    frames: np.ndarray
    obs_tokens: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    token_entropy: np.ndarray
    reward_probabilities: np.ndarray
    termination_probability: np.ndarray


class DreamBatch:
    """B dreams of an agent; says nothing about when an episode is over.

    agent: has tokenizer, world and actions. num_kept_steps: past steps that stay in the context when it
    is full; None: half of what fits.
    """

    def __init__(
        self, agent: Any, num_dreams: int, sampling: SamplingConfig, num_kept_steps: int | None = None
    ) -> None:
        for name in ("tokenizer", "world"):
            if getattr(agent, name, None) is None:
                raise ValueError(f"agent: it has no {name.replace('_', ' ')}, so it cannot dream")
        self.agent = agent
        self._env = TokenEnv(agent.world, num_dreams, sampling)
        layout = self._env.layout
        self.max_past_steps = max_past(agent.world.config)
        if num_kept_steps is None:
            num_kept_steps = 0 if sampling.context_overflow == "restart" else self.max_past_steps // 2
        if isinstance(num_kept_steps, bool) or not 0 <= num_kept_steps <= self.max_past_steps:
            raise ValueError(
                f"num_kept_steps: got {num_kept_steps}, expected 0 to {self.max_past_steps} (the world model's "
                f"context is {layout.context_steps} steps)"
            )
        self.num_kept_steps = num_kept_steps
        device = self._env.device
        self._tokens = torch.zeros(num_dreams, layout.tokens_per_frame, dtype=torch.int64, device=device)
        self._past_tokens = torch.zeros(
            num_dreams, self.max_past_steps, layout.tokens_per_frame, dtype=torch.int64, device=device
        )
        num_axes = agent.actions.num_axes
        self._past_actions = torch.zeros(
            num_dreams, self.max_past_steps, num_axes, dtype=torch.int64, device=device
        )
        self._num_past = np.zeros(num_dreams, dtype=np.int64)
        self._num_seen = 0
        self._is_stale = True
        self._seed, self._num_fills = 0, 0

    @property
    def sampling(self) -> SamplingConfig:
        """How next frames are drawn; may be replaced between steps."""
        return self._env.sampling

    @sampling.setter
    def sampling(self, sampling: SamplingConfig) -> None:
        self._env.sampling = sampling

    @property
    def num_seen_steps(self) -> int:
        """Past steps in the context at the last step, equal for all rows."""
        return self._num_seen

    @torch.no_grad()
    def encode(self, starts: DreamStarts) -> tuple[Tensor, Tensor]:
        """Tokens of N starts: (N, K) and of their past: (N, P, K), at most max_past_steps of it."""
        past = starts.past_frames[:, starts.past_frames.shape[1] - self._num_kept(starts) :]
        device = self._env.device
        tokens = self.agent.tokenizer.encode(starts.frames.to(device))
        if not past.shape[1]:
            return tokens, tokens.new_zeros(len(tokens), 0, tokens.shape[1])
        return tokens, self.agent.tokenizer.encode(past.to(device))

    def restart(self, rows: np.ndarray, tokens: Tensor, past_tokens: Tensor, past_actions: Tensor) -> None:
        """Let rows (n,) int64 start again from tokens (n, K) with the past (n, P, K), (n, P, axes)."""
        num = past_tokens.shape[1]
        index = torch.from_numpy(rows).to(self._env.device)
        self._tokens[index] = tokens
        if num:
            self._past_tokens[index, self.max_past_steps - num :] = past_tokens
            kept_actions = past_actions[:, past_actions.shape[1] - num :].to(self._env.device)
            self._past_actions[index, self.max_past_steps - num :] = kept_actions
        self._num_past[rows] = num
        self._is_stale = True

    def seed(self, seed: int) -> None:
        """All later draws depend on this and on what is called."""
        self._seed, self._num_fills, self._is_stale = seed, 0, True

    @torch.no_grad()
    def frames(self) -> np.ndarray:
        """The current frames as the world model knows them: reconstructions or dreams. (B, H, W, C) uint8."""
        frames = to_uint8(self.agent.tokenizer.decode(self._tokens))
        return np.ascontiguousarray(frames.permute(0, 2, 3, 1).cpu().numpy())

    @property
    def obs_tokens(self) -> np.ndarray:
        """Tokens of the current frames, (B, K) int64."""
        return self._tokens.cpu().numpy().copy()

    @torch.no_grad()
    def step(self, actions: np.ndarray) -> DreamStep:
        """Dream what the actions (B, n) int64 bring."""
        if self._is_stale or self._num_seen > self.max_past_steps:
            self._fill()
        taken = torch.from_numpy(actions).to(self._env.device)
        step = self._env.step(taken, should_return_logits=True)
        assert step.observation_logits is not None
        for past, now in ((self._past_tokens, self._tokens), (self._past_actions, taken)):
            if self.max_past_steps:
                past[:, :-1] = past[:, 1:].clone()
                past[:, -1] = now
        self._num_past = np.minimum(self._num_past + 1, self.max_past_steps)
        self._num_seen += 1
        self._tokens = step.obs_tokens.clone()
        log_shares = step.observation_logits.float().log_softmax(-1)
        return DreamStep(
            self.frames(),
            self.obs_tokens,
            step.rewards.double().cpu().numpy(),
            step.terminations.cpu().numpy(),
            -(log_shares.exp() * log_shares).sum(-1).cpu().numpy(),
            step.reward_logits.float().softmax(-1).cpu().numpy(),
            step.termination_logits.float().softmax(-1)[:, 1].cpu().numpy(),
        )

    def _num_kept(self, starts: DreamStarts) -> int:
        return min(starts.past_frames.shape[1], self.max_past_steps)

    def _fill(self) -> None:
        """The context of every row from its own last steps: after a new start as many as every row has."""
        num = int(self._num_past.min())
        if not self._is_stale:
            num = min(num, self.num_kept_steps)
        first = self.max_past_steps - num
        past = [
            (self._past_tokens[:, i], self._past_actions[:, i]) for i in range(first, self.max_past_steps)
        ]
        stream = np.random.SeedSequence([self._seed, self._num_fills]).generate_state(1, np.uint64)
        self._env.reset(self._tokens, int(stream[0] >> np.uint64(1)), past)
        self._num_fills += 1
        self._num_seen, self._is_stale = num, False


def _describe(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
