"""What can be done in a game: n axes of choices, whatever Gymnasium calls it."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


@dataclass(frozen=True)
class ActionSpace:
    """n axes of choices; the action of a step is n whole numbers, (n,) int64, each from 0 to its size - 1.

    Discrete spaces have one axis. Continuous axes are cut into bins.

    sizes: choices of each axis. names: of the choices where there is one axis, else of the axes. space: what
    `to_env` translates to.
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...]
    space: gymnasium.Space | None = None
    centres: tuple[np.ndarray, ...] = ()
    """Values of the bins of each axis, where the space is continuous."""

    @property
    def num_axes(self) -> int:
        """n."""
        return len(self.sizes)

    @staticmethod
    def discrete(num_actions: int, names: tuple[str, ...] = ()) -> "ActionSpace":
        """One axis of num_actions choices."""
        names = names or tuple(str(action) for action in range(num_actions))
        return ActionSpace((num_actions,), names, spaces.Discrete(num_actions))

    @staticmethod
    def of(space: gymnasium.Space, num_bins: int = 11, names: tuple[str, ...] = ()) -> "ActionSpace":
        """The axes of a Gymnasium space: Discrete, MultiDiscrete, MultiBinary or a bounded Box.

        Raises:
            ValueError: another kind of space, or a Box without bounds.
        """
        if isinstance(space, spaces.Discrete):
            sizes: tuple[int, ...] = (int(space.n),)
            names = names or tuple(str(int(space.start) + i) for i in range(sizes[0]))
            return ActionSpace(sizes, names, space)
        if isinstance(space, spaces.MultiDiscrete):
            sizes = tuple(int(size) for size in space.nvec.reshape(-1))
        elif isinstance(space, spaces.MultiBinary):
            sizes = (2,) * int(np.prod(space.shape))
        elif isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
            sizes = (num_bins,) * int(np.prod(space.shape))
        else:
            raise ValueError(
                f"action space: got {space}, expected Discrete, MultiDiscrete, MultiBinary or a Box with bounds; "
                "wrap the environment to offer one of these"
            )
        names = names or tuple(f"axis {i}" for i in range(len(sizes)))
        centres: tuple[np.ndarray, ...] = ()
        if isinstance(space, spaces.Box):
            bounds = zip(space.low.reshape(-1), space.high.reshape(-1), strict=True)
            centres = tuple(np.linspace(low, high, num_bins) for low, high in bounds)
        return ActionSpace(sizes, names, space, centres)

    def to_env(self, action: Tensor) -> Any:
        """What env.step takes for an action (n,) int64."""
        values = np.asarray(action, dtype=np.int64)
        if self.centres:
            values = np.array([centre[i] for centre, i in zip(self.centres, values, strict=True)])
        if self.space is None or isinstance(self.space, spaces.Discrete):
            return int(values[0]) + int(getattr(self.space, "start", 0))
        if isinstance(self.space, spaces.MultiDiscrete):
            values = values + self.space.start.reshape(-1)
        return values.astype(self.space.dtype).reshape(self.space.shape)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """(num, n) int64, uniformly random."""
        return torch.stack([torch.randint(size, (num,), generator=generator) for size in self.sizes], dim=1)

    def check(self, actions: Any, where: str) -> Tensor:
        """Actions (..., n) as an int64 tensor; where there is one axis, (...) is taken for (..., 1).

        Raises:
            ValueError: no whole numbers, another number of axes, or a choice that is not there.
        """
        try:
            array = actions.cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        except (TypeError, ValueError, RuntimeError):
            array = np.empty(0, dtype=object)
        expected = (
            f"whole numbers of 0 to {self.sizes[0] - 1}"
            if self.num_axes == 1
            else (f"{self.num_axes} whole numbers below {', '.join(map(str, self.sizes))}")
        )
        if array.dtype.kind not in "iu":
            raise ValueError(f"{where}: got {_short(actions)}, expected {expected}")
        if self.num_axes == 1 and array.shape[-1:] != (1,):
            array = array[..., None]
        if array.shape[-1:] != (self.num_axes,):
            raise ValueError(f"{where}: got {_short(actions)}, expected {expected}")
        if array.size and ((array < 0) | (array >= np.array(self.sizes))).any():
            raise ValueError(f"{where}: got {_short(actions)}, expected {expected}")
        return torch.from_numpy(array.astype(np.int64))


def _short(value: Any) -> str:
    text = " ".join(str(value.tolist() if isinstance(value, np.ndarray | Tensor) else value).split())
    return text if len(text) <= 60 else text[:57] + "..."
