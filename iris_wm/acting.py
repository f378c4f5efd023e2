"""The one loop that steps environments, and who plays in it besides the agent: chance, a constant, an explorer.

Collecting, evaluating, watching and comparing are short users of `Players`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from iris_wm.agent import Agent
from iris_wm.data.episode import Episode, to_frame
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.policy.actor_critic import PolicyState
from iris_wm.protocols import Actor, M
from iris_wm.spaces import ActionDistribution, ActionSpace
from iris_wm.streams import Draw


class Played(NamedTuple):
    """One step of one environment.

    env: its number. frame: (C, H, W) uint8, what was seen. action: (n,) int64. reward, terminated, truncated: what
    that brought. num_steps: steps of the episode so far, this one included; at the first of them it began.
    """

    env: int
    frame: Tensor
    action: Tensor
    reward: float
    terminated: bool
    truncated: bool
    num_steps: int

    @property
    def is_last(self) -> bool:
        """Whether the episode ends with this step."""
        return self.terminated or self.truncated


class Game(NamedTuple):
    """How an environment begins an episode: the seed of its reset (None: it goes on drawing by itself), and of the
    actor's draws in it."""

    env_seed: int | None
    draw_seed: int


class Players(Generic[M]):
    """Environments played side by side by one actor. What a game draws depends on its own seed and step alone, so the
    number of environments changes nothing but the speed.

    Args:
        envs: real or dreamed; observations (H, W, C) uint8.
        actor: chooses for all of them at once.
        next_game: how the environment of this number begins its next episode; None: it plays no more.
        max_steps: after which an episode is cut (truncated); 0: never.
    """

    def __init__(
        self,
        envs: list[SnapshotEnv],
        actor: Actor[M],
        next_game: Callable[[int], Game | None],
        max_steps: int = 0,
    ) -> None:
        self.envs, self.actor, self.next_game, self.max_steps = envs, actor, next_game, max_steps
        self.rows = list(range(len(envs)))
        """Numbers of the environments that play, in the order of the memory's rows."""
        self.memory = actor.start(len(envs))
        self.frames: list[Tensor | None] = [None] * len(envs)
        self.num_steps = [0] * len(envs)
        self.draw_seeds = [0] * len(envs)

    def step(self) -> list[Played]:
        """The next step of every environment that still plays; those without an open episode begin one first."""
        self._begin_episodes()
        if not self.rows:
            return []
        frames = torch.stack([frame for i in self.rows if (frame := self.frames[i]) is not None])
        draw = Draw(
            torch.tensor([self.draw_seeds[i] for i in self.rows]),
            torch.tensor([self.num_steps[i] for i in self.rows]),
        )
        actions, self.memory = self.actor.act(frames, self.memory, draw)
        return [self._step_env(i, action) for i, action in zip(self.rows, actions, strict=True)]

    def _begin_episodes(self) -> None:
        is_new = [self.frames[i] is None for i in self.rows]
        if not any(is_new):
            return
        stays = []
        for row, i in enumerate(self.rows):
            game = self.next_game(i) if is_new[row] else None
            if game is not None:
                observation, _ = self.envs[i].reset(seed=game.env_seed)
                self.frames[i] = to_frame(observation)
                self.num_steps[i], self.draw_seeds[i] = 0, game.draw_seed
            if self.frames[i] is not None:
                stays.append(row)
        kept = torch.tensor(stays, dtype=torch.int64)
        self.memory = self.actor.keep(self.memory, kept, torch.tensor(is_new)[kept])
        self.rows = [self.rows[row] for row in stays]

    def _step_env(self, i: int, action: Tensor) -> Played:
        frame = self.frames[i]
        assert frame is not None
        seen, reward, terminated, truncated = step_env(self.envs[i], action)
        self.num_steps[i] += 1
        is_cut = truncated or self.num_steps[i] == self.max_steps
        played = Played(i, frame, action, reward, terminated, is_cut and not terminated, self.num_steps[i])
        self.frames[i] = None if played.is_last else seen
        return played


def step_env(env: SnapshotEnv, action: Tensor) -> tuple[Tensor, float, bool, bool]:
    """What an action (n,) int64 brings: the frame (C, H, W) uint8 seen after it, reward, terminated, truncated.

    Raises:
        FloatingPointError: the reward is not finite.
    """
    observation, reward, terminated, truncated, _ = env.step(action.numpy())
    if not math.isfinite(reward):
        raise FloatingPointError(f"reward of the environment is {reward}")
    return to_frame(observation), float(reward), bool(terminated), bool(truncated)


class RandomActor:
    """Uniformly random actions."""

    def __init__(self, actions: ActionSpace) -> None:
        self.actions = actions

    def start(self, batch_size: int) -> None:
        """It remembers nothing."""

    def act(self, frames: Tensor, memory: None, draw: Draw) -> tuple[Tensor, None]:
        """Whatever is seen."""
        return _uniform(self.actions, draw.of("random")), None

    def keep(self, memory: None, rows: Tensor, is_new: Tensor) -> None:
        """Nothing to keep."""


