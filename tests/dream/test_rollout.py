"""Roll-outs: what the policy saw and did, in order, and equal to what it computes of them when it learns."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iris_wm.dream.rollout import Imagination, ImaginationConfig, Rollout
from iris_wm.policy.actor_critic import ActorCritic, PolicyState, policy_inputs
from iris_wm.streams import Draw, row_seeds
from iris_wm.tokenizer.autoencoder import Upsample
from iris_wm.world.token_world import SamplingConfig, TokenWorld

B = 5
VARIANTS = {
    "frames": (),
    "tokens": ("policy.inputs=tokens",),
    "parallel": ("world.prediction=parallel",),
    "parallel tokens": ("world.prediction=parallel", "policy.inputs=tokens"),
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def agent(request, tiny_agent):
    return tiny_agent(*VARIANTS[request.param], "world.context_steps=6")


@pytest.fixture
def start(agent) -> tuple[torch.Tensor, PolicyState]:
    generator = torch.Generator().manual_seed(0)
    obs_tokens = torch.randint(16, (B, 16), generator=generator)
    memory = (torch.randn(B, agent.config.policy.hidden_size, generator=generator) for _ in range(2))
    return obs_tokens, PolicyState(*memory)


def new_imagination(agent, horizon: int = 5, batch_size: int = B, **values) -> Imagination:
    config = ImaginationConfig(horizon=horizon, **values)
    world = agent.new_world(SamplingConfig(config.temperature))
    return Imagination(world, agent.look, agent.policy.choose, config, batch_size)


def imagine(
    imagination: Imagination,
    start: tuple[torch.Tensor, PolicyState],
    seed: int,
    past: tuple[torch.Tensor, torch.Tensor] | None = None,
    first_inputs: torch.Tensor | None = None,
) -> Rollout:
    batch_size = len(start[0])
    obs_tokens, actions = start[0][:, None], torch.zeros(batch_size, 0, 1, dtype=torch.int64)
    if past is not None:
        obs_tokens, actions = torch.cat([past[0], obs_tokens], dim=1), past[1]
    return imagination.imagine(obs_tokens, actions, start[1], row_seeds(seed, batch_size), first_inputs)


def step_by_step(
    world: TokenWorld, start: tuple[torch.Tensor, PolicyState], actions: torch.Tensor, seed: int
):
    """Outcomes of actions (B, T, n), one after the other."""
    state = world.observe_tokens(start[0][:, None], actions[:, :0])
    draw = Draw.start(row_seeds(seed, B))
    for t in range(actions.shape[1]):
        state, outcome = world.step(state, actions[:, t], draw)
        draw = draw.next()
        yield outcome


def tokens_of(rollout: Rollout) -> torch.Tensor:
    """(B, H, K), of the frame after each step."""
    return rollout.measures["tokens"]


def equal(first, second) -> bool:
    names = ("inputs", "actions", "rewards", "terminations")
    return torch.equal(tokens_of(first), tokens_of(second)) and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in names
    )


def test_shapes_and_dtypes(agent, start):
    rollout = imagine(new_imagination(agent), start, 0)
    assert tokens_of(rollout).shape == (B, 5, 16)
    assert rollout.rewards.shape == rollout.terminations.shape == (B, 5)
    assert rollout.actions.shape == (B, 5, 1)
    assert rollout.inputs.shape[:2] == (B, 5)
    assert rollout.rewards.dtype == torch.float32
    assert rollout.terminations.dtype == torch.bool
    assert set(rollout.rewards.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert 0 <= rollout.actions.min() <= rollout.actions.max() < 3
    seen = torch.cat([start[0][:, None], tokens_of(rollout)[:, :-1]], dim=1)
    inputs = policy_inputs(agent.tokenizer, agent.policy, seen)
    assert torch.allclose(rollout.inputs, inputs, atol=1e-5)
    assert not rollout.inputs.requires_grad


@pytest.mark.parametrize("prediction", ["autoregressive", "parallel"])
def test_expected_rewards_are_the_means_of_what_is_drawn(tiny_agent, prediction):
    """Over 600 rows of one batch, each with draws of its own; nothing else of the roll-out changes."""
    agent = tiny_agent(f"world.prediction={prediction}", "policy.inputs=tokens")
    with torch.no_grad():
        agent.world.reward_head[-1].weight.mul_(8)  # means far from 0 and from each other
    obs_tokens = torch.randint(16, (600, 16), generator=torch.Generator().manual_seed(0))
    start = obs_tokens, PolicyState(*torch.zeros(2, 600, agent.config.policy.hidden_size))
    expected, sampled = (
        imagine(new_imagination(agent, 2, 600, rewards=rewards), start, 0)
        for rewards in ("expected", "sampled")
    )
    for name in ("inputs", "actions", "terminations"):
        assert torch.equal(getattr(expected, name), getattr(sampled, name))
    means, draws = expected.rewards, sampled.rewards
    assert means.std() > 0.2
    assert means.abs().max() < 1
    assert abs((draws - means).mean()) < 5 / draws.numel() ** 0.5
    slope = (draws * means).sum() / means.square().sum()  # of the draws over the means of the same steps
    assert abs(slope - 1) < 5 / means.square().sum() ** 0.5


@torch.no_grad()
def test_recomputed_logits_and_values_are_those_used_while_acting(agent, start, monkeypatch):
    used = []
    forward = ActorCritic.forward

    def recording(self, inputs, state):
        output, state = forward(self, inputs, state)
        used.append(output)
        return output, state

    monkeypatch.setattr(ActorCritic, "forward", recording)
    rollout = imagine(new_imagination(agent), start, 0)
    hidden, _ = agent.policy.sequence(rollout.inputs, rollout.memory)
    output = agent.policy.heads(hidden)
    assert len(used) == 5
    for t, acting in enumerate(used):
        assert torch.allclose(output.actions.logits[:, t], acting.actions.logits, atol=1e-5)
        assert torch.allclose(output.values[:, t], acting.values, atol=1e-5)


def test_the_rollout_is_what_the_world_does_with_its_actions(agent, start):
    """Step t's rewards and terminations belong to the action taken in frame t."""
    rollout = imagine(new_imagination(agent), start, 9)
    for t, outcome in enumerate(step_by_step(agent.new_world(), start, rollout.actions, 9)):
        assert torch.equal(outcome.rewards, rollout.rewards[:, t])
        assert torch.equal(outcome.terminations, rollout.terminations[:, t])
        if t < 4:
            assert torch.equal(outcome.measures["tokens"], tokens_of(rollout)[:, t])


