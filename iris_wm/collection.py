"""Plays the environment with the agent and puts every step into the replay."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from iris_wm.agent import Agent
from iris_wm.data.episode import Episode, to_frame
from iris_wm.data.replay import Replay
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.policy.actor_critic import PolicyState, policy_inputs
from iris_wm.streams import stream_generator, stream_seed


@dataclass(frozen=True)
class CollectionConfig:
    """Real experience; defaults are the paper's."""

    env_steps_per_epoch: int = 200
    """Agent steps of every epoch but the first, all environments together."""
    num_envs: int = 1
    """Environments played in turn."""
    stop_after_epoch: int = 500
    """Last epoch that collects."""
    first_epoch_env_steps: int = 200
    """Steps of the first epoch; more gives small runs something to start from."""
    temperature: float = 1.0
    """Of the policy."""
    epsilon: float = 0.01
    """Probability of a random action."""
    epsilon_before_policy: float = 0.01
    """The same as long as the actor-critic is untrained."""
    max_action_hold: int = 1
    """A random action is held for 1 to this many steps; longer holds reach further than dithering."""
    burn_in: int = 20
    """Past frames from which the policy's memory is rebuilt at the start of each epoch, as the networks changed."""

    def __post_init__(self) -> None:
        for name in ("env_steps_per_epoch", "num_envs", "first_epoch_env_steps", "max_action_hold"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive integer")
        for name in ("stop_after_epoch", "burn_in"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or more")
        for name in ("epsilon", "epsilon_before_policy"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature}, expected a number >= 0")
        for name in ("env_steps_per_epoch", "first_epoch_env_steps"):
            if getattr(self, name) % self.num_envs:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected a multiple of num_envs ({self.num_envs})"
                )


@dataclass(frozen=True)
class FinishedEpisode:
    """What the log tells of an episode: unclipped return and agent steps."""

    episode_return: float
    length: int


class Collector:
    """Steps num_envs environments in turn; all of its state fits into a checkpoint."""

    def __init__(
        self, agent: Agent, envs: list[SnapshotEnv], replay: Replay, config: CollectionConfig, seed: int
    ) -> None:
        self.agent, self.envs, self.replay, self.config, self.seed = agent, envs, replay, config, seed
        self._memory: PolicyState | None = None
        self._frames: list[torch.Tensor | None] = [None] * len(envs)
        self._episode_ids = [-1] * len(envs)
        self._returns = [0.0] * len(envs)
        self._held_actions = torch.zeros(len(envs), agent.actions.num_axes, dtype=torch.int64)
        self._hold_left = [0] * len(envs)

    @property
    def env_steps(self) -> int:
        """Agent steps taken so far, all environments together."""
        return self.replay.num_steps

    def refresh_memory(self) -> None:
        """Rebuild the policy's memory with the current weights, from the last frames of the open episodes."""
        if not self.config.burn_in or self._frames[0] is None:
            return
        memories = []
        for episode_id in self._episode_ids:
            state = self.agent.initial_state()
            if episode_id >= 0:
                indices = self.replay.episode_indices(episode_id)[-self.config.burn_in :]
                with torch.no_grad():
                    tokens = self.agent.tokenizer.encode(self.replay.frames_at(indices).to(self.agent.device))
                    inputs = policy_inputs(self.agent.tokenizer, self.agent.policy, tokens)
                    _, state = self.agent.policy.sequence(inputs[None], state)
            memories.append(state)
        self._memory = PolicyState(*(torch.cat(parts) for parts in zip(*memories, strict=True)))

    def collect(self, num_steps: int, epsilon: float) -> list[FinishedEpisode]:
        """Take num_steps agent steps, a multiple of the number of environments; the episodes finished by them."""
        finished: list[FinishedEpisode] = []
        for _ in range(num_steps // len(self.envs)):
            self._begin_episodes()
            actions = self._choose_actions(epsilon)
            for i, action in enumerate(actions):
                episode = self._step_env(i, action)
                finished += [episode] if episode else []
        return finished

    def _begin_episodes(self) -> None:
        """Reset every environment that has no episode open."""
        if self._memory is None:
            self._memory = self.agent.initial_state(len(self.envs))
        for i, env in enumerate(self.envs):
            if self._episode_ids[i] >= 0:
                continue
            is_first = self._frames[i] is None
            observation, _ = env.reset(seed=stream_seed(self.seed, "env", i) % 2**31 if is_first else None)
            self._frames[i] = to_frame(observation)
            self._episode_ids[i] = self.replay.start_episode()
            self._returns[i] = 0.0
            self._memory.hidden[i].zero_()
            self._memory.cell[i].zero_()

    def _choose_actions(self, epsilon: float) -> torch.Tensor:
        generator = stream_generator(self.seed, "collection", self.env_steps)
        frames = torch.stack([frame for frame in self._frames if frame is not None])
        assert self._memory is not None
        actions, memory = self.agent.act(
            frames, self._memory, generator=generator, temperature=self.config.temperature
        )
        self._memory = PolicyState(memory.hidden.clone(), memory.cell.clone())
        for i in range(len(self.envs)):
            if self._hold_left[i] == 0 and torch.rand(1, generator=generator).item() < epsilon:
                self._held_actions[i] = self.agent.actions.draw(1, generator)[0]
                hold = torch.randint(1, self.config.max_action_hold + 1, (1,), generator=generator)
                self._hold_left[i] = int(hold)
            if self._hold_left[i]:
                actions[i] = self._held_actions[i]
                self._hold_left[i] -= 1
        return actions

    def _step_env(self, i: int, action: torch.Tensor) -> FinishedEpisode | None:
        observation, reward, terminated, truncated, _ = self.envs[i].step(action.numpy())
        if not math.isfinite(reward):
            raise FloatingPointError(f"reward of the environment is {reward}")
        frame = self._frames[i]
        assert frame is not None
        self.replay.append(
            self._episode_ids[i],
            frame[None],
            action[None],
            torch.tensor([float(reward)]),
            torch.tensor([bool(terminated)]),
            torch.tensor([bool(truncated and not terminated)]),
        )
        self._frames[i] = to_frame(observation)
        self._returns[i] += float(reward)
        if not (terminated or truncated):
            return None
        length = len(self.replay.episode_indices(self._episode_ids[i]))
        self._episode_ids[i] = -1
        return FinishedEpisode(self._returns[i], length)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on in another process; the replay is saved elsewhere."""
        return {
            "envs": [
                env.snapshot() if self._frames[i] is not None else None for i, env in enumerate(self.envs)
            ],
            "memory": list(self._memory) if self._memory is not None else None,
            "frames": list(self._frames),
            "episode_ids": list(self._episode_ids),
            "returns": list(self._returns),
            "held_actions": self._held_actions.clone(),
            "hold_left": list(self._hold_left),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what state_dict gave."""
        for env, snapshot in zip(self.envs, state["envs"], strict=True):
            if snapshot is not None:
                env.restore(snapshot)
        memory = state["memory"]
        self._memory = PolicyState(*(part.to(self.replay.device) for part in memory)) if memory else None
        self._frames = list(state["frames"])
        self._episode_ids = list(state["episode_ids"])
        self._returns = list(state["returns"])
        self._held_actions = state["held_actions"].clone()
        self._hold_left = list(state["hold_left"])


def play_episode(
    agent: Agent | None,
    env: SnapshotEnv,
    *,
    num_steps: int,
    seed: int,
    temperature: float = 1.0,
) -> Episode:
    """Play one episode of at most num_steps steps from a fresh reset, and return it.

    Args:
        agent: None plays uniformly random actions.
        env: a training or a test environment.
        num_steps: the episode is cut there, its last step then neither terminates nor truncates.
        seed: of the game and of the draws.
        temperature: of the policy.
    """
    observation, _ = env.reset(seed=seed)
    replay = Replay(num_steps, env.actions, (3, *observation.shape[:2]))
    replay.start_episode()
    state = agent.initial_state() if agent else None
    for step in range(num_steps):
        frame = to_frame(observation)
        generator = stream_generator(seed, "play", step)
        if agent is None or state is None:
            actions = env.actions.draw(1, generator)
        else:
            actions, state = agent.act(frame[None], state, generator=generator, temperature=temperature)
        observation, reward, terminated, truncated, _ = env.step(actions[0].numpy())
        replay.append(
            0,
            frame[None],
            actions,
            torch.tensor([float(reward)]),
            torch.tensor([bool(terminated)]),
            torch.tensor([bool(truncated and not terminated)]),
        )
        if terminated or truncated:
            break
    return replay.episode(0)
