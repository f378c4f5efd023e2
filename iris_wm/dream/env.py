"""The world model as Gymnasium environments: DreamEnv for one dream, DreamVectorEnv for many.

Observations are RGB uint8 (H, W, C); rewards are the signs that the world model learned, -1, 0 or 1.
"""

from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from iris_wm.dream.dream_batch import DreamBatch, DreamStarts, DreamStep
from iris_wm.dream.token_env import SamplingConfig
from iris_wm.spaces import ActionSpace

_LARGEST_BATCH = 4096


class _Dreaming:
    """What both environments share: the batch of dreams, the starts and their tokens, and the horizon."""

    def __init__(
        self,
        agent: Any,
        first_frames: DreamStarts | Tensor | np.ndarray,
        num_dreams: int,
        horizon: int,
        sampling: SamplingConfig,
        num_kept_steps: int | None,
    ) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, (int, np.integer)) or horizon < 1:
            raise ValueError(f"horizon: got {horizon}, expected a positive number of steps")
        self.batch = DreamBatch(agent, num_dreams, sampling, num_kept_steps)
        self.size = agent.tokenizer.config.autoencoder.resolution
        self.actions: ActionSpace = agent.actions
        num_axes = self.actions.num_axes
        starts = (
            first_frames if isinstance(first_frames, DreamStarts) else DreamStarts.of(first_frames, num_axes)
        )
        self.starts, self.horizon = starts.check(self.size, self.actions), int(horizon)
        self.observation_space = Box(0, 255, (self.size, self.size, 3), np.uint8)
        self.action_space = self.actions.numbers
        self._encoded: dict[int, tuple[Tensor, Tensor]] = {}

    def start(self, rows: np.ndarray, chosen: np.ndarray) -> None:
        """Let rows begin at the starts of these numbers."""
        for index in {int(index) for index in chosen} - self._encoded.keys():
            one = DreamStarts(
                self.starts.frames[index : index + 1],
                self.starts.past_frames[index : index + 1],
                self.starts.past_actions[index : index + 1],
            )
            self._encoded[index] = self.batch.encode(one)
        encoded = [self._encoded[int(index)] for index in chosen]
        tokens, past = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        self.batch.restart(rows, tokens, past, self.starts.past_actions[torch.from_numpy(chosen)])

    def start_from(self, rows: np.ndarray, frames: Any) -> None:
        """Let rows begin at frames (n, C, H, W) or (n, H, W, C) uint8 without a past."""
        frames = torch.as_tensor(frames)
        wanted = (3, self.size, self.size)
        if frames.dim() == 4 and tuple(frames.shape[1:]) == (self.size, self.size, 3) != wanted:
            frames = frames.permute(0, 3, 1, 2)
        if tuple(frames.shape) != (len(rows), *wanted) or frames.dtype != torch.uint8:
            kind = str(frames.dtype).removeprefix("torch.")
            raise ValueError(
                f'options["first_frame"]: expected a number of a start or uint8 frames {wanted}, '
                f"got {kind} {tuple(frames.shape[1:])}"
            )
        tokens, past = self.batch.encode(DreamStarts.of(frames))
        no_actions = torch.zeros(len(rows), 0, self.actions.num_axes, dtype=torch.int64)
        self.batch.restart(rows, tokens, past, no_actions)

    def begin(self, rows: np.ndarray, option: Any, generator: np.random.Generator) -> np.ndarray:
        """Start rows as options["first_frame"] says, or anywhere; their numbers, -1 for a frame of the caller's."""
        if option is not None and np.ndim(option) > 1:
            frames = torch.as_tensor(option)
            self.start_from(rows, frames.expand(len(rows), *frames.shape) if frames.dim() == 3 else frames)
            return np.full(len(rows), -1)
        if option is None:
            option = generator.integers(len(self.starts), size=len(rows))
        numbers = np.asarray(option)
        is_valid = numbers.dtype.kind in "iu" and numbers.size in (1, len(rows))
        if not is_valid or numbers.min() < 0 or numbers.max() >= len(self.starts):
            raise ValueError(
                f'options["first_frame"]: got {_short(option)}, expected a number of 0 to '
                f"{len(self.starts) - 1} or a uint8 frame (3, {self.size}, {self.size})"
            )
        chosen = np.broadcast_to(numbers.reshape(-1), (len(rows),)).astype(np.int64)
        self.start(rows, chosen)
        return chosen


