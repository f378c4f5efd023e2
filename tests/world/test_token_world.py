"""The imagined games against the plain way of IRIS: every token of every step a pass of its own, no cache."""

import iris_kernels
import pytest
import torch

from iris_wm.protocols import Outcome
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw, row_seeds
from iris_wm.two_hot import TwoHot, two_hot_values
from iris_wm.world.learner import world_loss
from iris_wm.world.network import (
    AutoregressivePrediction,
    BlockPrediction,
    ParallelPrediction,
    WorldConfig,
    WorldNetwork,
)
from iris_wm.world.token_layout import RotaryPositions
from iris_wm.world.token_world import SamplingConfig, TokenState, TokenWorld

K, V, A, CONTEXT, B = 4, 13, 3, 5, 3
MODES = {
    "autoregressive": {"prediction": AutoregressivePrediction()},
    "parallel": {"prediction": ParallelPrediction()},
    "block_causal": {"prediction": ParallelPrediction(attention="block_causal")},
    "current_step": {"prediction": ParallelPrediction("current_step")},
    "block": {"prediction": BlockPrediction()},
    "everywhere": {"prediction": BlockPrediction("everywhere")},
    "rotary autoregressive": {"positions": RotaryPositions()},
    "rotary current_step": {"prediction": ParallelPrediction("current_step"), "positions": RotaryPositions()},
    "rotary block": {"prediction": BlockPrediction(), "positions": RotaryPositions()},
}


def new_world(
    mode: str = "autoregressive", context_steps: int = CONTEXT, window: str = "restart"
) -> WorldNetwork:
    torch.manual_seed(0)
    config = WorldConfig(
        num_layers=2,
        num_heads=2,
        embed_dim=16,
        context_steps=context_steps,
        dropout=0.1,
        window=window,
        **MODES[mode],
    )
    world = WorldNetwork(config, V, K, ActionSpace.discrete(A)).eval()
    with torch.no_grad():
        for parameter in world.parameters():
            if parameter.dim() > 1:
                parameter.mul_(15)
    return world


@pytest.fixture(params=list(MODES))
def mode(request) -> str:
    return request.param


@pytest.fixture
def world(mode) -> WorldNetwork:
    return new_world(mode)


def frames(seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, K), generator=torch.Generator().manual_seed(seed))