class ConstantActor(RandomActor):
    """Always the same action (n,): what a game gives without a look."""

    def __init__(self, actions: ActionSpace, action: Any) -> None:
        super().__init__(actions)
        self.action = actions.check(action, "action")

    def act(self, frames: Tensor, memory: None, draw: Draw) -> tuple[Tensor, None]:
        """Whatever is seen."""
        return self.action.expand(len(frames), -1), None


@dataclass
class AtTemperature:
    """An agent whose policy draws at another temperature than 1; 0 takes the most likely action."""

    agent: Agent
    policy_temperature: float

    def __post_init__(self) -> None:
        if not 0 <= self.policy_temperature < float("inf"):
            raise ValueError(f"policy_temperature: got {self.policy_temperature}, expected a number >= 0")
        self.actions = self.agent.actions

    def start(self, batch_size: int) -> PolicyState:
        """The policy's memory."""
        return self.agent.start(batch_size)

    def act(self, frames: Tensor, memory: PolicyState, draw: Draw) -> tuple[Tensor, PolicyState]:
        """See `Agent.act`."""
        return self.agent.act(frames, memory, draw, self.policy_temperature)

    def keep(self, memory: PolicyState, rows: Tensor, is_new: Tensor) -> PolicyState:
        """See `Agent.keep`."""
        return self.agent.keep(memory, rows, is_new)


class Held(NamedTuple):
    """An explorer's memory: the actor's own, and the random action (B, n) that is held for so many more steps (B,)."""

    own: Any
    actions: Tensor
    num_left: Tensor


class Explorer:
    """Another actor, that now and then does something random for a while: epsilon-greedy with held actions.

    epsilon: probability that a random action begins, where none is held. max_hold: it is held for 1 to this many steps.
    """

    def __init__(self, actor: Actor, epsilon: float, max_hold: int = 1) -> None:
        self.actor, self.epsilon, self.max_hold = actor, epsilon, max_hold
        self.actions = actor.actions

    def start(self, batch_size: int) -> Held:
        """Nothing is held."""
        held = torch.zeros(batch_size, self.actions.num_axes, dtype=torch.int64)
        return Held(self.actor.start(batch_size), held, torch.zeros(batch_size, dtype=torch.int64))

    def act(self, frames: Tensor, memory: Held, draw: Draw) -> tuple[Tensor, Held]:
        """The actor is asked in any case, so that its memory goes on."""
        actions, own = self.actor.act(frames, memory.own, draw)
        num_rows = len(actions)
        odds = torch.tensor([1 - self.epsilon, self.epsilon]).log().expand(num_rows, 2)
        explores = ActionDistribution(odds, (2,)).sample(draw.of("explore"))[:, 0].bool()
        begins = explores & (memory.num_left == 0)
        lengths = 1 + _uniform(ActionSpace.discrete(self.max_hold), draw.of("hold"))[:, 0]
        random = _uniform(self.actions, draw.of("random"))
        num_left = torch.where(begins, lengths, memory.num_left)
        held = torch.where(begins[:, None], random, memory.actions)
        chosen = torch.where((num_left > 0)[:, None], held, actions)
        return chosen, Held(own, held, (num_left - 1).clamp(min=0))

    def keep(self, memory: Held, rows: Tensor, is_new: Tensor) -> Held:
        """What is held goes on through the end of an episode."""
        own = self.actor.keep(memory.own, rows, is_new)
        return Held(own, memory.actions[rows], memory.num_left[rows])


def play_episode(actor: Actor, env: SnapshotEnv, *, num_steps: int, seed: int) -> Episode:
    """Play one episode of at most num_steps steps from a fresh reset, and return it.

    Args:
        actor: who plays.
        env: a training or a test environment.
        num_steps: the episode is cut there, its last step then neither terminates nor truncates.
        seed: of the game and of the actor's draws.
    """
    players = Players([env], actor, lambda _: Game(seed, seed))
    steps: list[Played] = []
    while len(steps) < num_steps and not (steps and steps[-1].is_last):
        steps += players.step()
    return Episode(
        torch.stack([step.frame for step in steps]),
        torch.stack([step.action for step in steps]),
        torch.tensor([step.reward for step in steps], dtype=torch.float32),
        torch.tensor([step.terminated for step in steps]),
        torch.tensor([step.truncated for step in steps]),
    )


def _uniform(actions: ActionSpace, draw: Draw) -> Tensor:
    """(B, n) int64."""
    return ActionDistribution(torch.zeros(len(draw.seed), sum(actions.sizes)), actions.sizes).sample(draw)
