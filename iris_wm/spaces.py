"""What can be done in a game: n axes of choices, whatever Gymnasium calls it; how networks read and choose actions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import iris_kernels
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from iris_wm.streams import Draw


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

    @property
    def numbers(self) -> gymnasium.Space:
        """The space of the whole numbers themselves, which our environments and dreams take: from 0, without bins."""
        if self.num_axes == 1:
            return spaces.Discrete(self.sizes[0])
        return spaces.MultiDiscrete(np.array(self.sizes))

    @staticmethod
    def discrete(*sizes: int, names: tuple[str, ...] = ()) -> "ActionSpace":
        """One axis of so many choices for each size."""
        return ActionSpace(sizes, names or _numbered(sizes))

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
        names = names or _numbered(sizes)
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
        space = self.numbers if self.space is None else self.space
        if isinstance(space, spaces.Discrete):
            return int(values[0]) + int(space.start)
        if isinstance(space, spaces.MultiDiscrete):
            values = values + space.start.reshape(-1)
        return values.astype(space.dtype).reshape(space.shape)

    def label(self, action: Tensor) -> str:
        """An action (n,) in words: its name where there is one axis, else the numbers."""
        return self.names[int(action)] if self.num_axes == 1 else " ".join(map(str, action.tolist()))

    def check(self, actions: Any, where: str, batch: tuple[int, ...] = ()) -> Tensor:
        """Actions (*batch, n) as an int64 tensor on the CPU; where there is one axis, (*batch) will do.

        Raises:
            ValueError: no whole numbers, too few or too many, or a choice that is not there.
        """
        try:
            array = actions.cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        except (TypeError, ValueError, RuntimeError):  # rows of unequal lengths
            array = np.empty(0, dtype=object)
        if self.num_axes == 1 and array.shape == batch:
            array = array[..., None]
        if (
            array.dtype.kind not in "iu"
            or array.shape != (*batch, self.num_axes)
            or ((array < 0) | (array >= np.array(self.sizes))).any()
        ):
            shape = batch if self.num_axes == 1 else (*batch, self.num_axes)
            limits = ", ".join(str(size - 1) for size in self.sizes)
            what = f"{shape} whole numbers" if shape else "a whole number"
            raise ValueError(f"{where}: got {_short(actions)}, expected {what} of 0 to {limits}")
        return torch.from_numpy(array.astype(np.int64))


class ActionEmbedding(nn.Embedding):
    """Actions (..., n) int64 -> (..., C), the sum of a row for each axis: an action stays one token.

    The tables of all axes stand in one weight, (sum of sizes, C), one below the other.
    """

    def __init__(self, sizes: tuple[int, ...], embed_dim: int) -> None:
        super().__init__(sum(sizes), embed_dim)
        self.sizes = sizes
        self.firsts: Tensor
        self.register_buffer("firsts", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        if len(self.sizes) == 1:
            return super().forward(actions.squeeze(-1))
        return super().forward(actions + self.firsts).sum(-2)


class ActionDistribution:
    """A choice on each axis, independent of the others. logits: (..., sum of sizes), one axis after the other."""

    def __init__(self, logits: Tensor, sizes: tuple[int, ...]) -> None:
        self.logits, self.sizes = logits, sizes

    def __getitem__(self, index: Any) -> "ActionDistribution":
        """Some of the rows."""
        return ActionDistribution(self.logits[index], self.sizes)

    @property
    def axes(self) -> tuple[Tensor, ...]:
        """The logits of each axis, (..., size) float32."""
        return self.logits.float().split(self.sizes, dim=-1)

    @cached_property
    def _log_probs(self) -> list[Tensor]:
        return [logits.log_softmax(-1) for logits in self.axes]

    def log_prob(self, actions: Tensor) -> Tensor:
        """(...) float32 of actions (..., n) int64."""
        taken = zip(self._log_probs, actions.split(1, dim=-1), strict=True)
        return torch.cat([log_probs.gather(-1, choice) for log_probs, choice in taken], dim=-1).sum(-1)

    def entropy(self) -> Tensor:
        """(...) float32, nats."""
        return torch.stack([-(logs.exp() * logs).sum(-1) for logs in self._log_probs]).sum(0)

    def sample(self, draw: Draw, temperature: float = 1.0) -> Tensor:
        """(B, n) int64 of B rows, without gradient; temperature 0 takes the likeliest."""
        drawn = [
            iris_kernels.sample_tokens(logits.contiguous(), *draw, place=axis, temperature=temperature)
            for axis, logits in enumerate(self.axes)
        ]
        return torch.stack(drawn, dim=-1)


class ActionHead(nn.Linear):
    """Features (..., F) -> what to do, an ActionDistribution."""

    def __init__(self, num_features: int, sizes: tuple[int, ...]) -> None:
        super().__init__(num_features, sum(sizes))
        self.sizes = sizes

    def forward(self, features: Tensor) -> ActionDistribution:  # type: ignore[override]
        return ActionDistribution(super().forward(features), self.sizes)


def _numbered(sizes: tuple[int, ...]) -> tuple[str, ...]:
    """Names where there are none."""
    if len(sizes) == 1:
        return tuple(map(str, range(sizes[0])))
    return tuple(f"axis {axis}" for axis in range(len(sizes)))


def _short(value: Any) -> str:
    text = " ".join(str(value.tolist() if isinstance(value, np.ndarray | Tensor) else value).split())
    return text if len(text) <= 60 else text[:57] + "..."
