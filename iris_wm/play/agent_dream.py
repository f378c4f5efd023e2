"""An agent's dream for the page: it starts from real frames, and the game itself runs beside it."""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from iris_wm.acting import Game, Played, Players, step_env
from iris_wm.agent import Agent
from iris_wm.data.segment import Segment
from iris_wm.dream.dream import Dream, dream_seed
from iris_wm.envs.snapshot import Snapshot, SnapshotEnv
from iris_wm.streams import stream_generator, stream_seed
from iris_wm.world.token_world import TokenState

_Memory: TypeAlias = Any
"""The policy's, as `Agent.start` gives it and `Agent.act` returns it."""
_LONGEST_START = 80
_LONGEST_HISTORY = 100


@dataclass
class DreamFrame:
    """One dreamed frame, and what brought it.

    frame: (C, H, W) uint8. tokens: (K,) int64. step: dreamed steps since the start, 0 for the first frame.
    action: what was done to come here; None for the first frame. reward: what that brought.
    termination_probability: in [0, 1]. is_over: the dream terminated here.
    entropy: (K,) nats, how unsure the world model was of each token; zeros for the first frame.
    real_frame: (C, H, W) uint8, the game after the same actions; None where no game runs beside the dream.
    real_reward: what the game gave. is_real_over: the game ended here or before.
    drift: mean absolute difference of frame and real_frame in [0, 1]; None without real_frame.
    """

    frame: Tensor
    tokens: Tensor
    step: int
    action: int | None
    reward: float
    termination_probability: float
    is_over: bool
    entropy: Tensor
    real_frame: Tensor | None = None
    real_reward: float = 0.0
    is_real_over: bool = False
    drift: float | None = None


@dataclass
class _Start:
    """A real moment: the steps up to its frame, the policy's memory before it, and the game."""

    past: Segment
    memory: _Memory
    snapshot: Snapshot


@dataclass
class _Moment:
    """All that is needed to go on from a dreamed frame."""

    shown: DreamFrame
    state: TokenState
    memory: _Memory
    snapshot: Snapshot | None


