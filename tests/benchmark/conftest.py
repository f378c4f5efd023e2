"""A benchmark of two games whose jobs are the fake trainer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from iris_wm.benchmark.jobs import Plan

TRAINER = str(Path(__file__).with_name("fake_trainer.py"))
FIT = ("{python}", TRAINER, "fit", "{run}", "{game}", "{seed}", "{env_steps}")
EVALUATE = (
    *("{python}", TRAINER, "evaluate", "{run}", "{game}", "{seed}"),
    *("{episodes}", "tiny", "{env_steps}"),
)


@pytest.fixture(scope="session")
def fake_commands() -> dict[str, tuple[str, ...]]:
    """The fields of a plan whose jobs are the fake trainer."""
    return {"fit": FIT, "evaluate": EVALUATE}


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """Make a plan in a new folder; `options` are the fake trainer's, other arguments the plan's fields."""
    config = tmp_path / "tiny.yaml"
    config.write_text("seed: 0\n")

    def make(*options: str, **fields: object) -> Plan:
        values: dict[str, object] = {
            "output": tmp_path / "bench",
            "preset": "tiny",
            "config": config,
            "games": ("Boxing", "Pong"),
            "seeds": (0, 1),
            "env_steps": 1000,
            "episodes": 2,
            "overrides": options,
            "fit": FIT,
            "evaluate": EVALUATE,
        }
        plan = Plan(**(values | fields))  # type: ignore[arg-type]
        plan.claim_output()
        return plan

    return make
