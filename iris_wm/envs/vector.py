"""Several environments stepped together, with one meaning whichever engine runs them.

With resize "area" Atari games run in ale_py's C++ vector environment; everything else runs one after the other in
this process, through `make_env`, so that a policy trained on bilinear frames is evaluated on bilinear frames.

**Autoreset is NEXT_STEP.** When an episode ends at step t, its row shows the last frame, the last reward and the
end. At step t + 1 that row's action is ignored: the row shows the first frame of the next episode, reward 0, no
end, and `was_reset` is True. No transition must be stored or counted for a row with `was_reset`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from iris_wm.envs.checks import check_actions, check_seed, check_seeds
from iris_wm.envs.config import EnvConfig
from iris_wm.envs.make import atari_game, make_env

MAX_ENVS = 1024


class VectorStep(NamedTuple):
    """frames: (B, C, H, W) uint8. rewards: (B,) float32. The others: (B,) bool. All on the CPU, all fresh."""

    frames: Tensor
    rewards: Tensor
    terminations: Tensor
    truncations: Tensor
    was_reset: Tensor


class VectorEnv(Protocol):
    """B environments of one kind."""

    @property
    def num_envs(self) -> int:
        """B."""

    @property
    def num_actions(self) -> int:
        """A."""

    @property
    def action_names(self) -> list[str]:
        """One short name per action."""

    def reset(self, seeds: Sequence[int] | None = None) -> Tensor:
        """Begins an episode everywhere: (B, C, H, W) uint8. Without seeds, env i gets seed + i."""

    def step(self, actions: Any) -> VectorStep:
        """Steps everywhere with (B,) integer actions; ValueError for bad ones, before any environment moves."""

    def close(self) -> None:
        """Frees the environments."""


def make_vector_env(
    config: EnvConfig, num_envs: int, seed: int, *, is_test: bool = False, num_threads: int = 0
) -> VectorEnv:
    """num_envs environments; the engine follows from the config (see the module and `AtariVector`).

    num_threads: of the C++ engine; 0: one per core. Raises ValueError as `make_env` does, and for num_envs
    outside 1..1024 or a negative seed.
    """
    for name, value, low, high in (
        ("num_envs", num_envs, 1, MAX_ENVS),
        ("num_threads", num_threads, 0, MAX_ENVS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value!r}")
    seed = check_seed(seed, f'env "{config.id}"')
    game = atari_game(config.id) if config.resize == "area" else None
    if game is not None:
        return AtariVector(game, config, num_envs, seed, is_test, num_threads)
    return SequentialVector(config, num_envs, seed, is_test)


class SequentialVector:
    """Environments of `make_env`, one after the other; a life lost in training resets with one no-op step."""

    def __init__(self, config: EnvConfig, num_envs: int, seed: int, is_test: bool = False) -> None:
        self._where = f'env "{config.id}"'
        self._envs = [make_env(config, is_test=is_test) for _ in range(num_envs)]
        self._seed = seed
        self._ended = np.ones(num_envs, dtype=bool)
        self._started = False

    @property
    def num_envs(self) -> int:
        return len(self._envs)

    @property
    def num_actions(self) -> int:
        return len(self.action_names)

    @property
    def action_names(self) -> list[str]:
        return self._envs[0].action_names

    def reset(self, seeds: Sequence[int] | None = None) -> Tensor:
        values = _seeds(seeds, self._seed, self.num_envs, self._where)
        observations = [env.reset(seed=each)[0] for env, each in zip(self._envs, values, strict=True)]
        self._ended[:] = False
        self._started = True
        return _to_frames(np.stack(observations))

    def step(self, actions: Any) -> VectorStep:
        _check_started(self._started, self._where)
        array = check_actions(actions, self.num_envs, self.num_actions, self._where)
        was_reset = self._ended.copy()
        observations = []
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        terminations = np.zeros(self.num_envs, dtype=bool)
        truncations = np.zeros(self.num_envs, dtype=bool)
        for index, env in enumerate(self._envs):
            if was_reset[index]:
                observations.append(env.reset()[0])
                continue
            observation, rewards[index], terminations[index], truncations[index], _ = env.step(
                int(array[index])
            )
            observations.append(observation)
        self._ended = terminations | truncations
        return _to_step(np.stack(observations), rewards, terminations, truncations, was_reset)

    def close(self) -> None:
        for env in self._envs:
            env.close()


class AtariVector:
    """`ale_py.AtariVectorEnv`: games in C++ threads, maximum of two frames first, then area averages.

    Pixels equal `make_env` with resize "area". What differs from it, by ALE's own rules: a game begins with 0 to
    noop_max - 1 no-op frames (in tests: none) instead of 1 to noop_max; the frame limit does not count them; and
    after a life lost in training the next step is an ordinary one (its action is used, `was_reset` is False).
    Seeds are taken modulo 2**31. The state cannot be saved.
    """

    def __init__(
        self,
        game: str,
        config: EnvConfig,
        num_envs: int,
        seed: int,
        is_test: bool = False,
        num_threads: int = 0,
    ) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self._where = f'env "{game}"'
        # A single environment knows the screen's size, refuses what does not fit it, and names the actions.
        self._action_names = make_env(config).action_names
        self._life_loss_ends = config.terminal_on_life_loss and not is_test
        self._envs = AtariVectorEnv(
            game=gymnasium.spec(f"ALE/{game}-v5").kwargs["game"],
            num_envs=num_envs,
            num_threads=num_threads,
            frameskip=config.frame_skip,
            maxpool=config.frame_skip > 1,
            noop_max=max(1, 1 if is_test else config.noop_max),
            repeat_action_probability=float(config.sticky),
            life_loss_info=self._life_loss_ends,
            max_num_frames_per_episode=(
                config.max_emulator_frames_test if is_test else config.max_emulator_frames
            ),
            img_height=config.resolution,
            img_width=config.resolution,
            grayscale=False,
            stack_num=1,
            reward_clipping=False,
            use_fire_reset=False,
            episodic_life=False,
            full_action_space=False,
            autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP,
        )
        self._num_envs = num_envs
        self._seed = seed
        self._terminated = np.zeros(num_envs, dtype=bool)
        self._truncated = np.zeros(num_envs, dtype=bool)
        self._frame_numbers = np.zeros(num_envs, dtype=np.int64)
        self._started = False

    @property
    def num_envs(self) -> int:
        return self._num_envs

    @property
    def num_actions(self) -> int:
        return len(self._action_names)

    @property
    def action_names(self) -> list[str]:
        return self._action_names

    def reset(self, seeds: Sequence[int] | None = None) -> Tensor:
        values = _seeds(seeds, self._seed, self.num_envs, self._where)
        # A negative number would mean no seed to the emulator.
        observations, info = self._envs.reset(seed=np.array([value & 0x7FFFFFFF for value in values]))
        self._terminated[:] = self._truncated[:] = False
        self._frame_numbers = np.array(info["episode_frame_number"], dtype=np.int64)
        self._started = True
        return _to_frames(observations[:, 0])

    def step(self, actions: Any) -> VectorStep:
        _check_started(self._started, self._where)
        array = check_actions(actions, self.num_envs, self.num_actions, self._where)
        observations, rewards, terminations, truncations, info = self._envs.step(array)
        frame_numbers = np.array(info["episode_frame_number"], dtype=np.int64)
        was_reset = self._terminated | self._truncated
        if self._life_loss_ends:
            # A life lost is an end without a reset: there the count of frames goes on.
            was_reset = self._truncated | (self._terminated & (frame_numbers <= self._frame_numbers))
        self._terminated, self._truncated = np.array(terminations), np.array(truncations)
        self._frame_numbers = frame_numbers
        return _to_step(observations[:, 0], rewards, terminations, truncations, was_reset)

    def close(self) -> None:
        self._envs.close()


def _seeds(seeds: Sequence[int] | None, seed: int, num_envs: int, where: str) -> list[int]:
    if seeds is None:
        return [(seed + index) % 2**63 for index in range(num_envs)]
    return check_seeds(seeds, num_envs, where)


def _check_started(started: bool, where: str) -> None:
    if not started:
        raise ValueError(f"{where}: step: call reset first")


def _to_frames(observations: np.ndarray) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(observations.transpose(0, 3, 1, 2)))


def _to_step(
    observations: np.ndarray, rewards: Any, terminations: Any, truncations: Any, was_reset: np.ndarray
) -> VectorStep:
    return VectorStep(
        frames=_to_frames(observations),
        rewards=torch.from_numpy(np.array(rewards, dtype=np.float32)),
        terminations=torch.from_numpy(np.array(terminations, dtype=bool)),
        truncations=torch.from_numpy(np.array(truncations, dtype=bool)),
        was_reset=torch.from_numpy(was_reset),
    )