def test_same_seed_same_rollout_and_different_seed_another(agent, start):
    imagination = new_imagination(agent)
    first = imagine(imagination, start, 1)
    assert equal(imagine(imagination, start, 1), first)
    assert equal(imagine(new_imagination(agent), start, 1), first)
    others = [imagine(imagination, start, seed) for seed in range(2, 8)]
    assert not any(torch.equal(tokens_of(other), tokens_of(first)) for other in others)
    assert not all(torch.equal(other.actions, first.actions) for other in others)


def test_policy_and_world_draw_from_streams_of_their_own(agent, start):
    """A longer roll-out begins like a shorter one, but for the last step, which needs no next frame."""
    short = imagine(new_imagination(agent, horizon=3), start, 1)
    long = imagine(new_imagination(agent, horizon=5), start, 1)
    assert torch.equal(long.actions[:, :3], short.actions)
    assert torch.equal(tokens_of(long)[:, :2], tokens_of(short)[:, :2])


def test_a_horizon_as_long_as_the_context_fills_it_once(agent, start, monkeypatch):
    """As in the paper: horizon 20 in a context of 20 steps."""
    refills = []
    refill = TokenWorld._fill

    def counting(self, *arguments):
        refills.append(1)
        return refill(self, *arguments)

    imagination = new_imagination(agent, horizon=6)
    monkeypatch.setattr(TokenWorld, "_fill", counting)
    imagine(imagination, start, 0)
    assert len(refills) == 1
    imagine(new_imagination(agent, horizon=9), start, 0)
    assert len(refills) == 3


def test_temperature_is_the_worlds(agent, start):
    """At 0 its draws are certain; the policy still explores."""
    imagination = new_imagination(agent, temperature=0.0)
    first, *others = (imagine(imagination, start, seed) for seed in range(1, 8))
    assert not all(torch.equal(first.actions, other.actions) for other in others)
    outcomes = step_by_step(agent.new_world(SamplingConfig(0.0)), start, first.actions[:, :4], 0)
    for t, outcome in enumerate(outcomes):
        assert torch.equal(outcome.measures["tokens"], tokens_of(first)[:, t])


def test_past_steps_reach_the_world(agent, start):
    generator = torch.Generator().manual_seed(5)
    past = torch.randint(16, (B, 2, 16), generator=generator), torch.zeros(B, 2, 1, dtype=torch.int64)
    imagination = new_imagination(agent, temperature=0.0)
    without, within = imagine(imagination, start, 1), imagine(imagination, start, 1, past)
    assert not torch.equal(tokens_of(without), tokens_of(within))
    assert equal(imagine(imagination, start, 1, past), within)


