"""Dream environments built from the folder of a run; iris_wm/__init__.py registers them with Gymnasium."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from iris_wm.dream.dream_batch import DreamStarts
    from iris_wm.dream.env import DreamEnv, DreamVectorEnv

_LEAST_SHARE = 0.1


def make_dream(run: str | Path, *, num_starts: int = 256, starts_seed: int = 0, **options: Any) -> "DreamEnv":
    """A DreamEnv of a run's newest checkpoint that verifies.

    Args:
        run: the run folder.
        num_starts: real frames of the run to begin from, at most.
        starts_seed: which frames these are.
        options: as of DreamEnv.
    """
    from iris_wm.dream.env import DreamEnv

    agent, starts = load_dreamer(run, num_starts, starts_seed)
    return DreamEnv(agent, starts, **options)


def make_dreams(
    run: str | Path, num_envs: int = 1, *, num_starts: int = 256, starts_seed: int = 0, **options: Any
) -> "DreamVectorEnv":
    """A DreamVectorEnv in the same way."""
    from iris_wm.dream.env import DreamVectorEnv

    agent, starts = load_dreamer(run, num_starts, starts_seed)
    return DreamVectorEnv(agent, starts, num_envs, **options)


def load_dreamer(run: str | Path, num_starts: int = 256, seed: int = 0) -> tuple[Any, "DreamStarts"]:
    """The agent of a run and real frames of its replay to begin from, each with the steps before it.

    Raises:
        ValueError: no run folder with a checkpoint, a world model that was never trained, or no frames.
        DamagedState: no checkpoint can be used.
    """
    from iris_wm.runs.open import open_dreamer

    if isinstance(num_starts, bool) or not isinstance(num_starts, int) or num_starts < 1:
        raise ValueError(f"num_starts: got {num_starts}, expected a positive integer")
    opened = open_dreamer(run)
    num_past = opened.agent.world.config.context_steps // 2
    return opened.agent, _choose_starts(opened.checkpoint.replay_parts, num_starts, seed, num_past, str(run))


def _choose_starts(
    parts: Callable[[], Iterable[dict[str, "Tensor"]]], num_starts: int, seed: int, num_past: int, run: str
) -> "DreamStarts":
    """Steps drawn uniformly from those with num_past steps before them in the same episode.

    Where fewer than a tenth of all steps have so many, fewer are asked for. parts is called twice, so that never
    more than one part of the replay is in memory.
    """
    import torch

    from iris_wm.dream.dream_batch import DreamStarts
    from iris_wm.streams import stream_generator

    lengths = [len(rows) for part in parts() for rows in _pieces(part)]
    if not lengths:
        raise ValueError(f'run "{run}": its replay is empty, there are no real frames to dream from')

    def num_candidates(past: int) -> int:
        return sum(max(0, length - past) for length in lengths)

    while num_past and num_candidates(num_past) < _LEAST_SHARE * sum(lengths):
        num_past -= 1
    generator = stream_generator(seed, "dream starts")
    drawn = torch.randperm(num_candidates(num_past), generator=generator)[:num_starts].sort().values
    found: dict[str, list[Tensor]] = {"frames": [], "past_frames": [], "past_actions": []}
    offset = 0
    for part in parts():
        for rows in _pieces(part):
            usable = max(0, len(rows) - num_past)
            here = drawn[(drawn >= offset) & (drawn < offset + usable)] - offset
            for step in (here + num_past).tolist():
                past = rows[step - num_past : step]
                found["frames"].append(part["frames"][rows[step]].clone())
                found["past_frames"].append(part["frames"][past])
                found["past_actions"].append(part["actions"][past])
            offset += usable
    return DreamStarts(**{name: torch.stack(values) for name, values in found.items()})


def _pieces(part: dict[str, "Tensor"]) -> list["Tensor"]:
    """Rows of a part of the replay, for each episode in it, in the episode's order."""
    episode_ids = part["episode_ids"]
    return [(episode_ids == episode_id).nonzero().squeeze(1) for episode_id in episode_ids.unique()]
