"""Any registered Gymnasium environment with RGB uint8 frames and bounded actions, checked and resized.

Its state is saved as the seed of the episode and the actions since: `restore` resets with that seed and plays
them again, and refuses to go on if the environment does not come out where it was.
"""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from torch import Tensor

from iris_wm.envs.checks import check_seed
from iris_wm.envs.config import EnvConfig
from iris_wm.envs.minatar import PREFIX, make_minatar, register_minatar
from iris_wm.envs.resize import resize_area, resize_bilinear
from iris_wm.envs.snapshot import Snapshot, generator_from_text, generator_to_text, sealed, unseal
from iris_wm.spaces import ActionSpace

_SNAPSHOT_FIELDS = {
    "kind": str,
    "id": str,
    "resolution": int,
    "resize": str,
    "seed": int,
    "actions": str,
    "observation": bytes,
    "np_random": str,
    "episode_ended": bool,
}
_HOW_TO_SHOW = "wrap it, as gymnasium.wrappers.AddRenderObservation does, and register the result"


class GenericEnv(gymnasium.Env):
    """Observations (resolution, resolution, 3) uint8, one step per action, truncation after the frame limit.

    Every episode is reset with a seed of its own, drawn from `np_random` where none is given, so that it can be
    replayed. The limit is `max_emulator_frames` (`max_emulator_frames_test` in tests) steps.

    Raises ValueError where observations are not uint8 (H, W, 3), actions no `ActionSpace`, or what a
    step returns is not what the spaces promise; FloatingPointError for a reward that is not finite.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (the type that Gymnasium gives it)

    def __init__(self, config: EnvConfig, is_test: bool = False) -> None:
        check_registered(config.id)
        self._where = f'env "{config.id}"'
        try:
            made = (
                make_minatar(config.id, config.sticky)
                if config.id.startswith(PREFIX)
                else gymnasium.make(config.id, disable_env_checker=True)
            )
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise ValueError(f"{self._where}: it cannot be made: {_one_line(error)}") from None
        self._env = made
        self._source_shape = _check_observation_space(made.observation_space, self._where)
        self.actions = _actions_of(made, config.action_bins, self._where)
        self.config = config
        self.is_test = is_test
        size = config.resolution
        self.observation_space = Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = self.actions.numbers
        self._own: Snapshot = {
            "kind": "generic",
            "id": self.config.id,
            "resize": config.resize,
            "resolution": size,
        }
        self._step_limit = config.max_emulator_frames_test if is_test else config.max_emulator_frames
        self._observation: np.ndarray | None = None
        self._seed = 0
        self._taken: list[list[int]] = []
        self._episode_ended = True

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode; `options` are refused, for the replay of a snapshot could not know them."""
        if options:
            raise ValueError(f"{self._where}: reset: options are not supported, got {options!r}")
        if seed is not None:
            seed = check_seed(seed, self._where)
        super().reset(seed=seed)
        episode_seed = seed if seed is not None else int(self.np_random.integers(2**31))
        info = self._begin(episode_seed)
        return self._current(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; ValueError for an action out of range or after the end of the episode."""
        if self._episode_ended:
            raise ValueError(f"{self._where}: step: there is no running episode; call reset first")
        checked = self.actions.check(action, f"{self._where}: action")
        reward, terminated, truncated, info = self._play(checked)
        return self._current(), reward, terminated, truncated, info

    def snapshot(self) -> Snapshot:
        """The episode's seed and actions, and the observation they must lead to."""
        if self._observation is None:
            raise ValueError(f"{self._where}: snapshot: reset the environment first")
        return sealed(
            {
                **self._own,
                "seed": self._seed,
                "actions": json.dumps(self._taken),
                "observation": self._observation.tobytes(),
                "np_random": generator_to_text(self.np_random),
                "episode_ended": self._episode_ended,
            }
        )

    def restore(self, snapshot: Mapping[str, Any]) -> np.ndarray:
        """Replays the episode so far (one environment step per step taken) and returns its observation.

        ValueError if the snapshot is damaged or foreign, or the environment does not repeat itself; the
        episode then running is lost in the last case only.
        """
        values = unseal(snapshot, _SNAPSHOT_FIELDS, self._own, self._where)
        generator = generator_from_text(values["np_random"], self._where)
        actions = _parse_actions(values["actions"], self.actions, self._where)
        self._begin(check_seed(values["seed"], self._where))
        same = True
        for action in actions:
            same = not self._episode_ended
            if not same:
                break
            self._play(action)
        if (
            not same
            or self._episode_ended != values["episode_ended"]
            or self._current().tobytes() != values["observation"]
        ):
            self._episode_ended = True
            raise ValueError(
                f"{self._where}: it did not repeat itself from seed {values['seed']} and "
                f"{len(actions)} actions, so the episode cannot be continued; reset it to begin a new one"
            )
        self.np_random = generator
        return self._current()

    def close(self) -> None:
        """Closes the environment inside."""
        self._env.close()

    def _begin(self, seed: int) -> dict[str, Any]:
        # Some environments hand their seed to generators that take 32 bits only.
        observation, info = self._env.reset(seed=seed & 0x7FFFFFFF)
        self._seed = seed
        self._taken = []
        self._observation = self._shrink(observation)
        self._episode_ended = False
        return info

    def _play(self, action: Tensor) -> tuple[float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(self.actions.to_env(action))
        try:
            value = float(reward)
        except (TypeError, ValueError):
            raise ValueError(f"{self._where}: reward: expected a finite number, got {reward!r}") from None
        if not math.isfinite(value):
            raise FloatingPointError(f"reward of {self._where} is {value}, expected a finite number")
        self._observation = self._shrink(observation)
        self._taken.append(action.tolist())
        terminated = bool(terminated)
        truncated = not terminated and (bool(truncated) or len(self._taken) >= self._step_limit)
        self._episode_ended = terminated or truncated
        return value, terminated, truncated, info

    def _shrink(self, observation: Any) -> np.ndarray:
        dtype, shape = getattr(observation, "dtype", None), getattr(observation, "shape", None)
        if dtype != np.uint8 or shape != self._source_shape:
            found = type(observation).__name__ if shape is None else f"{dtype} {shape}"
            raise ValueError(
                f"{self._where}: observations: expected uint8 {self._source_shape} as its space says, "
                f"got {found}"
            )
        resize = resize_area if self.config.resize == "area" else resize_bilinear
        # Environments may reuse their buffer for the next frame.
        return np.array(resize(np.ascontiguousarray(observation), self.config.resolution))

    def _current(self) -> np.ndarray:
        assert self._observation is not None
        return self._observation.copy()


def check_registered(env_id: str) -> None:
    """ValueError unless Gymnasium knows the id, or a later version of it, without importing anything named by it."""
    if ":" in env_id:
        raise ValueError(
            f'env "{env_id}": expected a registered id; "module:Env" would import code named in a config, '
            f"so import the module in Python before, or install it as a Gymnasium plugin"
        )
    register_minatar(env_id)
    known = [*gymnasium.registry]
    if env_id not in known:
        close = difflib.get_close_matches(env_id, known, n=3, cutoff=0.5)
        meant = "did you mean " + " or ".join(f'"{each}"' for each in close) + "?" if close else ""
        raise ValueError(
            f'env "{env_id}": unknown environment; '
            f"{meant or 'install or import the package that registers it with Gymnasium'}"
        )


def _check_observation_space(space: Any, where: str) -> tuple[int, int, int]:
    """The (H, W, 3) of an RGB uint8 space."""
    if not isinstance(space, Box):
        raise ValueError(
            f"{where}: observations: expected uint8 (H, W, 3), got {_one_line(space)}; {_HOW_TO_SHOW}"
        )
    shape, dtype = tuple(space.shape), space.dtype
    found = f"{dtype} {shape}"
    expected = f"{where}: observations: expected uint8 (H, W, 3), got {found}"
    if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        raise ValueError(f"{expected}: channels come first; transpose them with TransformObservation")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        raise ValueError(f"{expected}: one channel only; make the environment show colours")
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{expected}; {_HOW_TO_SHOW}")
    if dtype != np.uint8:
        raise ValueError(f"{expected}: scale them to 0..255 and convert them to uint8")
    if min(shape[:2]) < 8:
        raise ValueError(f"{expected}: at least 8 x 8 pixels are needed")
    return shape[0], shape[1], shape[2]


def _actions_of(env: gymnasium.Env, num_bins: int, where: str) -> ActionSpace:
    """The environment's actions, by the names that it has for them in `get_action_meanings`."""
    try:
        actions = ActionSpace.of(env.action_space, num_bins)
    except ValueError as error:
        raise ValueError(f"{where}: {_one_line(error)}") from None
    has_names = env.has_wrapper_attr("get_action_meanings")
    names = tuple(map(str, env.get_wrapper_attr("get_action_meanings")())) if has_names else ()
    return replace(actions, names=names) if len(names) == len(actions.names) else actions


def _parse_actions(text: str, actions: ActionSpace, where: str) -> Tensor:
    try:
        taken = json.loads(text)
    except ValueError:
        taken = None
    if not isinstance(taken, list):
        raise ValueError(f"{where}: snapshot: actions: expected a list of actions")
    where = f"{where}: snapshot: actions"
    return actions.check(taken or np.empty((0, actions.num_axes), dtype=np.int64), where, (len(taken),))


def _one_line(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:197] + "..."
