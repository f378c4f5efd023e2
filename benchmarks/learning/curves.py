"""Several seeds of one game: real and imagined returns over training, the final scores, one picture and one JSON.

    python benchmarks/learning/curves.py runs/freeway/seed-* --output benchmarks/learning/freeway

reads each run's metrics.csv and result.json (written by `iris-wm evaluate` or `iris-wm benchmark atari100k`).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iris_wm.acting import RandomActor
from iris_wm.config import build_config
from iris_wm.envs import make_env
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.evaluation.published import games
from iris_wm.evaluation.result import load_result
from iris_wm.evaluation.scores import human_normalized_score, summarize_returns
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import read_yaml
from iris_wm.visualization.metric_curves import read_metrics

KEPT = (
    "evaluation/return",
    "policy/imagined_return",
    "world/observation_loss",
    "collection/return",
)


def interval(returns: list[float]) -> tuple[float, float]:
    """95% percentile bootstrap of the mean."""
    summary = summarize_returns(returns)
    return summary.low, summary.high


STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5% quantile of Student's t for the mean of so many seeds: a bootstrap of three values would be too narrow."""


def of_seeds(means: list[float]) -> tuple[float, float]:
    """95% interval of the mean over 2 to 5 seeds."""
    half = STUDENT[len(means)] * float(np.std(means, ddof=1)) / len(means) ** 0.5
    return float(np.mean(means)) - half, float(np.mean(means)) + half


def main() -> None:
    """Read the runs, play at random for comparison, write OUTPUT.json and OUTPUT.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--random-episodes", type=int, default=32)
    parser.add_argument("--output", type=Path, required=True, help="without an ending")
    options = parser.parse_args()
    config = build_config(RunConfig, read_yaml(options.runs[0] / "config.yaml"))
    chance = RandomActor(make_env(config.env).actions)
    random = evaluate(
        chance, config.env, num_episodes=options.random_episodes, seed=10**6, num_envs=8
    ).returns
    seeds = []
    for run in options.runs:
        metrics, result = read_metrics(run / "metrics.csv"), load_result(run / "result.json")
        curves = {
            name: [
                [int(step), float(value)] for step, value in zip(curve.env_steps, curve.values, strict=True)
            ]
            for name, curve in metrics.items()
            if name in KEPT
        }
        played = result.evaluation
        seeds.append({"seed": result.seed, "mean": played.mean_return, "returns": list(played.returns),
                      "device_hours": result.device_hours, "curves": curves})  # fmt: skip
    means = [seed["mean"] for seed in seeds]
    summary = {
        "game": config.env.id,
        "env_steps": config.total_env_steps,
        "mean": float(np.mean(means)),
        "interval_over_seeds": of_seeds(means) if len(means) > 1 else None,
        "human_normalized": float(human_normalized_score(config.env.id, np.mean(means)))
        if config.env.id in games()
        else None,
        "random": {
            "mean": float(np.mean(random)),
            "interval": interval(list(random)),
            "returns": list(random),
        },
        "seeds": seeds,
    }
    options.output.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(summary, options.output.with_suffix(".png"), config.imagination.horizon)
    print({key: value for key, value in summary.items() if key != "seeds"} | {"means": means})


def draw(summary: dict, path: Path, horizon: int) -> None:
    """Real returns beside imagined ones, a line a seed."""
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    real, imagined = figure.subplots(1, 2)
    low, high = summary["random"]["interval"]
    real.axhspan(low, high, color="0.85")
    real.axhline(summary["random"]["mean"], color="0.5", linewidth=1, label="random play, 95%")
    for number, seed in enumerate(summary["seeds"]):
        for axes, name in ((real, "evaluation/return"), (imagined, "policy/imagined_return")):
            points = np.array(seed["curves"].get(name, np.zeros((0, 2))))
            axes.plot(*points.T, color=f"C{number}", linewidth=1.3, label=f"seed {seed['seed']}")
        final = summary["env_steps"]
        error = np.abs(np.array(interval(seed["returns"])) - seed["mean"])[:, None]
        real.errorbar(final, seed["mean"], error, color=f"C{number}", marker="o", capsize=3)
    real.set(
        title=f"{summary['game']}: real games", xlabel="agent steps in the real game", ylabel="mean return"
    )
    imagined.set(title="in the dream", xlabel="agent steps in the real game",
                 ylabel=f"reward signs in {horizon} imagined steps")  # fmt: skip
    real.legend(frameon=False, fontsize=8)
    for axes in (real, imagined):
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    main()
