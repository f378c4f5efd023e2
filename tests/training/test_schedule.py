"""The paper's schedule by hand, and the corners of others."""

from types import SimpleNamespace

import pytest

from iris_wm.optimization import OptimizationConfig
from iris_wm.runs.config import RunConfig
from iris_wm.training.schedule import EpochSteps, Phase, num_collection_steps, phases

PAPER = RunConfig()
NETWORKS = ("tokenizer", "world", "policy")
COLLECT = ("collection", 4)  # 200 steps in chunks of 50
TOKENIZER, WORLD_MODEL, ACTOR_CRITIC = ((name, 200) for name in NETWORKS)
EVALUATE = ("evaluation", 1)


def nothing(*arguments):
    return {}


def plan(config: RunConfig) -> list[Phase]:
    learners = [
        SimpleNamespace(name=name, optimization=getattr(config, name).optimization) for name in NETWORKS
    ]
    return phases(config, learners, nothing, nothing, nothing)


def lengths(config: RunConfig, epoch: int) -> list[tuple[str, int]]:
    """Of an epoch's phases that have steps, in order."""
    found = [(phase.component, phase.num_steps(epoch)) for phase in plan(config)]
    return [each for each in found if each[1]]


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (1, [COLLECT]),
        (4, [COLLECT]),
        (5, [COLLECT, EVALUATE]),
        (6, [COLLECT, TOKENIZER]),
        (25, [COLLECT, TOKENIZER, EVALUATE]),
        (26, [COLLECT, TOKENIZER, WORLD_MODEL]),
        (50, [COLLECT, TOKENIZER, WORLD_MODEL, EVALUATE]),
        (51, [COLLECT, TOKENIZER, WORLD_MODEL, ACTOR_CRITIC]),
        (500, [COLLECT, TOKENIZER, WORLD_MODEL, ACTOR_CRITIC, EVALUATE]),
        (501, [TOKENIZER, WORLD_MODEL, ACTOR_CRITIC]),
        (600, [TOKENIZER, WORLD_MODEL, ACTOR_CRITIC, EVALUATE]),
    ],
)
def test_the_papers_schedule(epoch, expected):
    assert lengths(PAPER, epoch) == expected


def test_the_papers_totals():
    epochs = range(1, 601)
    assert sum(num_collection_steps(PAPER, epoch) for epoch in epochs) == 100_000 == PAPER.total_env_steps
    totals = {
        name: sum(getattr(PAPER, name).optimization.num_steps(epoch) for epoch in epochs) for name in NETWORKS
    }
    assert totals == {"tokenizer": 595 * 200, "world": 575 * 200, "policy": 550 * 200}


def test_the_first_epoch_of_a_network_may_be_longer():
    config = OptimizationConfig(start_after_epoch=2, steps_per_epoch=5, first_epoch_steps=50)
    assert [config.num_steps(epoch) for epoch in range(1, 6)] == [0, 0, 50, 5, 5]


def test_the_learning_rate_goes_to_its_final_value_in_equal_steps():
    config = OptimizationConfig(start_after_epoch=1, learning_rate=0.5, final_learning_rate=0.1)
    rates = [config.rate(epoch, 6) for epoch in range(1, 8)]
    assert rates == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert OptimizationConfig(learning_rate=0.5).rate(600, 600) == 0.5
    one_epoch = OptimizationConfig(final_learning_rate=0.1)
    assert one_epoch.rate(1, 1) == one_epoch.learning_rate


def test_collection_in_chunks(tiny_run):
    config = tiny_run("collection.env_steps_per_epoch=120", "collection.first_epoch_env_steps=101")
    assert lengths(config, 1)[0] == ("collection", 3)  # 50, 50, 1
    assert lengths(config, 2)[0] == ("collection", 3)  # 50, 50, 20
    assert lengths(config, 3)[0][0] == "tokenizer"
    config = tiny_run("collection.num_envs=3", "collection.env_steps_per_epoch=153")
    assert lengths(config, 2)[0] == ("collection", 2)  # 150, 3


def test_total_env_steps(tiny_run):
    assert tiny_run().total_env_steps == 120
    assert tiny_run("collection.first_epoch_env_steps=100").total_env_steps == 160
    assert tiny_run("collection.stop_after_epoch=9").total_env_steps == 180  # three epochs only
    assert tiny_run("collection.stop_after_epoch=0").total_env_steps == 0


def test_no_evaluation(tiny_run):
    config = tiny_run("evaluation.every_epochs=0")
    assert all(name != "evaluation" for epoch in range(1, 9) for name, _ in lengths(config, epoch))


def test_epoch_steps_follow_the_phases(tiny_run):
    steps = list(EpochSteps(plan(tiny_run()), 2))
    names = ["collection"] * 2 + ["tokenizer"] * 2 + ["world"] * 2 + ["policy"] * 2 + ["evaluation"]
    assert [step.component for step in steps] == names
    assert [step.index for step in steps] == [0, 1] * 4 + [0]
    assert [step.is_last for step in steps] == [False, True] * 4 + [True]
    assert (steps[2].epoch, steps[2].num_steps, steps[2].place) == (2, 2, "epoch 2, step 0")


@pytest.mark.parametrize("position", [0, 1, 5, 9])
def test_the_rest_of_an_epoch(tiny_run, position):
    whole = plan(tiny_run())
    assert list(EpochSteps(whole, 2, position)) == list(EpochSteps(whole, 2))[position:]