def test_new_weights_count_at_once(agent, start):
    imagination = new_imagination(agent, temperature=0.0)
    before = imagine(imagination, start, 1)
    saved = {name: value.clone() for name, value in agent.world.state_dict().items()}
    with torch.no_grad():
        for block in agent.world.transformer.blocks:
            block.fc_2.weight.neg_()
    after = imagine(imagination, start, 1)
    agent.world.load_state_dict(saved)
    assert not torch.equal(tokens_of(before), tokens_of(after))
    assert equal(imagine(imagination, start, 1), before)


class _NoWaiting(TorchDispatchMode):
    """Fails on what would wait for a GPU, or copy from or to the host, and so cannot be in a CUDA graph."""

    WAITING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "lift_fresh")

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        assert name not in self.WAITING, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            indices = [each for each in arguments[1] if each is not None]
            assert all(each.dtype != torch.bool for each in indices), f"{name} by a mask waits for the device"
        return function(*arguments, **(keywords or {}))


@torch.no_grad()
def test_nothing_in_a_rollout_waits_for_the_device(agent, start, monkeypatch):
    """The part that a CUDA graph records, in plain PyTorch with lengths that only the device knows."""
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    monkeypatch.setattr("iris_kernels.reference.decode_layers._length_is_known", lambda tensor: False)
    monkeypatch.setattr(
        Upsample,
        "forward",
        lambda self, maps: self.conv(torch.nn.functional.interpolate(maps, scale_factor=2.0)),
    )  # what it does elsewhere than on a CPU
    imagination = new_imagination(agent, horizon=8)  # longer than the context: it is filled again on the way
    inputs = {"obs_tokens": start[0][:, None], "actions": torch.zeros(B, 0, 1, dtype=torch.int64)}
    inputs |= {"seeds": row_seeds(0, B), "memory_0": start[1].hidden, "memory_1": start[1].cell}
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), _NoWaiting():
        imagination._roll_out(inputs, PolicyState)


@torch.no_grad()
def test_a_graphs_steps_are_those_of_a_cpu(agent, start, monkeypatch):
    """Lengths unknown to the host and written-over caches change no token."""
    expected = imagine(new_imagination(agent, horizon=8), start, 4)
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    monkeypatch.setattr("iris_kernels.reference.decode_layers._length_is_known", lambda tensor: False)
    imagination = new_imagination(agent, horizon=8)
    imagine(imagination, start, 3)  # as a capture's warm-up leaves the cache
    rollout = imagine(imagination, start, 4)
    assert torch.equal(tokens_of(rollout), tokens_of(expected))
    assert torch.equal(rollout.actions, expected.actions)


@torch.no_grad()
def test_under_bfloat16_autocast(agent, start):
    """The policy may run in bfloat16, the world keeps the dtype of its cache."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout = imagine(new_imagination(agent), start, 0)
    outcomes = step_by_step(agent.new_world(), start, rollout.actions[:, :4], 0)
    for t, outcome in enumerate(outcomes):
        assert torch.equal(outcome.measures["tokens"], tokens_of(rollout)[:, t])


def test_given_first_inputs_are_those_it_would_compute(agent, start):
    imagination = new_imagination(agent)
    first = policy_inputs(agent.tokenizer, agent.policy, start[0])
    assert equal(imagine(imagination, start, 3, first_inputs=first), imagine(imagination, start, 3))


def test_bfloat16_weights_stay_close_to_float32(agent, start):
    """Teacher-forced by an untouched frame: the logits of one step agree to the precision of the weights."""
    outcomes = []
    for dtype in (torch.float32, torch.bfloat16):
        world = agent.new_world(SamplingConfig(0.0), dtype=dtype, should_measure=True)
        outcomes += step_by_step(world, start, torch.zeros(B, 1, 1, dtype=torch.int64), 0)
    exact, rounded = outcomes
    assert rounded.reward_mean.dtype == torch.float32
    assert (exact.termination_probability - rounded.termination_probability).abs().max() < 0.1
    for name in ("reward_probabilities", "token_entropy"):
        error = (exact.measures[name] - rounded.measures[name]).abs()
        assert error.mean() < 0.1
        assert error.max() > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"horizon": 1}, "horizon: got 1, expected a whole number of at least 2"),
        ({"burn_in": -1}, "burn_in: got -1, expected a whole number of at least 0"),
        ({"temperature": -0.1}, "temperature: got -0.1, expected a number of at least 0"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ImaginationConfig(**values)
