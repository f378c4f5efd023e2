"""Roll-outs: what the policy saw and did, in order, and equal to what it computes of them when it learns."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iris_wm.dream.rollout import Imagination, ImaginationConfig, policy_inputs
from iris_wm.dream.token_env import SamplingConfig, TokenEnv
from iris_wm.policy.actor_critic import ActorCritic, PolicyState
from iris_wm.tokenizer.autoencoder import Upsample

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


def new_imagination(agent, horizon: int = 5, **values) -> Imagination:
    config = ImaginationConfig(horizon=horizon, **values)
    return Imagination(agent.tokenizer, agent.world, agent.policy, config, B)


def equal(first, second) -> bool:
    names = ("inputs", "obs_tokens", "actions", "rewards", "terminations")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_shapes_and_dtypes(agent, start):
    rollout = new_imagination(agent).imagine(*start, seed=0)
    assert rollout.obs_tokens.shape == (B, 5, 16)
    assert rollout.rewards.shape == rollout.terminations.shape == (B, 5)
    assert rollout.actions.shape == (B, 5, 1)
    assert rollout.inputs.shape[:2] == (B, 5)
    assert rollout.rewards.dtype == torch.float32
    assert rollout.terminations.dtype == torch.bool
    assert set(rollout.rewards.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert 0 <= rollout.actions.min() <= rollout.actions.max() < 3
    assert torch.equal(rollout.obs_tokens[:, 0], start[0])
    inputs = policy_inputs(agent.tokenizer, agent.policy, rollout.obs_tokens)
    assert torch.allclose(rollout.inputs, inputs, atol=1e-5)
    assert not rollout.inputs.requires_grad


def test_expected_rewards_are_the_means_of_what_is_drawn(agent, start):
    """Averaged over many draws of the same steps; nothing else of the roll-out changes."""
    expected = new_imagination(agent, rewards="expected").imagine(*start, seed=0)
    sampled = new_imagination(agent).imagine(*start, seed=0)
    for name in ("inputs", "obs_tokens", "actions", "terminations"):
        assert torch.equal(getattr(expected, name), getattr(sampled, name))
    draws = torch.stack([new_imagination(agent, 2).imagine(*start, seed=seed).rewards for seed in range(300)])
    means = torch.stack(
        [
            new_imagination(agent, 2, rewards="expected").imagine(*start, seed=seed).rewards
            for seed in range(300)
        ]
    )
    assert means.unique().numel() > 3
    assert means.abs().max() < 1
    assert (draws.mean(0) - means.mean(0)).abs().max() < 5 / 300**0.5


@torch.no_grad()
def test_recomputed_logits_and_values_are_those_used_while_acting(agent, start, monkeypatch):
    used = []
    forward = ActorCritic.forward

    def recording(self, inputs, state):
        output, state = forward(self, inputs, state)
        used.append(output)
        return output, state

    monkeypatch.setattr(ActorCritic, "forward", recording)
    rollout = new_imagination(agent).imagine(*start, seed=0)
    hidden, _ = agent.policy.sequence(rollout.inputs, rollout.state)
    output = agent.policy.heads(hidden)
    assert len(used) == 5
    for t, acting in enumerate(used):
        assert torch.allclose(output.actions.logits[:, t], acting.actions.logits, atol=1e-5)
        assert torch.allclose(output.values[:, t], acting.values, atol=1e-5)


def test_the_rollout_is_what_the_token_env_does_with_its_actions(agent, start):
    """Step t's rewards and terminations belong to the action taken in frame t."""
    rollout = new_imagination(agent).imagine(*start, seed=9)
    env = TokenEnv(agent.world, B)
    env.reset(start[0], seed=9)
    for t in range(5):
        step = env.step(rollout.actions[:, t], should_predict_frame=t < 4)
        assert torch.equal(step.rewards, rollout.rewards[:, t])
        assert torch.equal(step.terminations, rollout.terminations[:, t])
        if t < 4:
            assert torch.equal(step.obs_tokens, rollout.obs_tokens[:, t + 1])


def test_same_seed_same_rollout_and_different_seed_another(agent, start):
    imagination = new_imagination(agent)
    first = imagination.imagine(*start, seed=1)
    assert equal(imagination.imagine(*start, seed=1), first)
    assert equal(new_imagination(agent).imagine(*start, seed=1), first)
    others = [imagination.imagine(*start, seed=seed) for seed in range(2, 8)]
    for name in ("obs_tokens", "actions"):  # this policy is often sure of what to do
        assert any(not torch.equal(getattr(other, name), getattr(first, name)) for other in others)


def test_policy_and_world_draw_from_streams_of_their_own(agent, start):
    """A longer roll-out begins like a shorter one, but for the last step, which needs no next frame."""
    short = new_imagination(agent, horizon=3).imagine(*start, seed=1)
    long = new_imagination(agent, horizon=5).imagine(*start, seed=1)
    assert torch.equal(long.actions[:, :3], short.actions)
    assert torch.equal(long.obs_tokens[:, :3], short.obs_tokens)


def test_a_horizon_as_long_as_the_context_fills_it_once(agent, start, monkeypatch):
    """As in the paper: horizon 20 in a context of 20 steps."""
    refills = []
    refill = TokenEnv._refill

    def counting(self, *arguments):
        refills.append(1)
        return refill(self, *arguments)

    imagination = new_imagination(agent, horizon=6)
    monkeypatch.setattr(TokenEnv, "_refill", counting)
    imagination.imagine(*start, seed=0)
    assert len(refills) == 1
    new_imagination(agent, horizon=9).imagine(*start, seed=0)
    assert len(refills) == 3


