"""The fast preset on one game for as long as there is time: the command line trains, stops, resumes and plays."""

import json
import subprocess
import sys
from typing import Any

from presets import FILES, FOLDER
from stage import Stage

EVALUATION = 45.0  # seconds for it at the end
SMALL = (
    *("--training.num_epochs", "1", "--trainer.num_threads", "1", "--trainer.accelerator", "cpu"),
    *(
        "--collection.first_epoch_env_steps",
        "10",
        "--evaluation.max_steps",
        "5",
        "--evaluation.every_epochs",
        "0",
    ),
)


def run(stage: Stage) -> None:
    """Train, then play: two cases, since the second says what the first has learned."""
    folder = stage.work / f"learn-{stage.game}"
    # Case by case a resumed stage repeats only what failed; a run that has not finished is to go on.
    stage.case(f"fit {stage.game}, {stage.seconds_left():.0f} s", _fit, stage, folder)
    stage.case(f"play {stage.game}", _play, stage, folder)


def _fit(stage: Stage, folder: Any) -> dict[str, Any]:
    minutes = max(0.1, (stage.seconds_left() - EVALUATION) / 60)
    file = FOLDER / FILES["debug" if stage.is_small else "fast"]
    options = SMALL if stage.is_small else ("--trainer.accelerator", "gpu")
    code = _iris_wm(
        stage, "fit", "--config", str(file), "--run", str(folder), "--quiet", "--env.id", stage.game,
        "--training.max_minutes", f"{minutes:.2f}", *options,
    )  # fmt: skip
    assert code in (0, 143), f"iris-wm fit ended with code {code}"
    return {"minutes_allowed": minutes, "has_finished": code == 0}


def _play(stage: Stage, folder: Any) -> dict[str, Any]:
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    episodes = "1" if stage.is_small else "4"
    code = _iris_wm(stage, "evaluate", str(folder), "--episodes", episodes, "--output", str(result))
    assert code == 0, f"iris-wm evaluate ended with code {code}"
    found = json.loads(result.read_text())
    return {
        "env_steps": found["env_steps"],
        "minutes": found["wall_seconds"] / 60,
        "returns": found["evaluation"]["returns"],
        "human_normalized_score": found["human_normalized_score"],
        "curve": [(point["env_steps"], point["mean_return"]) for point in found["curve"]],
    }


def _iris_wm(stage: Stage, *arguments: str) -> int:
    """The command's exit code; its output goes to the stage's log."""
    return subprocess.run((sys.executable, "-m", "iris_wm", *arguments), cwd=stage.work).returncode
