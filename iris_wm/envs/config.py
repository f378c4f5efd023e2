"""What an environment is: the game and how its frames and episodes are made."""

from dataclasses import dataclass
from typing import Annotated, Literal

from iris_wm.config import Config, Range


@dataclass(frozen=True)
class EnvConfig(Config):
    """One environment; the defaults are the Atari 100k setting of IRIS (Micheli et al., 2023, appendix).

    Fields marked (Atari) have no meaning for other environments, which take one step per action. A ValueError
    names the field, the value and what was expected.
    """

    id: str = "Breakout"
    """An Atari game by its name, or the id of any registered Gymnasium environment ("iris_wm/Catch-v0")."""
    resize: Literal["bilinear_then_max", "area"] = "bilinear_then_max"
    """bilinear_then_max: PIL bilinear, then the maximum of two frames (IRIS); area: maximum, then averages."""
    resolution: Annotated[int, Range(8, 512)] = 64
    """Height and width of frames in pixels."""
    frame_skip: Annotated[int, Range(1, 100)] = 4
    """(Atari) Emulator frames per step; the last two are merged by their maximum."""
    noop_max: Annotated[int, Range(0, 1000)] = 30
    """(Atari) A game begins with 1 to this many no-ops, uniformly; exactly 1 in tests; 0: none."""
    terminal_on_life_loss: bool = True
    """(Atari) Losing a life ends the training episode while the game goes on; never in tests."""
    max_emulator_frames: Annotated[int, Range(1, 2**31 - 1)] = 20_000
    """Emulator frames (elsewhere: steps) after which a training episode is truncated, no-ops included."""
    max_emulator_frames_test: Annotated[int, Range(1, 2**31 - 1)] = 108_000
    """The same in tests."""
    action_bins: Annotated[int, Range(2, 1001)] = 11
    """(Not Atari) Values that each continuous axis of the actions is cut into, its two limits among them."""
    sticky: Annotated[float, Range(0, 1, without=1)] = 0.0
    """(Atari, MinAtar) Probability that an emulator frame repeats the action of the frame before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.id.strip() or not self.id.isprintable():
            raise ValueError(f"id: got {self.id!r}, expected the name of a game or environment")