def test_temperature_is_the_worlds(agent, start):
    """At 0 its draws are certain; the policy still explores."""
    imagination = new_imagination(agent, temperature=0.0)
    first = imagination.imagine(*start, seed=1)
    others = [imagination.imagine(*start, seed=seed).actions for seed in range(2, 8)]
    assert any(not torch.equal(actions, first.actions) for actions in others)
    env = TokenEnv(agent.world, B, SamplingConfig(temperature=0.0))
    env.reset(start[0], seed=0)
    for t in range(4):
        assert torch.equal(env.step(first.actions[:, t]).obs_tokens, first.obs_tokens[:, t + 1])


def test_past_steps_reach_the_world(agent, start):
    generator = torch.Generator().manual_seed(5)
    past = [(torch.randint(16, (B, 16), generator=generator), torch.zeros(B, 1, dtype=torch.int64))] * 2
    imagination = new_imagination(agent, temperature=0.0)
    without, within = imagination.imagine(*start, seed=1), imagination.imagine(*start, seed=1, past=past)
    assert not torch.equal(without.obs_tokens[:, 1:], within.obs_tokens[:, 1:])
    assert equal(imagination.imagine(*start, seed=1, past=past), within)


def test_new_weights_count_at_once(agent, start):
    imagination = new_imagination(agent, temperature=0.0)
    before = imagination.imagine(*start, seed=1)
    saved = {name: value.clone() for name, value in agent.world.state_dict().items()}
    with torch.no_grad():
        for block in agent.world.transformer.blocks:
            block.fc_2.weight.neg_()
    after = imagination.imagine(*start, seed=1)
    agent.world.load_state_dict(saved)
    assert not torch.equal(before.obs_tokens[:, 1:], after.obs_tokens[:, 1:])
    assert equal(imagination.imagine(*start, seed=1), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reset_sees_the_weights_as_they_are(agent, start, dtype):
    env = TokenEnv(agent.world, B, SamplingConfig(temperature=0.0), dtype)
    actions = torch.zeros(B, 1, dtype=torch.int64)

    def first_logits() -> torch.Tensor:
        env.reset(start[0], seed=0)
        logits = env.step(actions, should_return_logits=True).observation_logits
        assert logits is not None
        return logits[:, 0]

    weight = agent.world.transformer.blocks[0].fc_2.weight
    before, saved = first_logits(), weight.detach().clone()
    with torch.no_grad():
        weight.neg_()
        after = first_logits()
        weight.copy_(saved)
    assert not torch.equal(before, after)
    assert torch.equal(first_logits(), before)


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
    monkeypatch.setattr("iris_kernels.reference.decode_chain._length_is_known", lambda tensor: False)
    monkeypatch.setattr(
        Upsample,
        "forward",
        lambda self, maps: self.conv(torch.nn.functional.interpolate(maps, scale_factor=2.0)),
    )  # what it does elsewhere than on a CPU
    imagination = new_imagination(agent, horizon=8)  # longer than the context: it is filled again on the way
    imagination.token_env.refresh_weights()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), _NoWaiting():
        imagination._roll_out(*start, [], None)


@torch.no_grad()
def test_a_graphs_steps_are_those_of_a_cpu(agent, start, monkeypatch):
    """Lengths unknown to the host and written-over caches change no token."""
    expected = new_imagination(agent, horizon=8).imagine(*start, seed=4)
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    monkeypatch.setattr("iris_kernels.reference.decode_chain._length_is_known", lambda tensor: False)
    imagination = new_imagination(agent, horizon=8)
    imagination.imagine(*start, seed=3)  # as a capture's warm-up leaves the cache
    rollout = imagination.imagine(*start, seed=4)
    assert torch.equal(rollout.obs_tokens, expected.obs_tokens)
    assert torch.equal(rollout.actions, expected.actions)


@torch.no_grad()
def test_under_bfloat16_autocast(agent, start):
    """The policy may run in bfloat16, the token environment keeps the dtype of its cache."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout = new_imagination(agent).imagine(*start, seed=0)
    env = TokenEnv(agent.world, B)
    env.reset(start[0], seed=0)
    for t in range(4):
        assert torch.equal(env.step(rollout.actions[:, t]).obs_tokens, rollout.obs_tokens[:, t + 1])


def test_given_first_inputs_are_those_it_would_compute(agent, start):
    imagination = new_imagination(agent)
    first = policy_inputs(agent.tokenizer, agent.policy, start[0])
    assert equal(imagination.imagine(*start, seed=3, first_inputs=first), imagination.imagine(*start, seed=3))


def test_bfloat16_weights_stay_close_to_float32(agent, start):
    """Teacher-forced by an untouched frame: the logits of one step agree to the precision of the weights."""
    steps = []
    for dtype in (torch.float32, torch.bfloat16):
        env = TokenEnv(agent.world, B, SamplingConfig(temperature=0.0), dtype)
        env.reset(start[0], seed=0)
        steps.append(env.step(torch.zeros(B, 1, dtype=torch.int64), should_return_logits=True))
    exact, rounded = steps
    assert rounded.reward_logits.dtype == torch.float32
    for name in ("reward_logits", "termination_logits"):
        error = (getattr(exact, name) - getattr(rounded, name)).abs().max()
        assert error < 0.05 * getattr(exact, name).abs().max()
    first = (exact.observation_logits[:, 0] - rounded.observation_logits[:, 0]).abs().max()
    assert first < 0.05 * exact.observation_logits[:, 0].abs().max()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"horizon": 1}, "horizon: got 1, expected at least 2"),
        ({"burn_in": -1}, "burn_in: got -1, expected at least 0"),
        ({"temperature": -0.1}, "temperature: got -0.1, expected a number >= 0"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ImaginationConfig(**values)
