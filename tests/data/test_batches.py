"""Batches depend on (seed, learner, epoch, index) and the replay, and on nothing else."""

import pytest
import torch

from iris_wm.agent import Agent
from iris_wm.data.replay import Batches, Replay
from iris_wm.spaces import ActionSpace
from iris_wm.training.schedule import iris_learners

NAMES = ("tokenizer", "world", "policy")


def learners(config):
    """By name."""
    agent = Agent(config.agent_config(ActionSpace.discrete(3)))
    return {each.name: each for each in iris_learners(config, agent, lambda what, done, total: None)}


@pytest.fixture(scope="module")
def replay() -> Replay:
    """Three episodes of 2, 7 and 30 steps; pixel values tell the step."""
    replay = Replay(100, ActionSpace.discrete(3))
    for length in (2, 7, 30):
        episode = replay.start_episode()
        first = replay.num_steps
        frames = (
            torch.arange(first, first + length, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
        )
        ends = torch.arange(length) == length - 1
        replay.append(
            episode,
            frames,
            torch.arange(length)[:, None] % 3,
            torch.arange(length) / 10,
            ends,
            torch.zeros(length) > 0,
        )
    return replay


@pytest.mark.parametrize("name", NAMES)
def test_same_place_same_batch(tiny_run, replay, name):
    ours = learners(tiny_run())
    first = Batches(replay, 0).segment(ours[name], 3, 1)
    batches = Batches(replay, 0)
    torch.manual_seed(123)
    for other in ours.values():
        batches.segment(other, 1, 0)
    again = batches.segment(ours[name], 3, 1)
    assert torch.equal(first.frame_indices, again.frame_indices)
    assert torch.equal(first.is_real, again.is_real)


@pytest.mark.parametrize("name", NAMES)
def test_other_place_other_batch(tiny_run, replay, name):
    learner = learners(tiny_run(f"{name}.optimization.batch_size=32"))[name]
    first = Batches(replay, 0).segment(learner, 3, 1).frame_indices
    others = [
        Batches(replay, 0).segment(learner, 3, 2),
        Batches(replay, 0).segment(learner, 4, 1),
        Batches(replay, 0, rank=1).segment(learner, 3, 1),
        Batches(replay, 1).segment(learner, 3, 1),
    ]
    assert not any(torch.equal(first, other.frame_indices) for other in others)


def test_global_generator_is_untouched(tiny_run, replay):
    world = learners(tiny_run())["world"]
    state = torch.get_rng_state()
    Batches(replay, 0).segment(world, 1, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_lengths_and_padding_as_in_iris(tiny_run, replay):
    """Tokenizer: single frames. World model: padded at the end. Actor-critic: ends with a real frame."""
    ours, batches = (
        learners(tiny_run(*(f"{name}.optimization.batch_size=64" for name in NAMES))),
        Batches(replay, 0),
    )
    frames = batches.segment(ours["tokenizer"], 1, 0)
    assert frames.frames.shape == (64, 1, 3, 64, 64)
    assert frames.is_real.all()
    segments = batches.segment(ours["world"], 1, 0)
    assert segments.is_real.shape == (64, 4)
    assert segments.is_real[:, 0].all()
    assert not segments.is_real.all()
    assert (segments.is_real.int().diff(dim=1) <= 0).all()
    parallel = learners(tiny_run("world.prediction=parallel"))["world"]
    assert batches.segment(parallel, 1, 0).is_real.shape[1] == 5  # the last step's queries, too
    burn_in = batches.segment(ours["policy"], 1, 0)
    assert burn_in.is_real.shape == (64, 3)
    assert burn_in.is_real[:, -1].all()
    assert not burn_in.is_real.all()
    assert (burn_in.is_real.int().diff(dim=1) >= 0).all()


def test_a_batch_holds_what_the_replay_holds(tiny_run, replay):
    world = learners(tiny_run("world.optimization.batch_size=50"))["world"]
    segment = Batches(replay, 0).segment(world, 1, 0)
    here = segment.is_real
    assert torch.equal(segment.frames[here][:, 0, 0, 0].long(), segment.frame_indices[here])
    episode_starts = torch.tensor([0] * 2 + [2] * 7 + [9] * 30)
    within = segment.frame_indices[here] - episode_starts[segment.frame_indices[here]]
    assert torch.equal(segment.actions[here][:, 0], within % 3)
    assert torch.equal(segment.rewards[here], within / 10)
    assert not segment.frames[~here].any()
    assert not segment.terminations[~here].any()


@pytest.mark.parametrize("name", ["world", "policy"])
def test_frames_needed_are_those_of_the_batches(tiny_run, replay, name):
    ours, batches = learners(tiny_run()), Batches(replay, 0)
    seen = torch.zeros(replay.num_steps, dtype=torch.bool)
    for index in range(2):
        seen[batches.segment(ours[name], 2, index).frame_indices.flatten()] = True
    assert torch.equal(batches.frames_needed(ours[name], 2), seen)
    assert not batches.frames_needed(ours["policy"], 1).any()  # it starts after epoch 1
