"""The world as Gymnasium environments: DreamEnv for one dream, DreamVectorEnv for many.

Observations are RGB uint8 (H, W, C); rewards are the signs that the world learned, -1, 0 or 1.
"""

from dataclasses import replace
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from iris_wm.data.segment import Segment
from iris_wm.dream.dream import Dream, dream_seed
from iris_wm.protocols import Outcome
from iris_wm.streams import stream_seed
from iris_wm.strict_yaml import show
from iris_wm.world.token_world import SamplingConfig, TokenState, TokenWorld

_LARGEST_BATCH = 4096


class Dreamer(Protocol):
    """What can dream: an `iris_wm.agent.Agent`."""

    def new_world(
        self, sampling: SamplingConfig | None = None, *, should_measure: bool = False
    ) -> TokenWorld:
        """The world that it imagines."""


class DreamVectorEnv(VectorEnv):
    """num_envs dreams, dreamed in one batch: a step costs little more than that of one.

    Every episode begins at a real frame; it ends when the world says so or at the horizon. Rows are independent: row i
    of reset(seed=s) dreams what `DreamEnv.reset(seed=s + i)` dreams, whenever its neighbours start again.

    Args:
        agent: with a tokenizer and a world.
        first_frames: (N, C, H, W) uint8 real frames to begin from, or a `Segment` (N, T) whose last frames they are,
            with the real steps before; padding in front.
        num_envs: dreams side by side.
        horizon: steps after which an episode is truncated.
        autoreset_mode: "NextStep" (the step after an end ignores that row's action and shows its next start, reward 0),
            "SameStep" (the new start is shown at once and the last frame is in info["final_obs"]) or "Disabled" (reset
            rows with options={"reset_mask": (num_envs,) bool}); it stands in metadata["autoreset_mode"].
        temperature: of tokens, rewards and terminations; 0 takes the most likely. Settable at any time.
        top_k, top_p: only the likeliest tokens.
        render_mode: "rgb_array" or None.

    `reset(seed=, options={"first_frame": i})` begins at start i (or at starts (num_envs,)); uint8 frames in its place
    begin there. The same seed and actions bring the same dreams.

    infos, each with a mask "_name" of the rows it is for: obs_tokens (B, K) int64; token_entropy (B, K) float32 in nats
    (zeros after reset); reward_probabilities (B, 3) float32 of -1, 0 and 1; termination_probability (B,); first_frame
    (B,), the number of the start (-1: the caller's own).

    Raises:
        ValueError: one line naming what is wrong: frames of other shape or dtype, an agent without a world, a
            horizon below 1, an action out of range, a step before reset or after the end.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        agent: Dreamer,
        first_frames: Segment | Tensor | np.ndarray,
        num_envs: int = 1,
        horizon: int = 500,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or not 1 <= num_envs <= _LARGEST_BATCH:
            raise ValueError(f"num_envs: got {num_envs}, expected 1 to {_LARGEST_BATCH}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode: got {render_mode!r}, expected "rgb_array" or None')
        if isinstance(horizon, bool) or not isinstance(horizon, (int, np.integer)) or horizon < 1:
            raise ValueError(f"horizon: got {horizon}, expected a positive number of steps")
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            names = ", ".join(f'"{mode.value}"' for mode in AutoresetMode)
            raise ValueError(f"autoreset_mode: got {autoreset_mode!r}, expected one of {names}") from None
        if not hasattr(agent, "new_world"):
            raise ValueError(f"agent: got {type(agent).__name__}, expected an agent with a world")
        self.world = agent.new_world(SamplingConfig(temperature, top_k, top_p), should_measure=True)
        self.actions = self.world.actions
        self.size = self.world.tokenizer.config.resolution
        self.starts = self._check_starts(first_frames)
        self.num_envs, self.horizon, self.render_mode = num_envs, int(horizon), render_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": self._mode}  # type: ignore[misc]
        self.single_observation_space = Box(0, 255, (self.size, self.size, 3), np.uint8)
        self.single_action_space = self.actions.numbers
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._encoded: dict[int, Segment] = {}
        self._dream: Dream[TokenState] | None = None
        self._observations = np.zeros((num_envs, self.size, self.size, 3), dtype=np.uint8)
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        self._episodes, self._num_steps, self._first_frames = np.zeros((3, num_envs), dtype=np.int64)
        self._has_ended = np.ones(num_envs, dtype=bool)

    @property
    def temperature(self) -> float:
        """Of the world's draws."""
        return self.world.sampling.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self.world.sampling = replace(self.world.sampling, temperature=temperature)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all dreams, or those of options["reset_mask"]; options["first_frame"]: numbers, or frames."""
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer))):
            raise ValueError(
                f"seed: got {show(seed)}, expected one integer; it seeds all dreams of the batch"
            )
        super().reset(seed=None if seed is None else int(seed))
        options = options or {}
        if unknown := [name for name in options if name not in ("first_frame", "reset_mask")]:
            raise ValueError(f"options: unknown {unknown[0]!r}, expected 'first_frame' or 'reset_mask'")
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f'options["reset_mask"]: expected bool ({self.num_envs},) with a True, got {show(mask)}'
            )
        if self._dream is None and not mask.all():
            raise ValueError('options["reset_mask"]: the first reset must begin all dreams')
        if seed is None and self._dream is None:
            seed = int(self.np_random.integers(2**31))
        if seed is not None:
            self._seeds = int(seed) + np.arange(self.num_envs)
            self._episodes[:] = -1
        self._begin(np.flatnonzero(mask), options.get("first_frame"))
        return self._observations.copy(), self._masked(self._first_info(), mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Dream what the actions (num_envs,) bring."""
        if self._dream is None:
            raise ValueError("step: no dream is running; call reset first")
        if self._mode is AutoresetMode.DISABLED and self._has_ended.any():
            rows = np.flatnonzero(self._has_ended).tolist()
            raise ValueError(
                f'step: dreams {rows} are over; call reset first, with options={{"reset_mask": ...}} for some of them'
            )
        checked = self.actions.check(actions, "actions", (self.num_envs,))
        ignored = self._has_ended.copy()
        outcome = self._dream.step(checked)
        self._observations = self._pictures()
        self._num_steps += 1
        rewards = np.where(ignored, 0.0, outcome.rewards.double().cpu().numpy())
        terminations = outcome.terminations.cpu().numpy() & ~ignored
        truncations = ~terminations & ~ignored & (self._num_steps >= self.horizon)
        ends = terminations | truncations
        infos = _info(outcome)
        restarting = ends if self._mode is AutoresetMode.SAME_STEP else ignored
        final: dict[str, Any] = {}
        if restarting.any():
            if self._mode is AutoresetMode.SAME_STEP:
                final_info = self._masked(infos, restarting)
                final = {"final_obs": _objects(self._observations, restarting), "final_info": final_info}
                final |= {"_final_obs": restarting.copy(), "_final_info": restarting.copy()}
            self._begin(np.flatnonzero(restarting), None)
            fresh = self._first_info()
            infos = {
                name: np.where(restarting.reshape(-1, *[1] * (value.ndim - 1)), fresh[name], value)
                for name, value in infos.items()
            }
        self._has_ended = np.zeros_like(ends) if self._mode is AutoresetMode.SAME_STEP else ends
        every = self._masked(infos, np.ones(self.num_envs, dtype=bool))
        return self._observations.copy(), rewards, terminations, truncations, {**every, **final}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frames in render mode rgb_array."""
        if self.render_mode is None or self._dream is None:
            return None
        return tuple(self._observations.copy())

    def _begin(self, rows: np.ndarray, option: Any) -> None:
        """Start rows anew as options["first_frame"] says, or where each row's own seed and episode do."""
        past = self._chosen(rows, option)
        seeds = [
            dream_seed(int(seed), int(episode))
            for seed, episode in zip(self._seeds[rows], self._episodes[rows], strict=True)
        ]
        if self._dream is None:
            self._dream = Dream(self.world, past, seeds)
        else:
            self._dream.restart(torch.from_numpy(rows), past, seeds)
        self._num_steps[rows] = 0
        self._has_ended[rows] = False
        self._observations = self._pictures()

    def _chosen(self, rows: np.ndarray, option: Any) -> Segment:
        if option is not None and np.ndim(option) > 1:
            past = self._callers_frames(rows, option)
            self._episodes[rows] += 1
            self._first_frames[rows] = -1
            return past
        if option is None:
            episodes = self._episodes[rows] + 1
            numbers = np.array([
                stream_seed(int(seed), "dream start", int(episode)) % len(self.starts)
                for seed, episode in zip(self._seeds[rows], episodes, strict=True)
            ])  # fmt: skip
        else:
            numbers = np.asarray(option)
            is_valid = numbers.dtype.kind in "iu" and numbers.size in (1, len(rows))
            if not is_valid or numbers.min() < 0 or numbers.max() >= len(self.starts):
                raise ValueError(
                    f'options["first_frame"]: got {show(option)}, expected a number of 0 to '
                    f"{len(self.starts) - 1} or a uint8 frame (3, {self.size}, {self.size})"
                )
            numbers = np.broadcast_to(numbers.reshape(-1), (len(rows),))
        self._episodes[rows] += 1
        self._first_frames[rows] = numbers
        return Segment.concatenate([self._start(int(number)) for number in numbers])

    def _start(self, number: int) -> Segment:
        """A start, encoded when it is first asked for."""
        if number not in self._encoded:
            start = self.starts.rows(torch.tensor([number]))
            obs_tokens = self.world.tokenizer.encode(start.frames.to(self.world.device))
            self._encoded[number] = replace(start, obs_tokens=obs_tokens.cpu())
        return self._encoded[number]

    def _callers_frames(self, rows: np.ndarray, option: Any) -> Segment:
        """Frames (n, C, H, W) or (n, H, W, C) uint8, or one for all rows, as starts without a past."""
        frames = torch.as_tensor(option)
        frames = frames.expand(len(rows), *frames.shape) if frames.dim() == 3 else frames
        wanted = (3, self.size, self.size)
        if frames.dim() == 4 and tuple(frames.shape[1:]) == (self.size, self.size, 3) != wanted:
            frames = frames.permute(0, 3, 1, 2)
        if tuple(frames.shape) != (len(rows), *wanted) or frames.dtype != torch.uint8:
            raise ValueError(
                f'options["first_frame"]: got {_describe(frames)}, expected a number of a start '
                f"or uint8 frames {wanted}"
            )
        return Segment.seen(
            frames[:, None], torch.zeros(len(rows), 1, self.actions.num_axes, dtype=torch.int64)
        )

    def _check_starts(self, first_frames: Segment | Tensor | np.ndarray) -> Segment:
        starts, size = first_frames, self.size
        if not isinstance(starts, Segment):
            frames = torch.as_tensor(starts)
            if frames.dim() != 4:
                raise ValueError(
                    f"first_frames: got {_describe(frames)}, expected uint8 (N, 3, {size}, {size})"
                )
            no_actions = torch.zeros(len(frames), 1, self.actions.num_axes, dtype=torch.int64)
            starts = Segment.seen(frames[:, None], no_actions)
        if starts.frames.shape[2:] != (3, size, size) or starts.frames.dtype != torch.uint8:
            raise ValueError(
                f"first_frames: got {_describe(starts.frames)}, expected uint8 (N, 3, {size}, {size}) or (N, T, ...)"
            )
        if not len(starts):
            raise ValueError("first_frames: expected at least one frame to dream from, got none")
        self.actions.check(starts.actions, "first_frames.actions", tuple(starts.actions.shape[:2]))
        return starts

    def _pictures(self) -> np.ndarray:
        assert self._dream is not None
        return np.ascontiguousarray(self._dream.frames.permute(0, 2, 3, 1).numpy())

    def _first_info(self) -> dict[str, np.ndarray]:
        """The names of _info at a start, which nothing predicted."""
        assert self._dream is not None
        tokens = self._dream.state.obs_tokens.cpu().numpy()
        return {
            "obs_tokens": tokens,
            "token_entropy": np.zeros(tokens.shape, dtype=np.float32),
            "reward_probabilities": np.tile(np.array([0, 1, 0], dtype=np.float32), (self.num_envs, 1)),
            "termination_probability": np.zeros(self.num_envs, dtype=np.float32),
        }

    def _masked(self, infos: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
        """The infos and the starts' numbers, each with its mask as Gymnasium's vector environments have it."""
        infos = {**infos, "first_frame": self._first_frames.copy()}
        return infos | {f"_{name}": mask.copy() for name in infos}


class DreamEnv(gymnasium.Env):
    """One dream: see `DreamVectorEnv`, whose options it takes, all but num_envs and autoreset_mode."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}  # type: ignore[misc]

    def __init__(
        self,
        agent: Dreamer,
        first_frames: Segment | Tensor | np.ndarray,
        horizon: int = 500,
        **options: Any,
    ) -> None:
        self._dreams = DreamVectorEnv(
            agent, first_frames, 1, horizon, autoreset_mode=AutoresetMode.DISABLED, **options
        )
        self.render_mode = self._dreams.render_mode
        self.observation_space = self._dreams.single_observation_space
        self.action_space = self._dreams.single_action_space

    @property
    def temperature(self) -> float:
        """Of the world's draws."""
        return self._dreams.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._dreams.temperature = temperature

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream; the observation is the start's reconstruction."""
        super().reset(seed=seed)
        observations, infos = self._dreams.reset(seed=seed, options=options)
        return observations[0], _first_row(infos)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Dream what the action brings."""
        checked = self._dreams.actions.check(action, "action")
        observations, rewards, terminations, truncations, infos = self._dreams.step(checked[None])
        ends = bool(terminations[0]), bool(truncations[0])
        return observations[0], float(rewards[0]), *ends, _first_row(infos)

    def render(self) -> Any:
        """The current frame, (H, W, C) uint8, in render mode rgb_array."""
        frames = self._dreams.render()
        return None if frames is None else frames[0]


def _first_row(infos: dict[str, Any]) -> dict[str, Any]:
    info = {name: value[0] for name, value in infos.items() if not name.startswith("_")}
    return info | {name: info[name].item() for name in ("termination_probability", "first_frame")}


def _info(outcome: Outcome) -> dict[str, np.ndarray]:
    told = {
        "obs_tokens": outcome.measures["tokens"],
        "token_entropy": outcome.measures["token_entropy"],
        "reward_probabilities": outcome.measures["reward_probabilities"],
        "termination_probability": outcome.termination_probability,
    }
    return {name: value.cpu().numpy() for name, value in told.items()}


def _objects(observations: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Rows of the mask as an object array, None elsewhere."""
    result = np.full(len(mask), None, dtype=object)
    for row in np.flatnonzero(mask):
        result[row] = observations[row].copy()
    return result


def _describe(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
