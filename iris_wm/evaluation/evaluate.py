"""Plays whole episodes of the real game to measure the agent, and a random policy to compare with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from iris_wm.agent import Agent
from iris_wm.data.episode import to_frame
from iris_wm.envs import EnvConfig, make_env
from iris_wm.policy.actor_critic import PolicyState
from iris_wm.streams import stream_generator, stream_seed


@dataclass(frozen=True)
class PlayedEpisodes:
    """returns: sums of unclipped rewards; lengths: agent steps; both in the order of the episodes' numbers."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """Mean of returns."""
        return sum(self.returns) / len(self.returns)


def evaluate(
    agent: Agent | None,
    env_config: EnvConfig,
    *,
    num_episodes: int,
    seed: int,
    temperature: float = 0.5,
    num_envs: int = 8,
    max_steps: int = 27000,
    on_progress: Callable[[int], None] = lambda finished: None,
) -> PlayedEpisodes:
    """Play num_episodes by the rules of testing: whole games, lost lives end nothing.

    Which episode runs in which environment is fixed beforehand, so short games do not crowd out long ones.

    Args:
        agent: None plays uniformly random actions.
        env_config: the game.
        num_episodes: to play.
        seed: of the games and of all action draws.
        temperature: of the policy; 0 takes the most likely action.
        num_envs: played side by side; unless temperature is 0, action draws depend on it.
        max_steps: agent steps after which an episode is cut.
        on_progress: called with the number of finished episodes after every step; may raise to interrupt.
    """
    if num_episodes < 1:
        raise ValueError(f"episodes: got {num_episodes}, expected a positive number")
    if num_envs < 1:
        raise ValueError(f"envs: got {num_envs}, expected a positive number")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, expected a number >= 0")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected 0 or more")
    num_envs = min(num_envs, num_episodes)
    playing = [
        _Player(env_config, seed, range(i, num_episodes, num_envs), max_steps) for i in range(num_envs)
    ]
    played: dict[int, tuple[float, int]] = {}
    state = agent.initial_state(num_envs) if agent else None
    step = 0
    try:
        while playing:
            generator = stream_generator(seed, "evaluation policy", step)
            if agent is None or state is None:
                actions = playing[0].env.actions.draw(len(playing), generator)
            else:
                frames = torch.stack([player.frame for player in playing])
                actions, state = agent.act(frames, state, generator=generator, temperature=temperature)
            goes_on = [player.step(action, played) for player, action in zip(playing, actions, strict=True)]
            if state is not None:
                started = torch.tensor(
                    [player.num_steps == 0 for player in playing], device=state.hidden.device
                )
                kept = torch.tensor([i for i, on in enumerate(goes_on) if on], device=state.hidden.device)
                state = PolicyState(*(part.masked_fill(started[:, None], 0)[kept.long()] for part in state))
            for player, on in zip(playing, goes_on, strict=True):
                if not on:
                    player.env.close()
            playing = [player for player, on in zip(playing, goes_on, strict=True) if on]
            step += 1
            on_progress(len(played))
    finally:
        for player in playing:
            player.env.close()
    results = [played[i] for i in range(num_episodes)]
    return PlayedEpisodes([result[0] for result in results], [result[1] for result in results])


class _Player:
    """One environment and the numbers of the episodes it has to play."""

    def __init__(self, config: EnvConfig, seed: int, episodes: range, max_steps: int) -> None:
        self.env = make_env(config, is_test=True)
        self.seed, self.max_steps = seed, max_steps
        self.episodes = list(episodes)
        self._begin()

    def _begin(self) -> None:
        game_seed = stream_seed(self.seed, "evaluation game", self.episodes[0]) % 2**31
        observation, _ = self.env.reset(seed=game_seed)
        self.frame = to_frame(observation)
        self.episode_return, self.num_steps = 0.0, 0

    def step(self, action: torch.Tensor, played: dict[int, tuple[float, int]]) -> bool:
        """Take an action; at an episode's end note the result and begin the next. False when none is left."""
        observation, reward, terminated, truncated, _ = self.env.step(action.numpy())
        self.episode_return += float(reward)
        self.num_steps += 1
        if not (terminated or truncated or self.num_steps >= self.max_steps):
            self.frame = to_frame(observation)
            return True
        played[self.episodes.pop(0)] = (self.episode_return, self.num_steps)
        if self.episodes:
            self._begin()
        return bool(self.episodes)