class DreamEnv(gymnasium.Env):
    """One dream. Every episode begins at a real frame; it ends when the world model says so or at the horizon.

    The world model sees at most context_steps steps. When they are full, the window slides: num_kept_steps past
    steps stay (default: half), so a dream of any length goes on without forgetting how things move. Measured on the
    toy game Catch (docs, "Beyond the context"), 13 to 24 steps into a dream: frame error 0.050 with 0 kept steps,
    0.049 with 1, 0.048 with 2 to 5 of 6.

    Args:
        agent: with a tokenizer and a world model; an `iris_wm.agent.Agent`.
        first_frames: (N, C, H, W) uint8 real frames to begin from, or `DreamStarts`, which know the steps before.
        horizon: steps after which an episode is truncated.
        temperature: of tokens, rewards and terminations; 0 takes the most likely. Settable at any time.
        top_k, top_p: only the likeliest tokens.
        num_kept_steps: past steps that stay when the context is full; 0 forgets all but the current frame, as in
            the training of the policy.
        sampling: takes the place of temperature, top_k and top_p; its context_overflow "restart" means 0 kept steps.
        render_mode: "rgb_array" or None.

    `reset(seed=, options={"first_frame": i})` begins at start i; a uint8 frame in its place begins there. The same
    seed and actions bring the same dream.

    info: obs_tokens (K,) int64; token_entropy (K,) float32 in nats (zeros after reset); reward_probabilities (3,)
    float32 of -1, 0 and 1; termination_probability; first_frame, the number of the start (-1: the caller's own).

    Raises:
        ValueError: one line naming what is wrong: frames of other shape or dtype, an agent without world model, a
            horizon below 1, an action out of range, a step before reset or after the end.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}  # type: ignore[misc]

    def __init__(
        self,
        agent: Any,
        first_frames: DreamStarts | Tensor | np.ndarray,
        horizon: int = 500,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_kept_steps: int | None = None,
        sampling: SamplingConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode: got {render_mode!r}, expected "rgb_array" or None')
        sampling = sampling or SamplingConfig(temperature, top_k, top_p, "slide")
        self._dreaming = _Dreaming(agent, first_frames, 1, horizon, sampling, num_kept_steps)
        self.render_mode = render_mode
        self.observation_space = self._dreaming.observation_space
        self.action_space = self._dreaming.action_space
        self._observation: np.ndarray | None = None
        self._num_steps = 0
        self._is_over = True
        self._first_frame = 0

    @property
    def temperature(self) -> float:
        """Of the world model's draws."""
        return self._dreaming.batch.sampling.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        batch = self._dreaming.batch
        batch.sampling = replace(batch.sampling, temperature=temperature)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream; the observation is the start's reconstruction."""
        super().reset(seed=seed)
        option = _check_options(options, ("first_frame",)).get("first_frame")
        chosen = self._dreaming.begin(np.zeros(1, dtype=np.int64), option, self.np_random)
        batch = self._dreaming.batch
        batch.seed(int(self.np_random.integers(2**62)))
        self._first_frame, self._num_steps, self._is_over = int(chosen[0]), 0, False
        self._observation = batch.frames()[0]
        info = {name: value[0] for name, value in _first_info(batch, 1).items()}
        return self._observation.copy(), self._with_start(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Dream what the action brings."""
        if self._is_over:
            raise ValueError("step: no dream is running; call reset first")
        actions = self._dreaming.actions.check(action, "action")
        step = self._dreaming.batch.step(actions[None].numpy())
        self._num_steps += 1
        terminated = bool(step.terminations[0])
        truncated = not terminated and self._num_steps >= self._dreaming.horizon
        self._is_over = terminated or truncated
        self._observation = step.frames[0]
        info = {name: value[0] for name, value in _info(step).items()}
        return self._observation.copy(), float(step.rewards[0]), terminated, truncated, self._with_start(info)

    def render(self) -> Any:
        """The current frame, (H, W, C) uint8, in render mode rgb_array."""
        return None if self.render_mode is None or self._observation is None else self._observation.copy()

    def _with_start(self, info: dict[str, Any]) -> dict[str, Any]:
        info["termination_probability"] = float(info["termination_probability"])
        return {**info, "first_frame": self._first_frame}


class DreamVectorEnv(VectorEnv):
    """num_envs dreams, dreamed in one batch: a step costs little more than that of one.

    Arguments as for `DreamEnv`. autoreset_mode: "NextStep" (the default: the step after an end ignores that row's
    action and shows its next start, reward 0), "SameStep" (the new start is shown at once and the last frame is in
    info["final_obs"]) or "Disabled" (reset rows with options={"reset_mask": (num_envs,) bool}); it stands in
    metadata["autoreset_mode"].

    All rows share one place in the context. Whenever a row starts again, the context of all is filled anew, each
    row's from its own last steps, as many as the youngest row has. So give starts with a past
    (`DreamStarts`, as starts from a run have): without one, every end anywhere takes the others' past away too.
    One seed makes all rows: the same seed and actions bring the same dreams; a row's dream also depends on when
    its neighbours start again.

    infos: as of `DreamEnv` with a leading axis, each with a mask "_name" of the rows it is for.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        agent: Any,
        first_frames: DreamStarts | Tensor | np.ndarray,
        num_envs: int = 1,
        horizon: int = 500,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_kept_steps: int | None = None,
        sampling: SamplingConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or not 1 <= num_envs <= _LARGEST_BATCH:
            raise ValueError(f"num_envs: got {num_envs}, expected 1 to {_LARGEST_BATCH}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode: got {render_mode!r}, expected "rgb_array" or None')
        sampling = sampling or SamplingConfig(temperature, top_k, top_p, "slide")
        self._dreaming = _Dreaming(agent, first_frames, num_envs, horizon, sampling, num_kept_steps)
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            names = ", ".join(f'"{mode.value}"' for mode in AutoresetMode)
            raise ValueError(f"autoreset_mode: got {autoreset_mode!r}, expected one of {names}") from None
        self.metadata = {**type(self).metadata, "autoreset_mode": self._mode}  # type: ignore[misc]
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = self._dreaming.observation_space
        self.single_action_space = self._dreaming.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._observations: np.ndarray | None = None
        self._num_steps = np.zeros(num_envs, dtype=np.int64)
        self._has_ended = np.zeros(num_envs, dtype=bool)
        self._first_frames = np.zeros(num_envs, dtype=np.int64)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all dreams, or those of options["reset_mask"]; options["first_frame"]: numbers, or frames."""
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer))):
            raise ValueError(
                f"seed: got {_short(seed)}, expected one integer; it seeds all dreams of the batch"
            )
        super().reset(seed=None if seed is None else int(seed))
        options = _check_options(options, ("first_frame", "reset_mask"))
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f'options["reset_mask"]: expected bool ({self.num_envs},) with a True, got {_short(mask)}'
            )
        if self._observations is None and not mask.all():
            raise ValueError('options["reset_mask"]: the first reset must begin all dreams')
        batch = self._dreaming.batch
        self._begin(np.flatnonzero(mask), options.get("first_frame"))
        if seed is not None or mask.all():
            batch.seed(int(self.np_random.integers(2**62)))
        self._observations = batch.frames()
        return self._observations.copy(), self._masked(_first_info(batch, self.num_envs), mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Dream what the actions (num_envs,), or (num_envs, n) where they have n axes, bring."""
        if self._observations is None:
            raise ValueError("step: no dream is running; call reset first")
        if self._mode is AutoresetMode.DISABLED and self._has_ended.any():
            rows = np.flatnonzero(self._has_ended).tolist()
            raise ValueError(f'step: dreams {rows} are over; reset them with options={{"reset_mask": ...}}')
        checked = self._dreaming.actions.check(actions, "actions", (self.num_envs,)).numpy()
        ignored = self._has_ended.copy()
        batch = self._dreaming.batch
        step = batch.step(checked)
        self._num_steps += 1
        rewards = np.where(ignored, 0.0, step.rewards)
        terminations = step.terminations & ~ignored
        truncations = ~terminations & ~ignored & (self._num_steps >= self._dreaming.horizon)
        ends = terminations | truncations
        infos = _info(step)
        restarting = ends if self._mode is AutoresetMode.SAME_STEP else ignored
        observations = step.frames
        final: dict[str, Any] = {}
        if restarting.any():
            if self._mode is AutoresetMode.SAME_STEP:
                final_info = self._masked(infos, restarting)
                final = {"final_obs": _objects(observations, restarting), "final_info": final_info}
                final |= {"_final_obs": restarting.copy(), "_final_info": restarting.copy()}
            self._begin(np.flatnonzero(restarting), None)
            observations = batch.frames()
            fresh = _first_info(batch, self.num_envs)
            infos = {
                name: np.where(restarting.reshape(-1, *[1] * (value.ndim - 1)), fresh[name], value)
                for name, value in infos.items()
            }
        self._has_ended = np.zeros_like(ends) if self._mode is AutoresetMode.SAME_STEP else ends
        self._observations = observations
        every = np.ones(self.num_envs, dtype=bool)
        return (
            observations.copy(),
            rewards,
            terminations,
            truncations,
            {**self._masked(infos, every), **final},
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frames in render mode rgb_array."""
        if self.render_mode is None or self._observations is None:
            return None
        return tuple(self._observations.copy())

    def _begin(self, rows: np.ndarray, option: Any) -> None:
        self._first_frames[rows] = self._dreaming.begin(rows, option, self.np_random)
        self._num_steps[rows] = 0
        self._has_ended[rows] = False

    def _masked(self, infos: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
        """The infos and the starts' numbers, each with its mask as Gymnasium's vector environments have it."""
        infos = {**infos, "first_frame": self._first_frames.copy()}
        return infos | {f"_{name}": mask.copy() for name in infos}


def _info(step: DreamStep) -> dict[str, np.ndarray]:
    return {
        "obs_tokens": step.obs_tokens,
        "token_entropy": step.token_entropy,
        "reward_probabilities": step.reward_probabilities,
        "termination_probability": step.termination_probability,
    }


def _first_info(batch: DreamBatch, num: int) -> dict[str, np.ndarray]:
    """The same names at a start, which nothing predicted."""
    tokens = batch.obs_tokens
    return {
        "obs_tokens": tokens,
        "token_entropy": np.zeros(tokens.shape, dtype=np.float32),
        "reward_probabilities": np.tile(np.array([0, 1, 0], dtype=np.float32), (num, 1)),
        "termination_probability": np.zeros(num, dtype=np.float32),
    }


def _objects(observations: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Rows of the mask as an object array, None elsewhere."""
    result = np.full(len(mask), None, dtype=object)
    for row in np.flatnonzero(mask):
        result[row] = observations[row].copy()
    return result


def _check_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    options = options or {}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"options: unknown {unknown[0]!r}, expected {' or '.join(map(repr, known))}")
    return options


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
