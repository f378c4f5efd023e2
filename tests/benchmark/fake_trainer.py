"""Stands for `fit` and `evaluate` in tests: counts env steps in a file, can be killed, writes a real result.

fake_trainer.py fit RUN GAME SEED ENV_STEPS [--step-seconds S] [--crash-once | --exit CODE]
fake_trainer.py evaluate RUN GAME SEED EPISODES PRESET ENV_STEPS
"""

import hashlib
import signal
import sys
import time
from pathlib import Path

from iris_wm.evaluation.published import published
from iris_wm.evaluation.result import CurvePoint, EvaluationRecord, RunResult

CHUNKS = 10


def skill(game: str, seed: int, share: float) -> float:
    """A score that depends on game, seed and progress alone, so that a rerun gives the same table."""
    noise = int(hashlib.sha256(f"{game}{seed}".encode()).hexdigest()[:6], 16) / 0xFFFFFF
    random, human = (published()[name].scores[game][0] for name in ("Random", "Human"))
    return random + (human - random) * share * (0.3 + noise)


def fit(run: Path, game: str, seed: int, env_steps: int, options: list[str]) -> int:
    if "--exit" in options and game in options:
        print(f"Traceback: {game} cannot be trained", file=sys.stderr)
        return int(options[options.index("--exit") + 1])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    run.mkdir(parents=True, exist_ok=True)
    metrics = run / "metrics.csv"
    if not metrics.exists():
        metrics.write_text("env_steps,epoch,name,value\n")
    pause = float(options[options.index("--step-seconds") + 1]) if "--step-seconds" in options else 0.0
    while (done := len(metrics.read_text().splitlines()) - 1) < CHUNKS:
        with metrics.open("a") as file:
            file.write(f"{env_steps * (done + 1) // CHUNKS},{done},collection/return,{done}\n")
        if "--crash-once" in options and done == 4:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGKILL)
        time.sleep(pause)
        if stopped:
            return 143
    return 0


def evaluate(run: Path, game: str, seed: int, episodes: int, preset: str, env_steps: int) -> int:
    returns = [skill(game, seed, 1.0)] * episodes
    curve = [
        CurvePoint(env_steps * part // 5, part, skill(game, seed, part / 5), [skill(game, seed, part / 5)])
        for part in range(1, 6)
    ]
    RunResult(
        game=game,
        seed=seed,
        preset=preset,
        config_hash="0",
        package_version="0",
        commit=None,
        env_steps=env_steps,
        epochs=5,
        wall_seconds=36.0,
        device="cpu",
        evaluation=EvaluationRecord(
            episodes=episodes,
            returns=returns,
            lengths=[100] * episodes,
            policy_temperature=0.5,
            epsilon=0.0,
            sticky_actions=0.0,
            noop_max=30,
            max_emulator_frames=108_000,
            life_loss_terminal=True,
            resize="bilinear_then_max",
            seed=seed,
            full_games=True,
        ),
        curve=curve,
    ).save(run / "result.json")
    return 0


def main() -> int:
    verb, run, game, seed, *rest = sys.argv[1:]
    if verb == "fit":
        return fit(Path(run), game, int(seed), int(rest[0]), rest[1:])
    return evaluate(Path(run), game, int(seed), int(rest[0]), rest[1], int(rest[2]))


if __name__ == "__main__":
    sys.exit(main())
