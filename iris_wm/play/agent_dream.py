"""An agent's dream for the page: it starts from real frames, and the game itself runs beside it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from iris_wm.agent import Agent, choose
from iris_wm.data.episode import to_frame
from iris_wm.dream.rollout import policy_inputs
from iris_wm.dream.token_env import SamplingConfig, TokenEnv
from iris_wm.envs.snapshot import Snapshot, SnapshotEnv
from iris_wm.play.dream import DreamFrame
from iris_wm.streams import stream_generator, stream_seed

_Memory: TypeAlias = Any
"""The policy's, as `Agent.initial_state` gives it and `Agent.act` returns it."""
_LONGEST_START = 80
_LONGEST_HISTORY = 1000


@dataclass
class _Start:
    """A real moment: its frame, the world model's context and the policy's memory before it, and the game."""

    frame: Tensor
    past: list[tuple[Tensor, Tensor]]
    state: _Memory
    snapshot: Snapshot


@dataclass
class _Moment:
    """All that is needed to go on from a dreamed frame."""

    shown: DreamFrame
    obs_tokens: Tensor
    state: _Memory
    snapshot: Snapshot | None


class AgentDream:
    """The dream of an agent (a `Dream`), with the real game played by the same actions beside it.

    agent: in eval mode. env: the game; its observations must be as large as the tokenizer's frames.
    num_starts: real moments to start from: the agent plays the game for 1 to 80 steps up to each, seeded by
    `seed` and the moment's number. The world model sees the last steps before as its context.
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
        self._token_env = TokenEnv(agent.world, 1, SamplingConfig(context_overflow="slide"))
        self._starts: dict[int, _Start] = {}
        self._past: list[tuple[Tensor, Tensor]] = []
        self._moments: list[_Moment] = []
        self._generator = torch.Generator()
        self._inputs: Tensor | None = None
        self._branch = 0
        self._play_seed = 0

    @property
    def action_names(self) -> Sequence[str]:
        """The game's names of its actions."""
        return self.env.actions.names

    @torch.no_grad()
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
        self._past = start.past
        self._play_seed, self._branch = seed, 0
        self._generator = stream_generator(seed, "play policy")
        obs_tokens = self.agent.tokenizer.encode(start.frame[None].to(self.agent.device))
        self._token_env.reset(obs_tokens, stream_seed(seed, "play"), self._past)
        frame = self._picture(obs_tokens)
        shown = DreamFrame(
            frame=frame,
            tokens=obs_tokens[0].cpu(),
            step=0,
            action=None,
            reward=0.0,
            termination_probability=0.0,
            is_over=False,
            entropy=torch.zeros(obs_tokens.shape[1]),
            real_frame=start.frame,
            drift=_drift(frame, start.frame),
        )
        self._moments = [_Moment(shown, obs_tokens, start.state, start.snapshot)]
        return shown

    @torch.no_grad()
    def step(self, action: int | None) -> DreamFrame:
        """Dreams one step and plays the game by the same action; None lets the agent choose by the dream."""
        if not self._moments:
            raise ValueError("step: there is no running dream; call reset first")
        now = self._moments[-1]
        if now.shown.is_over:
            raise ValueError("step: the dream is over; start again or step back")
        if action is not None:
            self.agent.actions.check(action, "action")
        inputs = self._inputs
        if inputs is None:
            inputs = policy_inputs(self.agent.tokenizer, self.agent.policy, now.obs_tokens)
        output, state = self.agent.policy(inputs, now.state)
        if action is None:
            action = int(choose(output.actions, self._generator, 1.0))
        env = self._token_env
        env.sampling = replace(env.sampling, temperature=self.temperature)
        taken = torch.tensor([[action]], device=self.agent.device)
        step = env.step(taken, should_return_logits=True)
        assert step.observation_logits is not None
        frame = self._picture(step.obs_tokens)
        logs = step.observation_logits[0].float().log_softmax(-1)
        shown = DreamFrame(
            frame=frame,
            tokens=step.obs_tokens[0].cpu(),
            step=now.shown.step + 1,
            action=action,
            reward=float(step.rewards),
            termination_probability=float(step.termination_logits[0].float().softmax(-1)[1]),
            is_over=bool(step.terminations),
            entropy=-(logs.exp() * logs).sum(-1).cpu(),
        )
        snapshot = self._play_game(shown, now.shown)
        # TokenEnv writes the next frame's tokens over its own; what is kept must not change with them.
        self._moments.append(_Moment(shown, step.obs_tokens.clone(), state, snapshot))
        if len(self._moments) > _LONGEST_HISTORY:
            self._past = [*self._past, *self._pairs(self._moments[:2])][
                -self._token_env.layout.context_steps :
            ]
            self._moments.pop(0)
        return shown

    @torch.no_grad()
    def back(self) -> DreamFrame:
        """Returns to the frame before; later draws differ from those of the way that was left."""
        if not self._moments:
            raise ValueError("back: there is no running dream; call reset first")
        if len(self._moments) > 1:
            self._moments.pop()
            self._branch += 1
            self._inputs = None
            now = self._moments[-1]
            past = [*self._past, *self._pairs(self._moments[-self._token_env.layout.context_steps :])]
            self._token_env.reset(now.obs_tokens, stream_seed(self._play_seed, "play", self._branch), past)
            if now.snapshot is not None:
                self.env.restore(now.snapshot)
        return self._moments[-1].shown

    def _picture(self, obs_tokens: Tensor) -> Tensor:
        """The frame (C, H, W) uint8 of tokens (1, K); kept as the policy's next input where it sees frames."""
        decoded = self.agent.tokenizer.decode(obs_tokens)
        self._inputs = decoded if self.agent.policy.config.sees_frames else None
        return decoded[0].mul(255).round().clamp(0, 255).to(torch.uint8).cpu()

    def _pairs(self, moments: list[_Moment]) -> list[tuple[Tensor, Tensor]]:
        """The frames of moments but the last, each with the action that led to the next, as the context wants them."""
        device = self.agent.device
        return [
            (before.obs_tokens, torch.tensor([[after.shown.action]], device=device))
            for before, after in itertools.pairwise(moments)
        ]

    def _play_game(self, shown: DreamFrame, before: DreamFrame) -> Snapshot | None:
        """Plays the action in the game and notes it on the frame; the game's state after, None once it is over."""
        if before.is_real_over:
            shown.real_frame, shown.is_real_over = before.real_frame, True
            return None
        observation, reward, terminated, truncated, _ = self.env.step(shown.action or 0)
        shown.real_frame = to_frame(observation)
        shown.real_reward = float(reward)
        shown.is_real_over = bool(terminated or truncated)
        shown.drift = _drift(shown.frame, shown.real_frame)
        return self.env.snapshot()

    def _find_start(self, index: int) -> _Start:
        """Lets the agent play the game up to a moment that depends on the seed and the index alone."""
        generator = stream_generator(self.seed, "play start", index)
        length = int(torch.randint(1, _LONGEST_START + 1, (1,), generator=generator))
        observation, _ = self.env.reset(seed=stream_seed(self.seed, "play start", index) % 2**31)
        size = self.agent.config.tokenizer.autoencoder.resolution
        if np.shape(observation) != (size, size, 3):
            raise ValueError(
                f"env: its observations have shape {np.shape(observation)}, but the agent's frames are "
                f"({size}, {size}, 3)"
            )
        device, context_steps = self.agent.device, self._token_env.layout.context_steps
        state = self.agent.initial_state()
        past: list[tuple[Tensor, Tensor]] = []
        for _ in range(length):
            frame = to_frame(observation)[None]
            obs_tokens = self.agent.tokenizer.encode(frame.to(device))
            actions, next_state = self.agent.act(frame, state, generator=generator)
            observation, _, terminated, truncated, _ = self.env.step(int(actions))
            past, state = [*past, (obs_tokens, actions.to(device))][-(context_steps - 1) :], next_state
            if terminated or truncated:
                observation, _ = self.env.reset()
                past, state = [], self.agent.initial_state()
        past = past if context_steps > 1 else []
        return _Start(to_frame(observation), past, state, self.env.snapshot())


def _drift(frame: Tensor, real_frame: Tensor) -> float:
    """Mean absolute difference of two uint8 frames, in [0, 1]."""
    return float((frame.float() - real_frame.float()).abs().mean() / 255)
