"""The whole system learns: Catch, practised in imagination alone, and what must not learn does not.

One seed is part of `make test-product`; `make test-learning` trains three, and the ablations.
"""

import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from iris_wm.acting import AtTemperature
from iris_wm.config import apply_overrides, build_config
from iris_wm.envs.catch import CatchEnv
from iris_wm.envs.config import EnvConfig
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.runs.config import RunConfig
from iris_wm.runs.open import open_run
from iris_wm.strict_yaml import read_yaml
from iris_wm.training.train import fit

ROOT = Path(__file__).parents[2]
NUM_EPISODES = 64
GOOD = 0.9 * CatchEnv.OPTIMAL_RETURN
BAD = CatchEnv.RANDOM_RETURN + 0.25 * (CatchEnv.OPTIMAL_RETURN - CatchEnv.RANDOM_RETURN)
slow = pytest.mark.slow


class ShuffledCatchEnv(CatchEnv):
    """Catch whose rewards come as often as a random policy's, but at any time: nothing brings them about."""

    def step(self, action: int):
        frame, _, terminated, truncated, info = super().step(action)
        reward = self.np_random.choice([-1.0, 0.0, 1.0], p=[0.02, 0.945, 0.035])
        return frame, float(reward), terminated, truncated, info


if "iris_wm_tests/ShuffledCatch-v0" not in gymnasium.registry:
    gymnasium.register("iris_wm_tests/ShuffledCatch-v0", entry_point=ShuffledCatchEnv)


@pytest.fixture
def learn(tmp_path: Path) -> Callable[..., float]:
    """Train configs/catch.yaml, then the mean return over whole games of the real Catch."""

    def learn(seed: int, *overrides: str) -> float:
        values = [f"seed={seed}", "trainer.num_threads=1", "evaluation.every_epochs=0", *overrides]
        config = build_config(RunConfig, apply_overrides(read_yaml(ROOT / "configs" / "catch.yaml"), values))
        started = time.monotonic()
        fit(config, tmp_path / "run", is_quiet=True)
        minutes = (time.monotonic() - started) / 60
        agent = open_run(tmp_path / "run").agent
        game = EnvConfig(id="iris_wm/Catch-v0")
        actor = AtTemperature(agent, 0.5)
        played = evaluate(actor, game, num_episodes=NUM_EPISODES, seed=10**6, num_envs=16)
        print(f"seed {seed} {' '.join(overrides)}: mean return {played.mean_return:.2f} in {minutes:.1f} min")
        return played.mean_return

    return learn


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=slow), pytest.param(2, marks=slow)])
def test_nine_tenths_of_the_optimum_in_imagination_alone(learn, seed: int):
    assert learn(seed) >= GOOD


@slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "ablation",
    [
        ["world.optimization.steps_per_epoch=0", "world.optimization.first_epoch_steps=0"],
        ["env.id=iris_wm_tests/ShuffledCatch-v0"],
        ["policy.optimization.steps_per_epoch=0"],
    ],
    ids=["an untrained world model", "shuffled rewards", "a policy never updated"],
)
def test_what_must_not_learn_does_not(learn, ablation: list[str]):
    assert learn(0, *ablation) < BAD


def test_random_play_is_near_the_bottom():
    """And its rewards are what the shuffled ones imitate."""
    env, rng, counts, steps = CatchEnv(), np.random.default_rng(0), {-1.0: 0, 0.0: 0, 1.0: 0}, 20_000
    env.reset(seed=0)
    for _ in range(steps):
        _, reward, terminated, _, _ = env.step(int(rng.integers(3)))
        counts[reward] += 1
        if terminated:
            env.reset()
    assert counts[1.0] / steps == pytest.approx(0.035, abs=0.01)
    assert counts[-1.0] / steps == pytest.approx(0.02, abs=0.01)
    assert CatchEnv.RANDOM_RETURN < 0.2 * CatchEnv.OPTIMAL_RETURN
