"""Plays whole episodes of the real game to measure an actor: the agent, chance, or a constant action."""

from collections.abc import Callable
from dataclasses import dataclass

from iris_wm.acting import Game, Players
from iris_wm.envs import EnvConfig, make_env
from iris_wm.protocols import Actor
from iris_wm.streams import stream_seed


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
    actor: Actor,
    env_config: EnvConfig,
    *,
    num_episodes: int,
    seed: int,
    num_envs: int = 8,
    max_steps: int = 27000,
    on_progress: Callable[[int], None] = lambda finished: None,
) -> PlayedEpisodes:
    """Play num_episodes by the rules of testing: whole games, lost lives end nothing.

    Which episode runs in which environment is fixed beforehand, so short games do not crowd out long ones.

    Args:
        actor: who plays.
        env_config: the game.
        num_episodes: to play.
        seed: of the games and of all action draws.
        num_envs: played side by side; nothing but the speed depends on it.
        max_steps: agent steps after which an episode is cut.
        on_progress: called with the number of finished episodes after every step; may raise to interrupt.
    """
    if num_episodes < 1:
        raise ValueError(f"episodes: got {num_episodes}, expected a positive number")
    if num_envs < 1:
        raise ValueError(f"envs: got {num_envs}, expected a positive number")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected 0 or more")
    num_envs = min(num_envs, num_episodes)
    waiting = [iter(range(i, num_episodes, num_envs)) for i in range(num_envs)]
    playing = [-1] * num_envs
    returns, lengths = [0.0] * num_episodes, [0] * num_episodes
    finished = 0

    def next_game(env: int) -> Game | None:
        playing[env] = next(waiting[env], -1)
        if playing[env] < 0:
            return None
        game_seed = stream_seed(seed, "evaluation game", playing[env])
        return Game(game_seed % 2**31, stream_seed(seed, "evaluation policy", playing[env]))

    envs = [make_env(env_config, is_test=True) for _ in range(num_envs)]
    try:
        players = Players(envs, actor, next_game, max_steps)
        while steps := players.step():
            for step in steps:
                returns[playing[step.env]] += step.reward
                lengths[playing[step.env]] = step.num_steps
                finished += step.is_last
            on_progress(finished)
    finally:
        for env in envs:
            env.close()
    return PlayedEpisodes(returns, lengths)
