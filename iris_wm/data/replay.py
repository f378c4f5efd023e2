"""The store of real episodes, and how batches of their pieces are drawn from it.

All steps lie in arrival order in one uint8 tensor on the training device, so that a batch is one gather. On a
CPU the tensor is reserved at once and the operating system hands out memory only as steps arrive; on an
accelerator it grows in four-fold steps up to the capacity and never holds two copies there. 100,000 frames of
3x64x64 take 1.23 GB.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from iris_wm.config import Config, NonNegativeInt
from iris_wm.data.episode import Episode
from iris_wm.data.segment import Segment
from iris_wm.protocols import Learner, Pieces, Source
from iris_wm.spaces import ActionSpace
from iris_wm.streams import stream_generator

_FIRST_RESERVATION = 4096
"""Frames reserved first on an accelerator (50 MB)."""


@dataclass(frozen=True)
class ReplayConfig(Config):
    """From which steps networks learn."""

    sampling: Literal["episodes", "steps"] = "episodes"
    """episodes: every episode is as likely as any other, whatever its length (the paper's). steps: every step is; where
    good play makes long episodes, the many short ones of the beginning count for little."""
    newest_steps: NonNegativeInt = 0
    """Only pieces that touch the last so many steps; 0: all. Needs sampling: steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.newest_steps and self.sampling == "episodes":
            raise ValueError(f"newest_steps: got {self.newest_steps}, expected 0 where sampling is episodes")


class Replay:
    """Up to `capacity` steps of any number of episodes; several episodes may be open at the same time.

    Nothing is ever thrown away: a step more than `capacity` is a ValueError. Episodes are numbered 0, 1, ...
    in the order of `start_episode`; step indices 0, 1, ... are the order of arrival, whatever the episode.
    """

    def __init__(
        self,
        capacity: int,
        actions: ActionSpace,
        frame_shape: tuple[int, int, int] = (3, 64, 64),
        device: torch.device | str = "cpu",
        config: ReplayConfig | None = None,
    ) -> None:
        """actions: what can be done. frame_shape: (C, H, W). device: where steps are stored and batches are made."""
        self.config = config or ReplayConfig()
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"replay.capacity: expected a number of steps of at least 1, got {capacity!r}")
        if len(frame_shape) != 3 or any(size < 1 for size in frame_shape):
            raise ValueError(
                f"replay.frame_shape: expected (C, H, W) of at least 1 each, got {frame_shape!r}"
            )
        self.capacity = capacity
        self.actions = actions
        self.frame_shape = tuple(frame_shape)
        self.device = torch.device(device)
        self._frames = torch.empty((0, *self.frame_shape), dtype=torch.uint8, device=self.device)
        self._actions = torch.zeros((capacity, actions.num_axes), dtype=torch.int64, device=self.device)
        self._rewards = torch.zeros(capacity, dtype=torch.float32, device=self.device)
        self._terminations = torch.zeros(capacity, dtype=torch.bool, device=self.device)
        self._truncations = torch.zeros(capacity, dtype=torch.bool, device=self.device)
        self._episode_ids = torch.zeros(capacity, dtype=torch.int64)
        self._finished: list[bool] = []
        self._num_steps = 0
        self._layout_cache: tuple[Tensor, Tensor, Tensor] | None = None
        self._places_cache: Tensor | None = None

    def __len__(self) -> int:
        return self._num_steps

    @property
    def num_steps(self) -> int:
        """Steps stored so far."""
        return self._num_steps

    @property
    def num_episodes(self) -> int:
        """Episodes started so far, also those without a step yet."""
        return len(self._finished)

    def start_episode(self) -> int:
        """Opens an episode and returns its id."""
        self._finished.append(False)
        self._layout_cache = None
        return len(self._finished) - 1

    def extend(self, episode: Episode) -> int:
        """Adds a whole episode, which stays open where it is not finished; returns its id."""
        episode_id = self.start_episode()
        self.append(episode_id, **{each.name: getattr(episode, each.name) for each in fields(episode)})
        return episode_id

    def append(
        self,
        episode_id: int,
        frames: Tensor,
        actions: Tensor,
        rewards: Tensor,
        terminations: Tensor,
        truncations: Tensor,
    ) -> None:
        """Adds steps to an open episode; row t: the frame seen, the action taken in it, what that brought.

        frames: (num, C, H, W) uint8. actions: (num, n) integers. rewards: (num,) finite, unclipped.
        terminations, truncations: (num,) bool; True at most in the last row, which then closes the episode.
        Raises ValueError for an unknown or finished episode, other shapes or dtypes, and a full replay, and
        stores nothing then.
        """
        self._check_episode_id(episode_id)
        if self._finished[episode_id]:
            raise ValueError(
                f"replay episode {episode_id}: it has ended; start a new episode before appending"
            )
        columns = self._check_columns(frames, actions, rewards, terminations, truncations)
        done = columns["terminations"] | columns["truncations"]
        if bool(done[:-1].any()):
            row = int(done.nonzero()[0])
            raise ValueError(
                f"replay episode {episode_id}: it ends in row {row} of {len(done)}; only the last may end it"
            )
        self._store(columns, torch.full((len(done),), episode_id, dtype=torch.int64))
        if len(done):
            self._finished[episode_id] = bool(done[-1])

    def indices(self, pieces: Pieces, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws pieces by IRIS's rule: (frame_indices, is_real).

        An episode is drawn uniformly, whatever its length, and then a step of it (or a step at once: see
        `ReplayConfig`). With from_start the piece begins there and what runs past the end is padding; without, it ends
        there and what lies before the beginning is padding (what imagination needs: it always ends with a real frame).

        generator: on the CPU; the result depends on it and on the steps stored, on nothing else.
        Returns (B, T) int64, 0 where padded, and (B, T) bool, both on the CPU.
        """
        num, length, from_start = pieces
        for name, value in (("batch_size", num), ("num_steps", length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"replay pieces: {name}: expected an integer of at least 1, got {value!r}")
        if self._num_steps == 0:
            raise ValueError("replay pieces: the replay is empty; collect steps before training")
        order, starts, lengths = self._layout()
        if self.config.sampling == "episodes":
            candidates = lengths.nonzero().squeeze(1)
            episodes = candidates[torch.randint(len(candidates), (num,), generator=generator)]
            uniform = torch.rand(num, generator=generator, dtype=torch.float64)
            offsets = (uniform * lengths[episodes]).long().clamp_(max=lengths[episodes] - 1)
        else:
            oldest = max(0, self._num_steps - (self.config.newest_steps or self._num_steps))
            steps = torch.randint(oldest, self._num_steps, (num,), generator=generator)
            episodes = self._episode_ids[steps]
            offsets = self._places()[steps] - starts[episodes]
        if not from_start:
            offsets -= length - 1
        positions = offsets[:, None] + torch.arange(length)
        is_real = (positions >= 0) & (positions < lengths[episodes][:, None])
        rows = (starts[episodes][:, None] + positions).masked_fill_(~is_real, 0)
        return order[rows].masked_fill_(~is_real, 0), is_real

    def gather(self, frame_indices: Tensor, is_real: Tensor) -> Segment:
        """The steps at (B, T) indices as a batch on the replay's device; zeros and False where not real.

        Indices are trusted when they lie on an accelerator already and checked otherwise (ValueError).
        """
        if frame_indices.shape != is_real.shape or frame_indices.ndim != 2:
            raise ValueError(
                f"replay gather: expected two (B, T) tensors, got {tuple(frame_indices.shape)} and "
                f"{tuple(is_real.shape)}"
            )
        if frame_indices.device.type == "cpu" and frame_indices.numel():
            low, high = int(frame_indices.min()), int(frame_indices.max())
            if low < 0 or high >= self._num_steps:
                raise ValueError(
                    f"replay gather: index {low if low < 0 else high} is outside 0..{self._num_steps - 1}"
                )
        frame_indices = frame_indices.to(self.device, non_blocking=True)
        is_real = is_real.to(self.device, non_blocking=True)
        padded = ~is_real
        flat = frame_indices.flatten()

        def rows(column: Tensor) -> Tensor:
            return column.index_select(0, flat).unflatten(0, frame_indices.shape)

        return Segment(
            frames=rows(self._frames).masked_fill_(padded[..., None, None, None], 0),
            actions=rows(self._actions).masked_fill_(padded[..., None], 0),
            rewards=rows(self._rewards).masked_fill_(padded, 0),
            terminations=rows(self._terminations).masked_fill_(padded, False),
            is_real=is_real,
            frame_indices=frame_indices.masked_fill(padded, 0),
        )

    def frames_at(self, frame_indices: Tensor) -> Tensor:
        """Frames at any shape of step indices: (..., C, H, W) uint8 on the replay's device."""
        flat = frame_indices.to(self.device).flatten()
        return self._frames.index_select(0, flat).unflatten(0, frame_indices.shape)

    def episode_indices(self, episode_id: int) -> Tensor:
        """(T,) int64 on the CPU: the step indices of an episode, in its own order."""
        self._check_episode_id(episode_id)
        order, starts, lengths = self._layout()
        start = int(starts[episode_id])
        return order[start : start + int(lengths[episode_id])].clone()

    def episode(self, episode_id: int) -> Episode:
        """A copy of an episode so far, on the replay's device."""
        indices = self.episode_indices(episode_id).to(self.device)
        return Episode(**{name: column.index_select(0, indices) for name, column in self._columns().items()})

    def export_steps(self, start: int, stop: int) -> dict[str, Tensor]:
        """Steps start to stop in order of arrival, on the CPU: the five columns of `append` and episode_ids.

        Raises ValueError unless 0 <= start <= stop <= num_steps.
        """
        if not 0 <= start <= stop <= self._num_steps:
            raise ValueError(
                f"replay export: expected 0 <= start <= stop <= {self._num_steps}, got {start}, {stop}"
            )
        steps = {name: column[start:stop].to("cpu", copy=True) for name, column in self._columns().items()}
        return {**steps, "episode_ids": self._episode_ids[start:stop].clone()}

    def extend_from_steps(self, steps: dict[str, Tensor], num_episodes: int | None = None) -> None:
        """Adds what `export_steps` gave, as it was: after all parts in order, the replay is the exported one.

        num_episodes: starts empty episodes up to that number (an open episode may have no step yet).
        Raises ValueError, storing nothing, if columns are missing or do not fit each other or the replay.
        """
        names = [field.name for field in fields(Episode)]
        missing = [name for name in [*names, "episode_ids"] if name not in steps]
        if missing or len(steps) != len(names) + 1:
            raise ValueError(f"replay steps: expected columns {[*names, 'episode_ids']}, got {sorted(steps)}")
        columns = self._check_columns(**{name: steps[name] for name in names})
        episode_ids = steps["episode_ids"].to("cpu", torch.int64)
        if episode_ids.shape != columns["rewards"].shape or bool((episode_ids < 0).any()):
            raise ValueError(
                f"replay steps: episode_ids: expected {len(columns['rewards'])} ids of at least 0"
            )
        needed = int(episode_ids.max()) + 1 if len(episode_ids) else 0
        needed = max(needed, self.num_episodes)
        if num_episodes is not None and num_episodes < needed:
            raise ValueError(f"replay steps: num_episodes: expected at least {needed}, got {num_episodes}")
        done = columns["terminations"] | columns["truncations"]
        finished = dict(enumerate(self._finished))
        for row, (episode_id, ends) in enumerate(zip(episode_ids.tolist(), done.tolist(), strict=True)):
            if finished.get(episode_id, False):
                raise ValueError(
                    f"replay steps: row {row} belongs to episode {episode_id}, which has ended before"
                )
            finished[episode_id] = ends
        self._store(columns, episode_ids)
        self._finished = [finished.get(episode_id, False) for episode_id in range(num_episodes or needed)]

    def _columns(self) -> dict[str, Tensor]:
        return {
            "frames": self._frames,
            "actions": self._actions,
            "rewards": self._rewards,
            "terminations": self._terminations,
            "truncations": self._truncations,
        }

    def _layout(self) -> tuple[Tensor, Tensor, Tensor]:
        """(order, starts, lengths): order[starts[e] :][: lengths[e]] are the step indices of episode e."""
        if self._layout_cache is None:
            episode_ids = self._episode_ids[: self._num_steps]
            lengths = torch.bincount(episode_ids, minlength=self.num_episodes)
            starts = torch.cumsum(lengths, 0) - lengths
            self._layout_cache = torch.argsort(episode_ids, stable=True), starts, lengths
            self._places_cache = None
        return self._layout_cache

    def _places(self) -> Tensor:
        """Where each step stands in the order of `_layout`."""
        order = self._layout()[0]
        if self._places_cache is None:
            self._places_cache = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        return self._places_cache

    def _store(self, columns: dict[str, Tensor], episode_ids: Tensor) -> None:
        start, stop = self._num_steps, self._num_steps + len(episode_ids)
        if stop > self.capacity:
            raise ValueError(
                f"replay.capacity: expected room for {stop} steps, got {self.capacity}; "
                f"raise it to at least the environment steps of the whole run"
            )
        self._reserve(stop)
        for name, column in self._columns().items():
            column[start:stop] = columns[name].to(self.device)
        self._episode_ids[start:stop] = episode_ids
        self._num_steps = stop
        self._layout_cache = None

    def _reserve(self, num_frames: int) -> None:
        """Makes room for that many frames; on an accelerator the old ones pass through host memory."""
        reserved = len(self._frames)
        if num_frames <= reserved:
            return
        size = self.capacity
        if self.device.type != "cpu":
            size = min(self.capacity, max(num_frames, _FIRST_RESERVATION, 4 * reserved))
        kept = self._frames[: self._num_steps].cpu()
        self._frames = torch.empty(0, dtype=torch.uint8)
        self._frames = torch.empty((size, *self.frame_shape), dtype=torch.uint8, device=self.device)
        self._frames[: self._num_steps] = kept.to(self.device)

    def _check_episode_id(self, episode_id: int) -> None:
        if isinstance(episode_id, bool) or not isinstance(episode_id, int):
            raise ValueError(f"replay episode: expected an integer id, got {episode_id!r}")
        if not 0 <= episode_id < self.num_episodes:
            raise ValueError(
                f"replay episode {episode_id}: there are {self.num_episodes} episodes, counted from 0"
            )

    def _check_columns(
        self, frames: Tensor, actions: Tensor, rewards: Tensor, terminations: Tensor, truncations: Tensor
    ) -> dict[str, Tensor]:
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self.frame_shape:
            raise ValueError(
                f"replay frames: expected uint8 (n, {', '.join(map(str, self.frame_shape))}), "
                f"got {frames.dtype} {tuple(frames.shape)}"
            )
        num = len(frames)
        columns = {
            "rewards": rewards,
            "terminations": terminations,
            "truncations": truncations,
        }
        for name, column in columns.items():
            if tuple(column.shape) != (num,):
                raise ValueError(
                    f"replay {name}: expected ({num},), as many as frames, got {tuple(column.shape)}"
                )
        if not bool(torch.isfinite(rewards).all()):
            raise ValueError("replay rewards: expected finite numbers, got NaN or infinity")
        for name in ("terminations", "truncations"):
            if columns[name].dtype != torch.bool:
                raise ValueError(f"replay {name}: expected bool, got {columns[name].dtype}")
        columns["actions"] = self.actions.check(actions, "replay actions", (num,))
        columns["rewards"] = rewards.to(torch.float32)
        return {"frames": frames, **columns}


class Batches:
    """What learners take from a source; rank keeps the processes of a distributed run apart."""

    def __init__(self, source: Source, seed: int, rank: int = 0) -> None:
        self.source, self.seed, self.rank = source, seed, rank

    def segment(self, learner: Learner, epoch: int, index: int) -> Segment:
        """The batch of a learner's index-th step in an epoch, where the source is."""
        return self.source.gather(*self._indices(learner, epoch, index))

    def frames_needed(self, learner: Learner, epoch: int) -> Tensor:
        """(num_steps of the source,) bool: the frames that a learner will be given in an epoch."""
        needed = torch.zeros(self.source.num_steps, dtype=torch.bool)
        for index in range(learner.optimization.num_steps(epoch)):
            needed[self._indices(learner, epoch, index)[0].flatten()] = True
        return needed

    def _indices(self, learner: Learner, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        generator = stream_generator(self.seed, f"{learner.name} batch {epoch} rank {self.rank}", index)
        return self.source.indices(learner.pieces, generator)
