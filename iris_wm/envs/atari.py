"""One Atari game in IRIS's order: resize, frame limit, no-ops, skip with maximum, life loss.

The emulator is driven directly, and only the frames that are looked at are rendered and resized. Every step and
reset is exact and repeatable for a seed, and `snapshot`/`restore` are exact too: sticky actions are drawn here
and not in the emulator, whose saved state does not hold the previous action.
"""

from collections.abc import Mapping
from typing import Any

import ale_py
import gymnasium
import numpy as np
from gymnasium.spaces import Box

from iris_wm.envs.checks import check_seed
from iris_wm.envs.config import EnvConfig
from iris_wm.envs.resize import resize_area, resize_bilinear
from iris_wm.envs.snapshot import Snapshot, generator_from_text, generator_to_text, sealed, unseal
from iris_wm.spaces import ActionSpace

_SNAPSHOT_FIELDS = {
    "kind": str,
    "game": str,
    "resize": str,
    "resolution": int,
    "emulator": bytes,
    "observation": bytes,
    "np_random": str,
    "lives": int,
    "elapsed_frames": int,
    "previous_action": int,
    "game_ended": bool,
    "episode_ended": bool,
}


class AtariGame(gymnasium.Env):
    """Observations (resolution, resolution, 3) uint8; the game's minimal action set; rewards unclipped.

    - A step plays `frame_skip` emulator frames with one action and shows the maximum of the last two. If the
      game ends earlier, it shows the last frame played.
    - `reset` starts a game with 1 to `noop_max` no-op frames. After an episode that only lost a life, and
      without a seed, it continues the same game with one no-op step; what that step earns is not counted.
    - The frame limit counts every emulator frame since the game's start, no-ops included: `truncated`.
    - In tests: exactly one no-op frame, no end at life loss, the frame limit for tests.

    info: lives, emulator_frames (since the start of the game).
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (the type that Gymnasium gives it)

    def __init__(self, game: str, config: EnvConfig, is_test: bool = False) -> None:
        """game: a name known to ALE, as in "ALE/{game}-v5". Its ROM comes with ale_py."""
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        gymnasium.register_envs(ale_py)
        # A limit of 0 frames is none: the limit is kept here, where truncation is told from termination.
        made: Any = gymnasium.make(
            f"ALE/{game}-v5",
            frameskip=1,
            repeat_action_probability=0.0,
            full_action_space=False,
            max_num_frames_per_episode=0,
            disable_env_checker=True,
        )
        self._atari: Any = made.unwrapped
        self._ale: Any = self._atari.ale
        self._where = f'env "{game}"'
        self.game = game
        self.config = config
        self.is_test = is_test
        height, width = self._ale.getScreenDims()
        size = config.resolution
        if config.resize == "area" and size > min(height, width):
            raise ValueError(
                f"{self._where}: resolution: area averages need at most {min(height, width)}, got {size}"
            )
        self._screens = np.empty((2, height, width, 3), dtype=np.uint8)
        self._emulator_actions = list(self._atari._action_set)
        self.observation_space = Box(0, 255, (size, size, 3), np.uint8)
        self.actions = ActionSpace.discrete(
            len(self._emulator_actions), names=tuple(self._atari.get_action_meanings())
        )
        self.action_space = self.actions.numbers
        self._own: Snapshot = {
            "kind": "atari",
            "game": self.game,
            "resize": config.resize,
            "resolution": size,
        }
        self._frame_limit = config.max_emulator_frames_test if is_test else config.max_emulator_frames
        self._noop_max = min(config.noop_max, 1) if is_test else config.noop_max
        self._life_loss_ends = config.terminal_on_life_loss and not is_test
        self._observation: np.ndarray | None = None
        self._lives = 0
        self._elapsed_frames = 0
        self._previous_action = 0
        self._game_ended = True
        self._episode_ended = True

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode: a new game, or the next life of the same one (see the class)."""
        if seed is not None:
            seed = check_seed(seed, self._where)
        super().reset(seed=seed)
        first = self._observation is None
        if seed is not None or first or self._game_ended or not self._episode_ended:
            self._start_game(seed)
        else:
            self._play(0)
            if self._game_ended:
                self._start_game(None)
        self._episode_ended = False
        self._lives = self._ale.lives()
        return self._current(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays `frame_skip` frames; ValueError for an action out of range or after the end of the episode."""
        if self._episode_ended:
            raise ValueError(f"{self._where}: step: there is no running episode; call reset first")
        index = int(self.actions.check(action, f"{self._where}: action"))
        reward, over, cut = self._play(index)
        lives = self._ale.lives()
        # Some games show 0 lives for a few frames before they end; that is no loss of a life yet.
        life_lost = self._life_loss_ends and 0 < lives < self._lives
        self._lives = lives
        self._episode_ended = over or cut or life_lost
        return self._current(), reward, over or life_lost, cut, self._info()

    def snapshot(self) -> Snapshot:
        """The state as 14 kB of emulator memory, the observation, and the counters around them."""
        if self._observation is None:
            raise ValueError(f"{self._where}: snapshot: reset the environment first")
        return sealed(
            {
                **self._own,
                "emulator": self._ale.cloneState(include_rng=True).serialize(),
                "observation": self._observation.tobytes(),
                "np_random": generator_to_text(self.np_random),
                "lives": self._lives,
                "elapsed_frames": self._elapsed_frames,
                "previous_action": self._previous_action,
                "game_ended": self._game_ended,
                "episode_ended": self._episode_ended,
            }
        )

    def restore(self, snapshot: Mapping[str, Any]) -> np.ndarray:
        """Puts a snapshot back; the observation is the stored one, for the emulator's screen is stale now."""
        values = unseal(snapshot, _SNAPSHOT_FIELDS, self._own, self._where)
        shape = self.observation_space.shape
        assert shape is not None
        if len(values["observation"]) != int(np.prod(shape)):
            raise ValueError(f"{self._where}: snapshot: observation: expected {shape} bytes")
        generator = generator_from_text(values["np_random"], self._where)
        try:
            self._ale.restoreState(ale_py.ALEState(values["emulator"]))
        except (SystemError, RuntimeError, ValueError, TypeError):
            raise ValueError(f"{self._where}: snapshot: emulator: it is no state of this game") from None
        self.np_random = generator
        self._observation = np.frombuffer(values["observation"], np.uint8).reshape(shape).copy()
        self._lives = values["lives"]
        self._elapsed_frames = values["elapsed_frames"]
        self._previous_action = values["previous_action"]
        self._game_ended = values["game_ended"]
        self._episode_ended = values["episode_ended"]
        return self._current()

    def close(self) -> None:
        """Nothing to free but memory."""

    def _start_game(self, seed: int | None) -> None:
        """A new game up to the end of its no-ops."""
        if seed is not None:
            self._atari.seed_game(seed)
            self._atari.load_game()
        num_noops = int(self.np_random.integers(1, self._noop_max + 1)) if self._noop_max else 0
        self._begin()
        for _ in range(num_noops):
            self._ale.act(self._emulator_actions[0])
            self._elapsed_frames += 1
            if self._ale.game_over(with_truncation=False) or self._elapsed_frames >= self._frame_limit:
                self._begin()
        self._ale.getScreenRGB(self._screens[1])
        self._observation = self._shrink(self._screens[1:])

    def _begin(self) -> None:
        self._ale.reset_game()
        self._elapsed_frames = 0
        self._previous_action = 0
        self._game_ended = False

    def _play(self, action: int) -> tuple[float, bool, bool]:
        """Plays one step's frames: (reward, game over, frame limit reached); sets the observation."""
        ale, skip, sticky = self._ale, self.config.frame_skip, self.config.sticky
        reward = 0.0
        over = cut = False
        num_screens = 0
        for frame in range(skip):
            if not sticky or self.np_random.random() >= sticky:
                self._previous_action = action
            reward += ale.act(self._emulator_actions[self._previous_action])
            self._elapsed_frames += 1
            over = ale.game_over(with_truncation=False)
            cut = not over and self._elapsed_frames >= self._frame_limit
            if frame >= skip - 2 or over or cut:
                ale.getScreenRGB(self._screens[num_screens])
                num_screens += 1
            if over or cut:
                break
        self._game_ended = over or cut
        self._observation = self._shrink(self._screens[:num_screens])
        return reward, over, cut

    def _shrink(self, screens: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) screens, n 1 or 2, to the observation."""
        size = self.config.resolution
        if self.config.resize == "area":
            return resize_area(screens[0] if len(screens) == 1 else np.maximum(*screens), size)
        small = [resize_bilinear(screen, size) for screen in screens]
        return small[0].copy() if len(small) == 1 else np.maximum(*small)

    def _current(self) -> np.ndarray:
        assert self._observation is not None
        return self._observation.copy()

    def _info(self) -> dict[str, Any]:
        return {"lives": self._lives, "emulator_frames": self._elapsed_frames}