class AgentDream:
    """The dream of an agent, with the real game played by the same actions beside it. One person plays it at a time:
    calls come one after the other, never at once. `temperature`, of the world's draws, may be set at any step.

    agent: in eval mode. env: the game; its observations must be as large as the tokenizer's frames.
    num_starts: real moments to start from: the agent plays the game for 1 to 80 steps up to each, seeded by
    `seed` and the moment's number. The world sees the last steps before as its context.
    """

    def __init__(
        self, agent: Agent, env: SnapshotEnv, *, title: str = "dream", num_starts: int = 16, seed: int = 0
    ) -> None:
        if num_starts < 1:
            raise ValueError(f"num_starts: got {num_starts}, expected at least 1")
        if env.actions.sizes != agent.actions.sizes:
            raise ValueError(
                f"env: it has {env.actions.sizes} actions, but the agent was trained with {agent.actions.sizes}"
            )
        if agent.actions.num_axes > 1:
            raise ValueError(
                f"env: its actions have {agent.actions.num_axes} axes; the page plays games with one"
            )
        self.agent, self.env, self.title = agent, env, title
        self.num_starts, self.seed = num_starts, seed
        self.codebook_size = agent.tokenizer.quantizer.codebook_size
        self.temperature = 1.0
        self._world = agent.new_world(should_measure=True)
        self._starts: dict[int, _Start] = {}
        self._dream: Dream[TokenState] | None = None
        self._moments: deque[_Moment] = deque(maxlen=_LONGEST_HISTORY)
        self._play_seed, self._branch = 0, 0

    @property
    def action_names(self) -> Sequence[str]:
        """The game's names of its actions."""
        return self.env.actions.names

    def reset(self, first_frame_index: int, seed: int) -> DreamFrame:
        """Starts from a real moment of 0 to num_starts - 1; ValueError for another."""
        if not 0 <= first_frame_index < self.num_starts:
            raise ValueError(
                f"first_frame_index: got {first_frame_index}, expected 0 to {self.num_starts - 1}"
            )
        if first_frame_index not in self._starts:
            self._starts[first_frame_index] = self._find_start(first_frame_index)
        start = self._starts[first_frame_index]
        self.env.restore(start.snapshot)
        self._play_seed, self._branch = seed, 0
        self._dream = Dream(self._world, start.past, [dream_seed(seed)])
        frame, real_frame = self._dream.frames[0], start.past.frames[0, -1]
        tokens = self._dream.state.obs_tokens[0].cpu()
        shown = DreamFrame(
            frame=frame,
            tokens=tokens,
            step=0,
            action=None,
            reward=0.0,
            termination_probability=0.0,
            is_over=False,
            entropy=torch.zeros(len(tokens)),
            real_frame=real_frame,
            drift=_drift(frame, real_frame),
        )
        self._moments.clear()
        self._moments.append(_Moment(shown, self._dream.keep(), start.memory, start.snapshot))
        return shown

    @torch.no_grad()
    def step(self, action: int | None) -> DreamFrame:
        """Dreams one step and plays the game by the same action; None lets the agent choose by the dream."""
        if self._dream is None:
            raise ValueError("step: there is no running dream; call reset first")
        dream, now = self._dream, self._moments[-1]
        if now.shown.is_over:
            raise ValueError("step: the dream is over; start again or step back")
        choice, memory = self.agent.policy.choose(
            self.agent.look(dream.state), now.memory, dream.draw.to(self.agent.device).of("action")
        )
        taken = choice.actions.cpu() if action is None else self._world.actions.check(action, "action")[None]
        self._world.sampling = replace(self._world.sampling, temperature=self.temperature)
        outcome = dream.step(taken)
        shown = DreamFrame(
            frame=dream.frames[0],
            tokens=outcome.measures["tokens"][0].cpu(),
            step=now.shown.step + 1,
            action=int(taken),
            reward=float(outcome.rewards),
            termination_probability=float(outcome.termination_probability),
            is_over=bool(outcome.terminations),
            entropy=outcome.measures["token_entropy"][0].cpu(),
        )
        snapshot = self._play_game(taken[0], shown, now.shown)
        self._moments.append(_Moment(shown, dream.keep(), memory, snapshot))
        return shown

    def back(self) -> DreamFrame:
        """Returns to the frame before; later draws differ from those of the way that was left."""
        if self._dream is None:
            raise ValueError("back: there is no running dream; call reset first")
        if len(self._moments) > 1:
            self._moments.pop()
            self._branch += 1
            now = self._moments[-1]
            self._dream.go_back(now.state, [dream_seed(self._play_seed, self._branch)])
            if now.snapshot is not None:
                self.env.restore(now.snapshot)
        return self._moments[-1].shown

    def _play_game(self, action: Tensor, shown: DreamFrame, before: DreamFrame) -> Snapshot | None:
        """Plays the action (1,) in the game and notes it on the frame; the game's state after, None once it is over."""
        if before.is_real_over:
            shown.real_frame, shown.is_real_over = before.real_frame, True
            return None
        shown.real_frame, shown.real_reward, *ends = step_env(self.env, action)
        shown.is_real_over = any(ends)
        shown.drift = _drift(shown.frame, shown.real_frame)
        return self.env.snapshot()

    def _find_start(self, index: int) -> _Start:
        """Lets the agent play the game up to a moment that depends on the seed and the index alone."""
        generator = stream_generator(self.seed, "play start", index)
        length = int(torch.randint(1, _LONGEST_START + 1, (1,), generator=generator))
        observation, _ = self.env.reset(seed=0)
        size = self.agent.config.tokenizer.resolution
        if np.shape(observation) != (size, size, 3):
            raise ValueError(
                f"env: its observations have shape {np.shape(observation)}, but the agent's frames are "
                f"({size}, {size}, 3)"
            )
        numbers = itertools.count()

        def next_game(_: int) -> Game:
            seed = stream_seed(self.seed, f"play start {index}", next(numbers))
            return Game(seed % 2**31, seed)

        players = Players([self.env], self.agent, next_game)
        steps: list[Played] = []
        while len(steps) < length or players.frames[0] is None:
            steps += players.step()
        num_past = min(players.num_steps[0], self._world.max_past)
        before = steps[len(steps) - num_past :]
        frames = torch.stack([*(step.frame for step in before), players.frames[0]])
        none = torch.zeros(0, 1, dtype=torch.int64)
        taken = torch.stack([step.action for step in before]) if before else none
        return _Start(Segment.seen(frames[None], taken[None]), players.memory, self.env.snapshot())


def _drift(frame: Tensor, real_frame: Tensor) -> float:
    """Mean absolute difference of two uint8 frames, in [0, 1]."""
    return float((frame.float() - real_frame.float()).abs().mean() / 255)
