"""The rows of the speed table, each side a case of its own: our networks and the eager reference, in one run."""

import statistics
from dataclasses import replace
from typing import Any

from clock import Clock, Row
from presets import preset
from rows import SIZES, Bench, Sizes
from stage import Stage
from works import Work

from iris_wm.runs.config import RunConfig

PARTS = ("roll_outs", "policy", "world", "tokenizer", "acting")
SMALL = Sizes(frames=2, rollout_batches=(2,), horizon=2, update_batch=2, burn_in=2, context=3, rounds=1)


def run(stage: Stage) -> None:
    """The paper's networks, then the fast preset's."""
    usual = replace(SIZES["gpu"], rounds=3)
    for name in ("debug",) if stage.is_small else ("iris", "fast"):
        config = preset(name)
        longest = {
            "horizon": min(usual.horizon, config.imagination.horizon),
            "burn_in": min(usual.burn_in, config.imagination.burn_in),
        }
        with stage.guard(f"{name}: networks"):
            bench = StageBench(stage, name, config, SMALL if stage.is_small else replace(usual, **longest))
            for part in PARTS:
                with stage.guard(f"{name}: {part}"):
                    getattr(bench, part)()


class StageBench(Bench):
    """Times every side as a case of the stage, so that one that fails takes no other with it."""

    def __init__(self, stage: Stage, label: str, config: RunConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes, Clock(device=stage.device))
        self.stage, self.label = stage, label

    def measure(self, name: str, unit: str, amount: float, sides: dict[str, Work], **options: Any) -> Row:
        """A row of the sides that could be measured."""
        seconds: dict[str, float] = {}
        for side, work in sides.items():
            case = self.stage.case(
                f"{self.label}: {name}: {side}", self._time, name, unit, amount, side, work
            )
            if "seconds" in case:
                seconds[side] = case["seconds"]
        return Row(name, unit, amount, seconds)

    def _time(self, name: str, unit: str, amount: float, side: str, work: Work) -> dict[str, Any]:
        """The median of a few rounds after one to warm up; what a second of it brings."""
        self.clock.forget_peak()
        first = self.clock.seconds(work)
        times = [self.clock.seconds(work) for _ in range(self.sizes.rounds)]
        seconds = statistics.median(times)
        return {
            "preset": self.label, "row": name, "side": side, "unit": unit, "amount": amount,
            "first_seconds": first, "seconds": seconds, "per_second": amount / seconds, "peak_mb": self.clock.peak_mb(),
        }  # fmt: skip
