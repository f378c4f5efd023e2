"""Dream quality: each measure by hand, an oracle that dreams the truth, the report, bad input."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from iris_wm.agent import Agent, AgentConfig
from iris_wm.data.episode import Episode
from iris_wm.data.segment import Segment
from iris_wm.dream.dream import Dream
from iris_wm.envs import EnvConfig
from iris_wm.evaluation.dream_metrics import (
    auc,
    background_of,
    connected_pieces,
    event_quality,
    find_objects,
    horizon_curve,
)
from iris_wm.evaluation.dream_quality import collect_held_out, evaluate_dream
from iris_wm.evaluation.scores import resample_counts
from iris_wm.policy.actor_critic import PolicyConfig, TokenInputs
from iris_wm.reports.dream_report import write_dream_report
from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig, VectorQuantizerConfig
from iris_wm.world.network import AutoregressivePrediction, BlockPrediction, ParallelPrediction, WorldConfig
from iris_wm.world.token_world import SamplingConfig

PREDICTIONS = {
    "autoregressive": AutoregressivePrediction(),
    "parallel": ParallelPrediction(),
    "block": BlockPrediction(),
}

GREEDY = SamplingConfig(temperature=0)


class BlockTokenizer(nn.Module):
    """Frames of 2 by 2 blocks of one grey each; a token is its grey. Loses nothing."""

    tokens_per_frame = 4
    quantizer = SimpleNamespace(codebook_size=32)
    config = SimpleNamespace(autoencoder=SimpleNamespace(resolution=16))

    def encode(self, frames):
        return (frames[..., 0, ::8, ::8] // 8).flatten(-2).long()

    def decode(self, obs_tokens):
        blocks = obs_tokens.unflatten(-1, (2, 2)).float() * 8 / 255
        return (
            blocks.repeat_interleave(8, -1)
            .repeat_interleave(8, -2)
            .unsqueeze(-3)
            .expand(*blocks.shape[:-2], 3, 16, 16)
        )


def make_agent(prediction="autoregressive", resolution=16):
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(resolution, 32, (1, 1), 1, (), 16, patch_size=resolution // 4)
    config = AgentConfig(
        (3,),
        (),
        TokenizerConfig(autoencoder, VectorQuantizerConfig(32, 16)),
        WorldConfig(1, 2, 32, context_steps=6, prediction=PREDICTIONS[prediction]),
        PolicyConfig(TokenInputs(8), hidden_size=16),
    )
    agent = Agent(config).eval()
    with torch.no_grad():
        for parameter in agent.world.parameters():
            parameter.mul_(6)
    return agent


@pytest.fixture(params=["autoregressive", "parallel"])
def oracle(request):
    """An agent with the lossless tokenizer, and episodes that are its own greedy dreams of one step each."""
    agent = make_agent(request.param)
    agent.tokenizer = BlockTokenizer()
    generator = torch.Generator().manual_seed(3)
    episodes = []
    for length in (9, 5, 12, 7):
        frame = (torch.randint(32, (1, 1, 2, 2), generator=generator) * 8).repeat_interleave(8, 2)
        frame = frame.repeat_interleave(8, 3).expand(1, 3, 16, 16).to(torch.uint8)
        frames, rewards, ends = [], [], []
        actions = torch.randint(3, (length, 1), generator=generator)
        for action in actions:
            dream = Dream(
                agent.new_world(GREEDY), Segment.seen(frame[:, None], torch.zeros(1, 0, 1).long()), [0]
            )
            outcome = dream.step(action.view(1, 1))
            frames.append(frame)
            rewards.append(float(outcome.rewards))
            ends.append(False)
            frame = dream.frames
        episodes.append(
            Episode(
                torch.cat(frames), actions, torch.tensor(rewards).float(), torch.tensor(ends),
                torch.zeros(length, dtype=torch.bool),
            )
        )  # fmt: skip
    return agent, episodes


def test_who_dreams_the_truth_is_perfect(oracle):
    agent, episodes = oracle
    quality = evaluate_dream(agent, episodes, horizon=3, burn_in=0, sampling=GREEDY, num_starts=99)
    first = {name: curve.mean[0] for name, curve in quality.curves.items()}
    assert first["token_accuracy"] == 1
    assert first["frame_l1"] < 1e-6
    assert first["psnr"] == pytest.approx(100)
    assert first["ssim"] == pytest.approx(1, abs=1e-4)
    assert quality.curves["frame_l1"].count == [8 + 4 + 11 + 6, 7 + 3 + 10 + 5, 6 + 2 + 9 + 4]
    assert quality.curves["reward_brier"].count[0] == 29
    # What has more context than the truth had is not perfect.
    assert quality.curves["token_accuracy"].mean[2] < 1


def test_same_seed_same_numbers_and_other_seed_others(oracle):
    agent, episodes = oracle
    first, again, other = (
        evaluate_dream(agent, episodes, horizon=4, num_starts=10, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert first.burn_in == 2
    assert len(first.entropy_by_token) == 4
    assert 0 <= first.one_step_token_accuracy <= 1
    assert first.one_step_nats > 0


def test_the_file_holds_every_number(oracle, tmp_path):
    agent, episodes = oracle
    quality = evaluate_dream(agent, episodes, horizon=4, num_starts=10, name="a", game="b")
    written = json.loads(quality.save(tmp_path / "q.json").read_text())
    assert (written.pop("format"), written.pop("format_version")) == ("iris_wm dream quality", 1)
    numbers = dataclasses.asdict(dataclasses.replace(quality, examples=[]))
    assert written | {"examples": []} == json.loads(json.dumps(numbers))


def test_report_of_two_agents(oracle, tmp_path):
    agent, episodes = oracle
    qualities = [
        evaluate_dream(agent, episodes, horizon=6, num_starts=20, name=name, sampling=sampling)
        for name, sampling in (("warm <i>", None), ("cold", GREEDY))
    ]
    path = write_dream_report(qualities, tmp_path / "report")
    text = path.read_text()
    assert {each.name for each in path.parent.iterdir()} >= {
        "quality-0.json", "quality-1.json", "curves.png", "events.png", "entropy.png", "dream-0-0.png", "index.html"
    }  # fmt: skip
    assert "warm &lt;i&gt;" in text
    assert "<i>" not in text.split("</style>")[1].split("<img")[0]
    assert "http://" not in text
    assert "https://" not in text
    assert text.count("data:image/png") == 3 + 6
    with pytest.raises(ValueError, match="different names"):
        write_dream_report([qualities[0], qualities[0]], tmp_path / "x")


def test_held_out_episodes_of_the_real_game():
    agent = make_agent(resolution=64)
    episodes = collect_held_out(agent, EnvConfig(id="iris_wm/Catch-v0"), num_episodes=3, max_steps=20, seed=1)
    again = collect_held_out(agent, EnvConfig(id="iris_wm/Catch-v0"), num_episodes=3, max_steps=20, seed=1)
    assert [len(each) for each in episodes] == [len(each) for each in again]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(episodes, again, strict=True))
    quality = evaluate_dream(agent, episodes, horizon=5, num_starts=6)
    assert all(share is None or 0 <= share <= 1 for share in quality.curves["objects"].mean)
    assert quality.curves["objects"].count[0] > 0


def test_bad_input(oracle):
    agent, episodes = oracle
    for options, text in (
        ({"horizon": 0}, "horizon: got 0"),
        ({"num_starts": 0}, "starts: got 0"),
        ({"burn_in": 99}, "burn_in: got 99"),
    ):
        with pytest.raises(ValueError, match=text):
            evaluate_dream(agent, episodes, **options)
    with pytest.raises(ValueError, match="at least one real episode"):
        evaluate_dream(agent, [])
    with pytest.raises(ValueError, match="episodes: got 0"):
        collect_held_out(agent, EnvConfig(id="iris_wm/Catch-v0"), num_episodes=0)


def test_auc_by_hand():
    happened = np.array([True, False, True, False])
    assert auc(np.array([0.9, 0.1, 0.8, 0.2]), happened) == 1
    assert auc(np.array([0.1, 0.9, 0.2, 0.8]), happened) == 0
    assert auc(np.array([0.5, 0.5, 0.5, 0.5]), happened) == 0.5
    assert auc(np.array([0.9, 0.5, 0.5, 0.1]), happened) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auc(np.array([0.9, 0.5, 0.5, 0.1]), happened, np.array([1.0, 0, 1, 2])) == 1
    assert auc(np.array([0.9, 0.5]), np.array([True, True])) is None


def test_calibration_by_hand():
    predicted = np.array([0.05, 0.05, 0.75, 0.75])
    happened = np.array([False, False, True, False])
    quality = event_quality(predicted, happened, np.array([0, 0, 1, 1]), draws(50))
    assert quality.bins == [(pytest.approx(0.05), 0.0, 2), (pytest.approx(0.75), 0.5, 2)]
    assert quality.ece == pytest.approx((2 * 0.05 + 2 * 0.25) / 4)
    assert quality.brier == pytest.approx((2 * 0.05**2 + 0.25**2 + 0.75**2) / 4)
    assert quality.num_events == 1
    assert (
        event_quality(
            predicted[:0],
            happened[:0],
            np.array([], dtype=int),
            draws(5),
        )
        is None
    )


def draws(num_resamples):
    return resample_counts(2, num_resamples, np.random.default_rng(0))


def test_intervals_resample_episodes():
    values = np.array([[1.0, np.nan], [1.0, 2.0], [5.0, np.nan]])
    curve = horizon_curve(values, np.array([0, 0, 1]), draws(2000))
    assert curve.mean == [pytest.approx(7 / 3), 2.0]
    assert curve.count == [3, 1]
    assert curve.low[0] == 1
    assert curve.high[0] == 5
    assert (curve.low[1], curve.high[1]) == (2.0, 2.0)
    empty = horizon_curve(values * np.nan, np.array([0, 0, 1]), draws(20))
    assert empty.mean == empty.low == [None, None]


def test_pieces_touch_at_corners_and_keep_apart_otherwise():
    mask = torch.tensor([[[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]], [[1, 1, 1, 1]] * 4]).bool()
    labels = connected_pieces(mask)
    assert len(labels[0].unique()) - 1 == 4
    assert labels[0, 0, 0] == labels[0, 1, 1]
    assert labels[0, 2, 3] == labels[0, 3, 3]
    assert len(labels[1].unique()) == 1
    assert not labels[~mask].any()


def square(row, column, level=200):
    frame = torch.full((1, 3, 20, 20), 30, dtype=torch.uint8)
    frame[:, :, row : row + 4, column : column + 4] = level
    return frame


def test_objects_that_move():
    background = background_of(torch.cat([square(4 * i, 4 * i) for i in range(5)]))
    assert (background == 30).all()
    real, before = square(4, 4), square(3, 4)
    faint, shifted, gone = square(4, 4, 110), square(4, 10), square(0, 0, 30)
    objects = find_objects(real, before, background, [real, faint, shifted, gone])
    assert [int(each.num_objects) for each in objects] == [1, 1, 1, 1]
    # Faint is nearer to the background (80 above it, 90 below the object).
    assert [int(each.num_found) for each in objects] == [1, 0, 0, 0]
    (still,) = find_objects(real, real, background, [real])
    assert int(still.num_objects) == 0
