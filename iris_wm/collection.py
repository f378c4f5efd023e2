"""Plays the environment with the agent and puts every step into the replay."""

from dataclasses import dataclass
from typing import Any

import torch

from iris_wm.acting import AtTemperature, Explorer, Game, Held, Players
from iris_wm.agent import Agent
from iris_wm.config import Config, Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from iris_wm.data.replay import Replay
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.policy.actor_critic import PolicyState, policy_inputs
from iris_wm.streams import stream_seed


@dataclass(frozen=True)
class CollectionConfig(Config):
    """Real experience; defaults are the paper's."""

    env_steps_per_epoch: PositiveInt = 200
    """Agent steps of every epoch but the first, all environments together."""
    num_envs: PositiveInt = 1
    """Environments played in turn."""
    stop_after_epoch: NonNegativeInt = 500
    """Last epoch that collects."""
    first_epoch_env_steps: PositiveInt = 200
    """Steps of the first epoch; more gives small runs something to start from."""
    policy_temperature: NonNegativeFloat = 1.0
    """Of the draws of actions; 0 takes the most likely."""
    epsilon: Fraction = 0.01
    """Probability of a random action."""
    epsilon_before_policy: Fraction = 0.01
    """The same as long as the actor-critic is untrained."""
    max_action_hold: PositiveInt = 1
    """A random action is held for 1 to this many steps; longer holds reach further than dithering."""
    burn_in: NonNegativeInt = 20
    """Past frames from which the policy's memory is rebuilt at the start of each epoch, as the networks changed."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    """Plays num_envs environments side by side into the replay; all of its state fits into a checkpoint."""

    def __init__(
        self, agent: Agent, envs: list[SnapshotEnv], replay: Replay, config: CollectionConfig, seed: int
    ) -> None:
        self.agent, self.replay, self.config, self.seed = agent, replay, config, seed
        self.explorer = Explorer(AtTemperature(agent, config.policy_temperature), 0.0, config.max_action_hold)
        self.players = Players(envs, self.explorer, self._next_game)
        self._episode_ids = [-1] * len(envs)
        self._returns = [0.0] * len(envs)

    @property
    def env_steps(self) -> int:
        """Agent steps taken so far, all environments together."""
        return self.replay.num_steps

    def _next_game(self, env: int) -> Game:
        is_first = self._episode_ids[env] < 0
        self._episode_ids[env], self._returns[env] = self.replay.start_episode(), 0.0
        env_seed = stream_seed(self.seed, "env", env) % 2**31 if is_first else None
        return Game(env_seed, stream_seed(self.seed, "collection", self._episode_ids[env]))

    def refresh_memory(self) -> None:
        """Rebuild the policy's memory with the current weights, from the last frames of the open episodes."""
        if not self.config.burn_in or self.replay.num_steps == 0:
            return
        memories = []
        for episode_id, frame in zip(self._episode_ids, self.players.frames, strict=True):
            memory = self.agent.start(1)
            if frame is not None:
                indices = self.replay.episode_indices(episode_id)[-self.config.burn_in :]
                frames = self.replay.frames_at(indices)
                with torch.no_grad():
                    tokens = self.agent.tokenizer.encode(frames.to(self.agent.device))
                    inputs = policy_inputs(self.agent.tokenizer, self.agent.policy, tokens)
                    _, memory = self.agent.policy.sequence(inputs[None], memory)
            memories.append(memory)
        own = PolicyState(*(torch.cat(parts) for parts in zip(*memories, strict=True)))
        self.players.memory = self.players.memory._replace(own=own)

    def collect(self, num_steps: int, epsilon: float) -> list[FinishedEpisode]:
        """Take num_steps agent steps, a multiple of the number of environments; the episodes finished by them."""
        self.explorer.epsilon = epsilon
        finished: list[FinishedEpisode] = []
        for _ in range(num_steps // len(self.players.envs)):
            for step in self.players.step():
                self.replay.append(
                    self._episode_ids[step.env],
                    step.frame[None],
                    step.action[None],
                    torch.tensor([step.reward]),
                    torch.tensor([step.terminated]),
                    torch.tensor([step.truncated]),
                )
                self._returns[step.env] += step.reward
                if step.is_last:
                    finished.append(FinishedEpisode(self._returns[step.env], step.num_steps))
        return finished

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on in another process; the replay is saved elsewhere."""
        players, memory = self.players, self.players.memory
        has_begun = self._episode_ids[0] >= 0
        return {
            "envs": [env.snapshot() if has_begun else None for env in players.envs],
            "memory": list(memory.own),
            "held_actions": memory.actions.clone(),
            "hold_left": memory.num_left.clone(),
            "frames": list(players.frames),
            "num_steps": list(players.num_steps),
            "draw_seeds": list(players.draw_seeds),
            "episode_ids": list(self._episode_ids),
            "returns": list(self._returns),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what state_dict gave."""
        players = self.players
        for env, snapshot in zip(players.envs, state["envs"], strict=True):
            if snapshot is not None:
                env.restore(snapshot)
        own = PolicyState(*(part.to(self.agent.device) for part in state["memory"]))
        players.memory = Held(own, state["held_actions"].clone(), state["hold_left"].clone())
        players.frames, players.num_steps = list(state["frames"]), list(state["num_steps"])
        players.draw_seeds = list(state["draw_seeds"])
        self._episode_ids, self._returns = list(state["episode_ids"]), list(state["returns"])
