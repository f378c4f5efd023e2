"""Patches: exact where a square was met before, grown by frequency, never moved, the same after a save."""

import numpy as np
import pytest
import torch

from iris_wm.acting import RandomActor, play_episode
from iris_wm.agent import Agent, AgentConfig
from iris_wm.data.replay import Replay
from iris_wm.envs import EnvConfig, make_env
from iris_wm.policy.actor_critic import PolicyConfig, TokenInputs
from iris_wm.spaces import ActionSpace
from iris_wm.tokenizer.patches import PatchesConfig, PatchTokenizer
from iris_wm.world.network import WorldConfig


@pytest.fixture(scope="module")
def replay() -> Replay:
    env = make_env(EnvConfig(id="iris_wm/Catch-v0"))
    replay = Replay(1000, env.actions)
    for seed in range(8):
        episode = play_episode(RandomActor(env.actions), env, num_steps=50, seed=seed)
        replay.append(replay.start_episode(), **vars(episode))
    return replay


def frames_of(replay: Replay) -> torch.Tensor:
    return replay.frames_at(torch.arange(replay.num_steps))


def of_pixels(*values: int) -> Replay:
    """Frames (4, 4) of two by two squares of one grey value each."""
    replay = Replay(len(values) // 4, ActionSpace.discrete(2), (3, 4, 4))
    frames = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 2, 2).expand(-1, 3, -1, -1)
    frames = frames.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    num = len(frames)
    ends = torch.zeros(num, dtype=torch.bool)
    replay.append(
        replay.start_episode(), frames, torch.zeros(num, 1, dtype=torch.int64), torch.zeros(num), ends, ends
    )
    return replay


def small(**values) -> PatchTokenizer:
    return PatchTokenizer(PatchesConfig(resolution=4, patch_size=2, **values))


def test_real_frames_come_back_as_they_were(replay):
    tokenizer = PatchTokenizer(PatchesConfig())
    assert tokenizer.grow(replay) == 1
    frames = frames_of(replay)
    tokens = tokenizer.encode(frames)
    assert tokens.shape == (len(frames), 64)
    assert torch.equal(tokenizer.decode(tokens).mul(255).round().byte(), frames)
    assert int(tokenizer.num_codes) <= 60
    assert torch.equal(tokenizer.encode(frames[None, :3]), tokens[None, :3])


def test_the_most_frequent_come_first_and_the_rest_goes_to_the_nearest():
    tokenizer = small(codebook_size=3)
    known = tokenizer.grow(of_pixels(9, 9, 9, 200, 200, 100, 9, 0))
    assert tokenizer.squares[:, 0].tolist() == [0, 9, 200]
    assert known == 7 / 8
    assert tokenizer.encode(frames_of(of_pixels(100, 120, 9, 0)))[0].tolist() == [1, 2, 1, 0]


def test_codes_never_move_and_nothing_is_taken_in_twice():
    tokenizer, replay = small(codebook_size=8), of_pixels(9, 9, 9, 200)
    tokenizer.grow(replay)
    before = tokenizer.squares.clone()
    assert tokenizer.grow(replay) == 1
    assert torch.equal(tokenizer.squares, before)
    more = of_pixels(9, 9, 9, 200, 50, 50, 50, 60)
    tokenizer.grow(more)
    assert torch.equal(tokenizer.squares[:3], before[:3])
    assert tokenizer.squares[3:5, 0].tolist() == [50, 60]
    assert int(tokenizer.num_seen) == 2


def test_within_the_threshold_is_no_new_square():
    distance = 12 * (10 / 255) ** 2
    tokenizer = small(codebook_size=8, threshold=distance)
    assert tokenizer.grow(of_pixels(100, 100, 109, 110)) == 1
    assert tokenizer.squares[: int(tokenizer.num_codes), 0].tolist() == [0, 100]
    tokenizer = small(codebook_size=8, threshold=distance)
    tokenizer.grow(of_pixels(100, 100, 111, 112))
    assert tokenizer.squares[: int(tokenizer.num_codes), 0].tolist() == [0, 100, 111]


def test_an_exported_agent_has_the_table(replay, tmp_path):
    parts = WorldConfig(1, 2, 16, context_steps=4), PolicyConfig(TokenInputs(8), hidden_size=16)
    agent = Agent(AgentConfig((3,), (), PatchesConfig(), *parts))
    agent.tokenizer.grow(replay)
    again = Agent.load(agent.save(tmp_path / "agent"))
    assert again.tokenizer.grow(replay) == 1
    frames = frames_of(replay)
    assert torch.equal(agent.tokenizer.encode(frames), again.tokenizer.encode(frames))
    assert int(again.tokenizer.num_seen) == replay.num_steps


def test_distances_are_exact():
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (50, 192), dtype=np.uint8)
    tokenizer = PatchTokenizer(PatchesConfig(codebook_size=50))
    tokenizer.squares.copy_(torch.from_numpy(squares))
    tokenizer.num_codes.fill_(50)
    asked = torch.from_numpy(rng.integers(0, 256, (40, 192), dtype=np.uint8))
    by_hand = (asked.long()[:, None] - tokenizer.squares.long()).square().sum(-1)
    index, distance = tokenizer._nearest(asked)
    assert torch.equal(distance.long(), by_hand.min(1).values)
    assert torch.equal(index, by_hand.argmin(1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 7}, "patch_size"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_impossible_tables_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PatchesConfig(**values)
