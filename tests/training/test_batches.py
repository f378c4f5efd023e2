"""Batches depend on (seed, epoch, component, index) and the replay, and on nothing else."""

import pytest
import torch

from iris_wm.data.replay import Replay
from iris_wm.spaces import ActionSpace
from iris_wm.training.batches import BatchSampler, Step

NETWORKS = ("tokenizer", "world", "policy")


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


@pytest.mark.parametrize("component", NETWORKS)
def test_same_place_same_batch(tiny_run, replay, component):
    config = tiny_run()
    first = BatchSampler(config, replay).indices(component, 3, 1)
    sampler = BatchSampler(config, replay)
    torch.manual_seed(123)
    for other in NETWORKS:
        sampler.indices(other, 1, 0)
    again = sampler.indices(component, 3, 1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


@pytest.mark.parametrize("component", NETWORKS)
def test_other_place_other_batch(tiny_run, replay, component):
    config = tiny_run(*(f"{name}.optimization.batch_size=32" for name in NETWORKS))
    sampler = BatchSampler(config, replay)
    first = sampler.indices(component, 3, 1)[0]
    others = [
        sampler.indices(component, 3, 2),
        sampler.indices(component, 4, 1),
        BatchSampler(config, replay, rank=1).indices(component, 3, 1),
        BatchSampler(
            tiny_run(*(f"{name}.optimization.batch_size=32" for name in NETWORKS), "seed=1"), replay
        ).indices(component, 3, 1),
    ]
    assert not any(torch.equal(first, other) for other, _ in others)


def test_global_generator_is_untouched(tiny_run, replay):
    state = torch.get_rng_state()
    BatchSampler(tiny_run(), replay).sample(Step(1, "world", 0, 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_lengths_and_padding_as_in_iris(tiny_run, replay):
    """Tokenizer: single frames. World model: padded at the end. Actor-critic: ends with a real frame."""
    config = tiny_run(*(f"{name}.optimization.batch_size=64" for name in NETWORKS))
    sampler = BatchSampler(config, replay)
    frames = sampler.sample(Step(1, "tokenizer", 0, 2))
    assert frames.frames.shape == (64, 1, 3, 64, 64)
    assert frames.is_real.all()
    segments = sampler.sample(Step(1, "world", 0, 2))
    assert segments.is_real.shape == (64, 4)
    assert segments.is_real[:, 0].all()
    assert not segments.is_real.all()
    assert (segments.is_real.int().diff(dim=1) <= 0).all()
    parallel = BatchSampler(tiny_run("world.prediction=parallel"), replay)
    assert parallel.sample(Step(1, "world", 0, 2)).is_real.shape[1] == 5  # the last step's queries, too
    burn_in = sampler.sample(Step(1, "policy", 0, 2))
    assert burn_in.is_real.shape == (64, 3)
    assert burn_in.is_real[:, -1].all()
    assert not burn_in.is_real.all()
    assert (burn_in.is_real.int().diff(dim=1) >= 0).all()


def test_a_batch_holds_what_the_replay_holds(tiny_run, replay):
    segment = BatchSampler(tiny_run("world.optimization.batch_size=50"), replay).sample(
        Step(1, "world", 0, 2)
    )
    here = segment.is_real
    assert torch.equal(segment.frames[here][:, 0, 0, 0].long(), segment.frame_indices[here])
    episode_starts = torch.tensor([0] * 2 + [2] * 7 + [9] * 30)
    within = segment.frame_indices[here] - episode_starts[segment.frame_indices[here]]
    assert torch.equal(segment.actions[here][:, 0], within % 3)
    assert torch.equal(segment.rewards[here], within / 10)
    assert not segment.frames[~here].any()
    assert not segment.terminations[~here].any()


@pytest.mark.parametrize("component", ["world", "policy"])
def test_frames_needed_are_those_of_the_batches(tiny_run, replay, component):
    config = tiny_run()
    sampler = BatchSampler(config, replay)
    needed = sampler.frames_needed(2, component)
    seen = torch.zeros(replay.num_steps, dtype=torch.bool)
    for index in range(2):
        seen[sampler.sample(Step(2, component, index, 2)).frame_indices.flatten()] = True
    assert torch.equal(needed, seen)
    assert not sampler.frames_needed(1, "policy").any()  # it starts after epoch 1
