"""MinAtar (Young and Tian, 2019): five games of 10 x 10 cells, whose cells are shown as colours.

The package is an optional extra (`pip install "iris-wm[minatar]"`); its games have ids like "MinAtar/Breakout-v1".
"""

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

PREFIX = "MinAtar/"
TIME_LIMITS = {"Freeway": 2500}
"""Steps of an episode at most, as in gymnax, with which the published results of world models were measured."""
TIME_LIMIT = 1000
"""The same for all other games."""


def register_minatar(env_id: str) -> None:
    """Let Gymnasium know the games, whose package does not do so by itself; nothing for other environments.

    Raises ValueError where the package is missing.
    """
    if not env_id.startswith(PREFIX) or f"{PREFIX}Breakout-v1" in gymnasium.registry:
        return
    try:
        gym: Any = importlib.import_module("minatar.gym")
    except ImportError:
        raise ValueError(f'env "{env_id}": MinAtar is missing; pip install "iris-wm[minatar]"') from None
    gym.register_envs()


def make_minatar(env_id: str, sticky: float) -> gymnasium.Env:
    """A registered game with frames (10, 10, 3) uint8.

    sticky: probability that the action before is repeated; 0.1 by MinAtar's default, 0 in published world models.
    """
    env = gymnasium.make(env_id, sticky_action_prob=sticky, disable_env_checker=True)
    game = env_id.removeprefix(PREFIX).partition("-")[0]
    return gymnasium.wrappers.TimeLimit(CellColours(env.unwrapped), TIME_LIMITS.get(game, TIME_LIMIT))


class CellColours(gymnasium.Wrapper):
    """Frames (H, W, 3) uint8 of cells (H, W, n) bool: kinds of things take turns at red, green and blue, the later
    ones darker, so that every set of things in a cell has a colour of its own."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        height, width, num_kinds = env.observation_space.shape  # type: ignore[misc]
        self.observation_space = Box(0, 255, (height, width, 3), np.uint8)
        self._colours = colours_of(num_kinds)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin a game; what came before it, the action to be repeated too, is forgotten."""
        self.unwrapped.game.last_action = 0  # type: ignore[attr-defined]
        cells, info = self.env.reset(seed=seed, options=options)
        return self._show(cells), info

    def step(self, action: Any) -> Any:
        """One step."""
        cells, reward, terminated, truncated, info = self.env.step(action)
        return self._show(cells), reward, terminated, truncated, info

    def get_action_meanings(self) -> list[str]:
        """Names of the game's actions."""
        names = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}
        env: Any = self.unwrapped
        return [names[env.game.env.action_map[action]] for action in env.action_set]

    def _show(self, cells: np.ndarray) -> np.ndarray:
        return np.rint(cells.astype(np.float32) @ self._colours).astype(np.uint8)


def colours_of(num_kinds: int) -> np.ndarray:
    """(num_kinds, 3) float32; the sum over any set of kinds is a colour that no other set has."""
    kinds = np.arange(num_kinds)
    num_levels = -(-num_kinds // 3)
    levels = 2.0 ** (num_levels - 1 - kinds // 3) / (2**num_levels - 1)
    return (255 * levels[:, None] * (kinds[:, None] % 3 == np.arange(3))).astype(np.float32)
