"""Which run a notebook looks at: yours, the demo's, or a small one that the first notebook trains for all.

The environment variable IRIS_WM_SHORT makes that one much smaller: enough to see that a notebook runs, not to learn.
IRIS_WM_NOTEBOOK_RUNS names the folder to keep it in, in place of runs/ in the repository.
"""

import os
import time
import warnings
from pathlib import Path

from iris_wm.checkpoint.errors import RunInUse
from iris_wm.config import apply_overrides, build_config, config_hash
from iris_wm.runs.config import RunConfig
from iris_wm.runs.open import Run, open_run
from iris_wm.strict_yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]
IS_SHORT = bool(os.environ.get("IRIS_WM_SHORT"))
_FEW_STEPS = [
    "collection.first_epoch_env_steps=800",
    "collection.env_steps_per_epoch=80",
    "tokenizer.optimization.first_epoch_steps=40",
    "world.optimization.first_epoch_steps=30",
    "world.optimization.steps_per_epoch=5",
    "policy.optimization.steps_per_epoch=2",
]


def open_agent(run: str = "") -> Run:
    """The run in the folder `run`; without one runs/demo if it is there, else runs/notebook-..., trained if need be."""
    if run:
        return open_run(ROOT / run)
    demo = ROOT / "runs" / "demo"
    if not IS_SHORT and any((demo / "checkpoints").glob("step-*")):
        return open_run(demo)
    mapping = apply_overrides(read_yaml(ROOT / "configs" / "notebook.yaml"), _FEW_STEPS if IS_SHORT else [])
    config = build_config(RunConfig, mapping)
    # A run belongs to its config; another config, or another version's defaults, make another run.
    runs = Path(os.environ.get("IRIS_WM_NOTEBOOK_RUNS", ROOT / "runs"))
    folder = runs / f"notebook-{config_hash(config)[:8]}"
    _train_once(config, folder)
    return open_run(folder)


def _train_once(config: RunConfig, folder: Path) -> None:
    """Train the run to its end; where another notebook is at it, wait for it."""
    from iris_wm.training.train import fit

    warnings.filterwarnings("ignore", module="lightning")
    is_waiting = False
    while True:
        try:
            fit(config, folder, is_quiet=True)
            return
        except RunInUse:
            if not is_waiting:
                print("another notebook trains the small agent; waiting for it")
            is_waiting = True
            time.sleep(1)
