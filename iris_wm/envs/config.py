"""What an environment is: the game and how its frames and episodes are made."""

import math
from dataclasses import dataclass
from typing import Any, Literal

_MAX_RESOLUTION = 512


@dataclass(frozen=True)
class EnvConfig:
    """One environment; the defaults are the Atari 100k setting of IRIS (Micheli et al., 2023, appendix).

    Fields marked (Atari) have no meaning for other environments, which take one step per action. A ValueError
    names the field, the value and what was expected.
    """

    id: str = "Breakout"
    """An Atari game by its name, or the id of any registered Gymnasium environment ("iris_wm/Catch-v0")."""
    resize: Literal["bilinear_then_max", "area"] = "bilinear_then_max"
    """bilinear_then_max: PIL bilinear, then the maximum of two frames (IRIS); area: maximum, then averages."""
    resolution: int = 64
    """Height and width of frames in pixels."""
    frame_skip: int = 4
    """(Atari) Emulator frames per step; the last two are merged by their maximum."""
    noop_max: int = 30
    """(Atari) A game begins with 1 to this many no-ops, uniformly; exactly 1 in tests; 0: none."""
    terminal_on_life_loss: bool = True
    """(Atari) Losing a life ends the training episode while the game goes on; never in tests."""
    max_emulator_frames: int = 20_000
    """Emulator frames (elsewhere: steps) after which a training episode is truncated, no-ops included."""
    max_emulator_frames_test: int = 108_000
    """The same in tests."""
    action_bins: int = 11
    """(Not Atari) Values that each continuous axis of the actions is cut into, its two limits among them."""
    sticky: float = 0.0
    """(Atari) Probability that an emulator frame repeats the action of the frame before."""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip() or not self.id.isprintable():
            raise ValueError(f"id: expected the name of a game or environment, got {self.id!r}")
        if self.resize not in ("bilinear_then_max", "area"):
            raise ValueError(f'resize: expected "bilinear_then_max" or "area", got {self.resize!r}')
        _check_whole("resolution", self.resolution, 8, _MAX_RESOLUTION)
        _check_whole("frame_skip", self.frame_skip, 1, 100)
        _check_whole("noop_max", self.noop_max, 0, 1000)
        if not isinstance(self.terminal_on_life_loss, bool):
            raise ValueError(
                f"terminal_on_life_loss: expected true or false, got {self.terminal_on_life_loss!r}"
            )
        _check_whole("max_emulator_frames", self.max_emulator_frames, 1, 2**31 - 1)
        _check_whole("max_emulator_frames_test", self.max_emulator_frames_test, 1, 2**31 - 1)
        _check_whole("action_bins", self.action_bins, 2, 1001)
        sticky = self.sticky
        if isinstance(sticky, bool) or not isinstance(sticky, (int, float)) or not math.isfinite(sticky):
            raise ValueError(f"sticky: expected a number from 0 to below 1, got {sticky!r}")
        if not 0 <= sticky < 1:
            raise ValueError(f"sticky: expected a probability from 0 to below 1, got {sticky!r}")


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value!r}")
