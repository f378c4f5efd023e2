"""The door to environments: from a config to a running one, whatever its kind."""

import re
from typing import TYPE_CHECKING

from iris_wm.envs.atari100k import GAMES, suggest
from iris_wm.envs.config import EnvConfig

if TYPE_CHECKING:
    from iris_wm.envs.snapshot import SnapshotEnv

_ALE_ID = re.compile(r"ALE/(\w+)-v5\Z")


def make_env(config: EnvConfig, *, is_test: bool = False) -> "SnapshotEnv":
    """A Gymnasium environment with (resolution, resolution, 3) uint8 observations and whole numbers for actions.

    is_test: the rules of evaluation (see `EnvConfig`). The environment can be saved in mid-episode
    (`SnapshotEnv`). Raises ValueError naming the id where it is unknown, its observations are not RGB uint8, or
    its actions none that an `ActionSpace` knows.
    """
    game = atari_game(config.id)
    if game is not None:
        from iris_wm.envs.atari import AtariGame

        return AtariGame(game, config, is_test)
    from iris_wm.envs.generic import GenericEnv

    return GenericEnv(config, is_test)


def check_id(env_id: str) -> None:
    """ValueError for an id that `make_env` would not know; quick for the games of Atari 100k."""
    if atari_game(env_id) is None:
        from iris_wm.envs.generic import check_registered

        check_registered(env_id)


def atari_game(env_id: str) -> str | None:
    """The game's name if the id is one of Atari ("Breakout", "ALE/Breakout-v5"), None for other environments.

    Raises ValueError for a name that is neither a game nor looks like the id of another environment, and for
    old ids of games ("BreakoutNoFrameskip-v4").
    """
    if env_id in GAMES:
        return env_id
    match = _ALE_ID.match(env_id)
    name = match.group(1) if match else env_id
    if match is None and (":" in env_id or "/" in env_id):
        return None
    known = _all_games()
    if name in known:
        return name
    old = re.match(r"(\w+?)(?:-ram)?(?:Deterministic|NoFrameskip)?-v\d+\Z", env_id)
    if old and old.group(1) in known:
        raise ValueError(f'env "{env_id}": this is an old id of an Atari game; write "{old.group(1)}"')
    if match is None and re.search(r"-v\d+\Z", env_id):
        return None
    raise ValueError(f'env "{env_id}": unknown game; {suggest(name, known)}')


def _all_games() -> tuple[str, ...]:
    """All games that ALE registers, those of Atari 100k first."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    names = (match.group(1) for match in map(_ALE_ID.match, gymnasium.registry) if match)
    return tuple(dict.fromkeys((*GAMES, *names)))
