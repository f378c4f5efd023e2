"""The seams: what a world, an actor, a source of data and a learner offer, so that each can be exchanged.

Letters as everywhere: B batch, T steps, K tokens per frame, n axes of an action, C H W image, F features.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from iris_wm.data.segment import Segment
from iris_wm.optimization import OptimizationConfig
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw

if TYPE_CHECKING:
    from iris_wm.data.replay import Batches

S = TypeVar("S")
M = TypeVar("M")
Named = dict[str, Tensor]
"""Scalars by name."""


class Outcome(NamedTuple):
    """What one imagined step of B games brought; every field is (B,).

    rewards: float32, drawn. terminations: bool, drawn. reward_mean: float32, of the reward's distribution.
    termination_probability: float32. measures: what else the world can say of the step, by name, (B, ...) each
    (tokens, entropy, disagreement, surprise): shown, measured, or given as a bonus; nothing depends on it.
    """

    rewards: Tensor
    terminations: Tensor
    reward_mean: Tensor
    termination_probability: Tensor
    measures: dict[str, Tensor]


class World(Protocol[S]):
    """B imagined games. Their state S is a batch that step takes and gives back.

    A state that was given to follow, step or put is spent (they may write in place); fork copies. Rows are
    independent: a row goes the same way alone, beside others, and after a neighbour was replaced.
    """

    actions: ActionSpace

    def observe(self, past: Segment) -> S:
        """The state after B pieces of real games, (B, T), padding in front.

        The last step's frame is where imagining begins; its action is still to be chosen and is not read.
        """
        ...

    def follow(self, state: S, actions: Tensor, frames: Tensor) -> S:
        """The state after a real step: actions (B, n) int64 brought frames (B, C, H, W) uint8."""
        ...

    def step(self, state: S, actions: Tensor, draw: Draw, *, needs_frame: bool = True) -> tuple[S, Outcome]:
        """Imagine what the actions (B, n) int64 bring; every random number comes from draw.

        needs_frame: False where the caller looks at the outcome alone and drops the state.
        """
        ...

    def fork(self, state: S, rows: Tensor) -> S:
        """A new state of the rows (M,) int64 on the CPU: repeats, reorders or drops games."""
        ...

    def put(self, state: S, rows: Tensor, games: S) -> S:
        """The state with the rows (M,) int64 on the CPU replaced by M other games: how a row starts again."""
        ...

    def features(self, state: S) -> Tensor:
        """(B, F) float32: what a policy, a value or a planner may look at."""
        ...

    def frames(self, state: S) -> Tensor | None:
        """(B, C, H, W) uint8, the current frames as the world knows them; None where it has no decoder."""
        ...


class Actor(Protocol[M]):
    """Chooses actions in B games, real or dreamed, with a memory M of each: an agent, a planner, chance, a keyboard."""

    actions: ActionSpace

    def start(self, batch_size: int) -> M:
        """The memory at the start of an episode."""
        ...

    def act(self, frames: Tensor, memory: M, draw: Draw) -> tuple[Tensor, M]:
        """Actions (B, n) int64 on the CPU for frames (B, C, H, W) uint8, and the memory for the next call."""
        ...

    def keep(self, memory: M, rows: Tensor, is_new: Tensor) -> M:
        """The memory of the rows (M,) int64, begun anew where is_new (M,) bool."""
        ...


class Pieces(NamedTuple):
    """What a learner takes from a source for one step: batch_size pieces of num_steps steps.

    from_start: a piece may begin anywhere in an episode and end behind it (else: may end anywhere in it and begin
    before it); what is outside is padding.
    """

    batch_size: int
    num_steps: int
    from_start: bool = True


class Source(Protocol):
    """Real experience: the replay, a data set on disk, films without actions (actions is None)."""

    @property
    def actions(self) -> ActionSpace | None:
        """What can be done; None in films."""
        ...

    @property
    def num_steps(self) -> int:
        """Steps there are."""
        ...

    def indices(self, pieces: Pieces, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw pieces: frame_indices (B, T) int64 and is_real (B, T) bool."""
        ...

    def gather(self, frame_indices: Tensor, is_real: Tensor) -> Segment:
        """The steps of these numbers."""
        ...


class Learner(Protocol):
    """Trains one network. A run is a list of learners; what is learned from what follows from the list alone.

    name: of its config section, its log keys and its place in checkpoints. optimization: when and how it is trained.
    pieces: what a step of it is given.
    """

    name: str
    optimization: OptimizationConfig
    pieces: Pieces

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    def begin_phase(self, batches: "Batches", epoch: int) -> None:
        """Make ready for the epoch's steps: fill a cache, grow a codebook.

        Called before the first step; and again where a run continues in the middle, when it must change no weight.
        """
        ...

    def losses(self, segment: Segment, draw: Draw) -> Iterator[tuple[Named, Named]]:
        """For each update that a batch is good for: losses, whose sum is minimised, and what else is measured.

        Both are scalars by name. Most learners yield once; what is yielded next sees the network updated.

        A measure that is a bool is a check: where it is False, the run ends, and the name is told as what was not
        finite (say "latents"). draw: of the rows of the segment.
        """
        ...