def actions_of(num_steps: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(A, (num_steps, B, 1), generator=torch.Generator().manual_seed(seed + 100))


class Games:
    """A TokenWorld and its state, stepped by actions (B,)."""

    def __init__(self, network: WorldNetwork, sampling: SamplingConfig | None = None, **options) -> None:
        space = ActionSpace.discrete(A)
        self.world = TokenWorld(network, None, space, sampling, should_measure=True, **options)

    def reset(
        self,
        obs_tokens: torch.Tensor,
        seed: int | torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        tokens = torch.stack([*(tokens for tokens, _ in past or []), obs_tokens], dim=1)
        taken = torch.zeros(*tokens.shape[:2], 1, dtype=torch.int64)
        for t, (_, actions) in enumerate(past or []):
            taken[:, t] = actions
        self.state: TokenState = self.world.observe_tokens(tokens, taken)
        self.draw = Draw.start(row_seeds(seed, len(tokens)) if isinstance(seed, int) else seed)

    def step(self, actions: torch.Tensor, needs_frame: bool = True) -> Outcome:
        self.state, outcome = self.world.step(self.state, actions, self.draw, needs_frame=needs_frame)
        self.draw = self.draw.next()
        return outcome


def entropy(logits: torch.Tensor) -> torch.Tensor:
    shares = logits.log_softmax(-1)
    return -(shares.exp() * shares).sum(-1)


class PlainEnv:
    """IRIS, section 2.2 and its published world-model environment, without any saving.

    The context is a plain list of embedded rows; each of the K + 1 passes of a step recomputes all of it.
    """

    def __init__(self, world: WorldNetwork, sampling: SamplingConfig) -> None:
        assert not world.config.is_parallel
        self.world, self.sampling = world, sampling
        self.max_tokens = world.layout.max_tokens
        self.num_restarts = 0

    def reset(self, obs_tokens: torch.Tensor, seed: int) -> None:
        self.draw = Draw.start(row_seeds(seed, len(obs_tokens)))
        self.history: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.begin(obs_tokens, [])

    def begin(self, obs_tokens: torch.Tensor, past: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.rows: list[torch.Tensor] = []
        self.history = list(past)
        for tokens, actions in past:
            self.rows += [*self.embed_frame(tokens), self.world.action_embedding(actions)]
        self.rows += self.embed_frame(obs_tokens)
        self.obs_tokens = obs_tokens

    def embed_frame(self, obs_tokens: torch.Tensor) -> list[torch.Tensor]:
        return [self.world.token_embedding(obs_tokens[:, k]) for k in range(K)]

    def last_hidden(self) -> torch.Tensor:
        places = torch.arange(len(self.rows))
        x = torch.stack(self.rows, dim=1) + self.world.positions_at(places)
        return self.world.transformer(x, self.world.pattern, self.world.turns_at(places))[:, -1]

    def sample(self, logits: torch.Tensor, stream: str, place: int = 0) -> torch.Tensor:
        return iris_kernels.sample_tokens(
            logits, *self.draw.of(stream), place=place, temperature=self.sampling.temperature
        )

    def step(self, actions: torch.Tensor, should_predict_frame: bool = True) -> tuple[torch.Tensor, ...]:
        num_passes = 1 + K if should_predict_frame else 1
        if len(self.rows) + num_passes > self.max_tokens:
            self.num_restarts += 1
            kept = CONTEXT // 2 if self.world.config.window == "slide" else 0
            self.begin(self.obs_tokens, self.history[len(self.history) - kept :])
        self.history.append((self.obs_tokens, actions))
        observation_logits, tokens = [], []
        for k in range(num_passes):
            row = self.world.token_embedding(tokens[-1]) if k else self.world.action_embedding(actions)
            self.rows.append(row)
            hidden = self.last_hidden()
            if k == 0:
                reward_logits = self.world.reward_head(hidden)
                termination_logits = self.world.termination_head(hidden)
            if should_predict_frame and k < K:
                observation_logits.append(self.world.observation_head(hidden))
                tokens.append(self.sample(observation_logits[-1], "tokens", k))
        rewards = self.sample(reward_logits, "reward") - 1
        terminations = self.sample(termination_logits, "termination").bool()
        self.draw = self.draw.next()
        if should_predict_frame:
            self.obs_tokens = torch.stack(tokens, dim=1)
            observation_logits = torch.stack(observation_logits, dim=1)
        return self.obs_tokens, rewards, terminations, reward_logits, termination_logits, observation_logits


class PlainParallelEnv(PlainEnv):
    """The same for parallel prediction: whole segments through the world model as in training."""

    def __init__(self, world: WorldNetwork, sampling: SamplingConfig) -> None:
        self.world, self.sampling = world, sampling
        self.num_restarts = 0

    def begin(self, obs_tokens: torch.Tensor, past: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.history = list(past)
        self.obs_tokens = obs_tokens

    def step(self, actions: torch.Tensor, should_predict_frame: bool = True) -> tuple[torch.Tensor, ...]:
        if len(self.history) == CONTEXT:
            self.num_restarts += 1
            kept = CONTEXT // 2 if self.world.config.window == "slide" else 0
            self.begin(self.obs_tokens, self.history[len(self.history) - kept :])
        self.history.append((self.obs_tokens, actions))
        segment, taken = (torch.stack(column, dim=1) for column in zip(*self.history, strict=True))
        output = self.world(segment, taken)
        logits = output.observation_logits[:, -K:]
        if should_predict_frame:
            self.obs_tokens = self.sample(logits.flatten(0, 1), "tokens").view(-1, K)
        reward_logits, termination_logits = output.reward_logits[:, -1], output.termination_logits[:, -1]
        rewards = self.sample(reward_logits, "reward") - 1
        terminations = self.sample(termination_logits, "termination").bool()
        self.draw = self.draw.next()
        return self.obs_tokens, rewards, terminations, reward_logits, termination_logits, logits


def plain_env(world: WorldNetwork, sampling: SamplingConfig) -> PlainEnv:
    return (PlainParallelEnv if world.config.is_parallel else PlainEnv)(world, sampling)


@torch.no_grad()
@pytest.mark.parametrize("window", ["restart", "slide"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_equals_the_plain_way_through_several_contexts(mode, temperature, window):
    world, sampling = new_world(mode, window=window), SamplingConfig(temperature)
    env, plain = Games(world, sampling), plain_env(world, sampling)
    env.reset(frames(), seed=7)
    plain.reset(frames(), seed=7)
    for actions in actions_of(4 * CONTEXT):
        step = env.step(actions)
        obs_tokens, rewards, terminations, reward_logits, termination_logits, logits = plain.step(actions)
        assert torch.equal(step.measures["tokens"], obs_tokens)
        assert torch.equal(step.rewards, rewards.float())
        assert torch.equal(step.terminations, terminations)
        shares = reward_logits.softmax(-1)
        assert torch.allclose(step.measures["reward_probabilities"], shares, atol=1e-4)
        assert torch.allclose(step.reward_mean, shares[:, 2] - shares[:, 0], atol=1e-4)
        assert torch.allclose(step.termination_probability, termination_logits.softmax(-1)[:, 1], atol=1e-4)
        assert torch.allclose(step.measures["token_entropy"], entropy(logits), atol=1e-4)
    assert plain.num_restarts >= 3


@torch.no_grad()
def test_the_last_step_of_a_rollout_needs_no_room_for_a_frame(world):
    """Its rewards and terminations are those of a full step, and the frame stays."""
    sampling = SamplingConfig(temperature=0.0)
    env, plain = Games(world, sampling), plain_env(world, sampling)
    env.reset(frames(), seed=0)
    plain.reset(frames(), seed=0)
    taken = actions_of(CONTEXT)
    for t, actions in enumerate(taken):
        is_last = t + 1 == CONTEXT
        before = env.step(actions, needs_frame=not is_last)
        after = plain.step(actions, should_predict_frame=not is_last)
        assert torch.equal(before.measures["tokens"], after[0])
        assert torch.allclose(before.measures["reward_probabilities"], after[3].softmax(-1), atol=1e-4)
    assert plain.num_restarts == 0


@torch.no_grad()
def test_restart_rebuilds_from_the_current_frame_alone(world):
    """Right after the context is full, nothing but the current frame and the action counts."""
    sampling = SamplingConfig(temperature=0.0)
    env = Games(world, sampling)
    env.reset(frames(), seed=0)
    full_after = CONTEXT - (0 if world.config.is_parallel else 1)
    taken = actions_of(full_after + 1)
    for actions in taken[:-1]:
        current = env.step(actions).measures["tokens"]
    fresh = Games(world, sampling)
    fresh.reset(current, seed=0)
    continued, restarted = env.step(taken[-1]), fresh.step(taken[-1])
    assert torch.equal(continued.measures["tokens"], restarted.measures["tokens"])
    assert torch.allclose(continued.reward_mean, restarted.reward_mean, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("context_steps", [2, 3, 4, 20])
def test_a_horizon_as_long_as_the_context_needs_no_refill(monkeypatch, mode, context_steps):
    env = Games(new_world(mode, context_steps))
    env.reset(frames(), seed=0)
    monkeypatch.setattr(TokenWorld, "_fill", lambda *_: pytest.fail("the context was refilled"))
    for t, actions in enumerate(actions_of(context_steps)):
        env.step(actions, needs_frame=t + 1 < context_steps)


@torch.no_grad()
@pytest.mark.parametrize("num_past", [0, 1, 2, 3, 4, 9])
def test_past_steps_count(world, num_past):
    """The first step after a reset with a past is what the world model predicts of the whole segment."""
    past = [(frames(10 + t), actions) for t, actions in enumerate(actions_of(num_past, seed=1))]
    env = Games(world, SamplingConfig(temperature=0.0))
    env.reset(frames(), seed=0, past=past)
    actions = actions_of(1)[0]
    step = env.step(actions)
    kept = past[max(0, len(past) - world.config.max_past) :]
    segment = torch.stack([*(tokens for tokens, _ in kept), frames()], dim=1)
    taken = torch.stack([*(action for _, action in kept), actions], dim=1)
    output = world(segment, taken)
    shares = output.reward_logits[:, -1].softmax(-1)
    assert torch.allclose(step.measures["reward_probabilities"], shares, atol=1e-4)
    row = slice(-K, None) if world.config.is_parallel else slice(-1, None)
    expected = entropy(output.observation_logits[:, row])
    assert torch.allclose(step.measures["token_entropy"][:, : expected.shape[1]], expected, atol=1e-4)


def test_the_longest_past_still_leaves_room(monkeypatch, world):
    env = Games(world)
    past = [(frames(t), actions) for t, actions in enumerate(actions_of(CONTEXT))]
    env.reset(frames(), seed=0, past=past)
    monkeypatch.setattr(TokenWorld, "_fill", lambda *_: pytest.fail("the past was forgotten at once"))
    env.step(actions_of(1)[0])


@pytest.mark.parametrize("window", ["restart", "slide"])
def test_the_shortest_context(mode, window):
    env = Games(new_world(mode, 2, window))
    env.reset(frames(), seed=0)
    for actions in actions_of(10):
        assert env.step(actions).measures["tokens"].shape == (B, K)


def roll_out(env: Games, seed: int, num_steps: int = 2 * CONTEXT) -> torch.Tensor:
    env.reset(frames(), seed)
    return torch.stack([env.step(actions).measures["tokens"] for actions in actions_of(num_steps)])


def test_same_seed_same_rollout(world):
    env = Games(world)
    first = roll_out(env, seed=3)
    assert torch.equal(roll_out(env, seed=3), first)
    assert torch.equal(roll_out(Games(world), seed=3), first)
    assert not torch.equal(roll_out(env, seed=4), first)
    env.reset(frames(), row_seeds(3, B))
    assert torch.equal(env.step(actions_of(1)[0]).measures["tokens"], first[0])


def test_no_global_generator_is_touched(world):
    state = torch.get_rng_state()
    roll_out(Games(world), seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_temperature_zero_ignores_the_seed(world):
    env = Games(world, SamplingConfig(temperature=0.0))
    assert torch.equal(roll_out(env, seed=1), roll_out(env, seed=2))
    likeliest = Games(world, SamplingConfig(top_k=1))
    env.reset(frames(), 0)
    likeliest.reset(frames(), 5)
    actions = actions_of(1)[0]
    assert torch.equal(env.step(actions).measures["tokens"], likeliest.step(actions).measures["tokens"])


def test_draws_follow_the_distribution():
    """Of many equal environments, each code of the first token comes up as often as its probability says."""
    world = new_world("parallel")
    with torch.no_grad():
        world.observation_head[2].weight.mul_(0.1)
    num = 4000
    env = Games(world)
    start, action = frames()[:1], torch.zeros(1, 1, dtype=torch.int64)
    env.reset(start.expand(num, K).contiguous(), seed=0)
    step = env.step(action.expand(num, 1))
    padded = torch.stack([start, start], dim=1)[:, :1], action[None]
    probabilities = world(*padded).observation_logits[0, 0].softmax(-1)
    counts = torch.bincount(step.measures["tokens"][:, 0], minlength=V)
    error = (probabilities * (1 - probabilities) / num).sqrt()
    assert ((counts / num - probabilities).abs() < 4 * error + 1e-4).all()


@pytest.mark.parametrize("window", ["restart", "slide"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_are_independent(mode, window, temperature):
    """A row dreamed alone, beside others, and after a neighbour was replaced: the same tokens."""
    world, sampling = new_world(mode, window=window), SamplingConfig(temperature)
    env = Games(world, sampling)
    taken = actions_of(4 * CONTEXT)
    together = roll_out(env, seed=0, num_steps=len(taken))
    for i in range(B):
        alone = Games(world, sampling)
        alone.reset(frames()[i : i + 1], row_seeds(0, B)[i : i + 1])
        for t, actions in enumerate(taken):
            assert torch.equal(alone.step(actions[i : i + 1]).measures["tokens"][0], together[t, i])
    other = Games(world, sampling)
    env.reset(frames(), seed=0)
    for t, actions in enumerate(taken):
        if t in (2, 3, 7, 2 * CONTEXT):  # row 1 begins another game, with a longer past every time
            past = [(frames(20 + s)[:1], actions_of(1, seed=s)[0, :1]) for s in range(t % CONTEXT)]
            other.reset(frames(50 + t)[:1], 0, past)
            env.state = env.world.put(env.state, torch.tensor([1]), other.state)
        tokens = env.step(actions).measures["tokens"]
        assert torch.equal(tokens[[0, 2]], together[t, [0, 2]])


@pytest.mark.parametrize("window", ["restart", "slide"])
def test_a_fork_goes_its_own_way_and_leaves_the_first_alone(mode, window):
    env = Games(new_world(mode, window=window), SamplingConfig(0.0))
    taken = actions_of(3 * CONTEXT)
    expected = roll_out(env, seed=0, num_steps=len(taken))
    env.reset(frames(), seed=0)
    for t, actions in enumerate(taken):
        rows = torch.tensor([2, 0, 0, 1])
        forked = env.world.fork(env.state, rows)
        for later in range(t, min(t + 2, len(taken))):
            forked, outcome = env.world.step(forked, taken[later][rows], Draw.start([0] * len(rows)))
            assert torch.equal(outcome.measures["tokens"], expected[later][rows])
        assert torch.equal(env.step(actions).measures["tokens"], expected[t])


def test_pieces_of_unequal_lengths_are_seen_each_as_it_is(world):
    """Padding in front: a row with fewer real steps is the same as one that never had more."""
    games = Games(world, SamplingConfig(0.0)).world
    tokens = torch.stack([frames(t) for t in range(4)], dim=1)
    taken = actions_of(4).transpose(0, 1)
    num_real = torch.tensor([4, 2, 1])
    state = games.observe_tokens(tokens, taken, num_real)
    actions = actions_of(1, seed=9)[0]
    _, outcome = games.step(state, actions, Draw.start([0] * B))
    for i, num in enumerate(num_real.tolist()):
        alone = games.observe_tokens(tokens[i : i + 1, -num:], taken[i : i + 1, -num:])
        _, expected = games.step(alone, actions[i : i + 1], Draw.start([0]))
        assert torch.equal(outcome.measures["tokens"][i], expected.measures["tokens"][0])
        assert torch.allclose(outcome.reward_mean[i], expected.reward_mean[0], atol=1e-5)


def test_weights_in_bfloat16_are_refreshed(world):
    env = Games(world, dtype=torch.bfloat16)
    exact = Games(world)
    with torch.no_grad():
        for parameter in world.transformer.parameters():
            parameter.mul_(0.9)
    env.world.refresh()
    exact.world.refresh()
    env.reset(frames(), 0)
    exact.reset(frames(), 0)
    actions = actions_of(1)[0]
    low, high = (each.step(actions).reward_mean for each in (env, exact))
    assert (low - high).abs().max() < 0.1


def test_what_was_learned_holds_at_every_step_of_the_context(mode):
    """Every token grows by the action + 1: learned from segments, then asked after 0, 1, ... past steps."""
    torch.manual_seed(0)
    config = WorldConfig(2, 2, 32, CONTEXT, dropout=0.0, initialization="width", **MODES[mode])
    world = WorldNetwork(config, V, K, ActionSpace.discrete(A))
    optimizer = torch.optim.Adam(world.parameters(), 1e-2)

    def segments(num_steps: int, num: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
        actions = torch.randint(A, (num, num_steps))
        grown = (actions + 1).cumsum(1) - (actions + 1)
        return (torch.randint(V, (num, 1, K)) + grown[..., None]) % V, actions

    for _ in range(300):
        tokens, actions = segments(config.segment_steps)
        output = world(tokens[:, :CONTEXT], actions[:, :CONTEXT, None])
        zeros = torch.zeros(actions.shape)
        losses = world_loss(world, output, tokens, zeros, zeros.bool(), zeros == 0)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for num_past in range(config.max_past + 1):
        tokens, actions = segments(num_past + 2)
        env = Games(world.eval(), SamplingConfig(temperature=0.0))
        env.reset(tokens[:, num_past], 0, [(tokens[:, t], actions[:, t, None]) for t in range(num_past)])
        step = env.step(actions[:, num_past, None])
        assert (step.measures["tokens"] == tokens[:, num_past + 1]).float().mean() > 0.9, num_past


def test_max_past():
    assert new_world("autoregressive").config.max_past == CONTEXT - 2
    assert new_world("parallel").config.max_past == CONTEXT - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature: got -1.0, expected a number of at least 0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"top_k": -1}, "top_k: got -1, expected a whole number of at least 0"),
        ({"top_p": 0.0}, "top_p: got 0.0, expected a number above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p: got 1.5"),
    ],
)
def test_impossible_sampling_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**values)


@torch.no_grad()
def test_two_hot_rewards_are_drawn_and_foretold_by_their_bins():
    torch.manual_seed(0)
    config = WorldConfig(
        num_layers=1,
        num_heads=2,
        embed_dim=16,
        context_steps=3,
        dropout=0.0,
        rewards=TwoHot(num_bins=21),
    )
    network = WorldNetwork(config, V, K, ActionSpace.discrete(A)).eval()
    assert network.reward_values.tolist() == two_hot_values(21).tolist()
    torch.nn.init.normal_(network.reward_head[2].weight, 0.0, 3.0)
    env = Games(network)
    env.reset(frames(), seed=0)
    outcomes = [env.step(actions) for actions in actions_of(6)]
    drawn = torch.cat([outcome.rewards for outcome in outcomes])
    assert len(set(drawn.tolist())) > 2
    assert set(drawn.tolist()) <= set(network.reward_values.tolist())
    shares = outcomes[-1].measures["reward_probabilities"]
    torch.testing.assert_close(shares.sum(-1), torch.ones(B))
    labels = network.reward_labels(torch.tensor([[0.0, 2.5]]))
    torch.testing.assert_close(network.reward_mean(labels), torch.tensor([[0.0, 2.5]]))
