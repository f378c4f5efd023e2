"""Dream environments built from the folder of a run; iris_wm/__init__.py registers them with Gymnasium."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from iris_wm.data.segment import Segment
    from iris_wm.dream.env import DreamEnv, DreamVectorEnv


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


def load_dreamer(run: str | Path, num_starts: int = 256, seed: int = 0) -> tuple[Any, "Segment"]:
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
) -> "Segment":
    """Steps drawn uniformly, each with up to num_past steps before it in the same episode and padding in front.

    parts is called twice, so that never more than one part of the replay is in memory.
    """
    import torch

    from iris_wm.data.segment import Segment
    from iris_wm.streams import stream_generator

    num_steps = sum(len(part["actions"]) for part in parts())
    if not num_steps:
        raise ValueError(f'run "{run}": its replay is empty, there are no real frames to dream from')
    generator = stream_generator(seed, "dream starts")
    drawn = torch.randperm(num_steps, generator=generator)[:num_starts].sort().values
    frames, actions, is_real = [], [], []
    offset = 0
    for part in parts():
        for rows in _pieces(part):
            here = drawn[(drawn >= offset) & (drawn < offset + len(rows))] - offset
            for step in here.tolist():
                places = torch.arange(step - num_past, step + 1)
                piece = rows[places.clamp(min=0)]
                frames.append(part["frames"][piece])
                actions.append(part["actions"][piece])
                is_real.append(places >= 0)
            offset += len(rows)
    return Segment.seen(torch.stack(frames), torch.stack(actions), torch.stack(is_real))


def _pieces(part: dict[str, "Tensor"]) -> list["Tensor"]:
    """Rows of a part of the replay, for each episode in it, in the episode's order."""
    episode_ids = part["episode_ids"]
    return [(episode_ids == episode_id).nonzero().squeeze(1) for episode_id in episode_ids.unique()]
