"""One dreamer: the same start, seed and actions bring the same dream through every door, also long after the
context is full."""

from pathlib import Path

import numpy as np
import pytest
import torch

from iris_wm.agent import Agent
from iris_wm.data.episode import Episode
from iris_wm.data.segment import Segment
from iris_wm.dream.dream import Dream, dream_seed
from iris_wm.dream.env import DreamEnv, DreamVectorEnv
from iris_wm.dream.rollout import Choice, Imagination, ImaginationConfig
from iris_wm.envs import EnvConfig, make_env
from iris_wm.evaluation import dream_quality
from iris_wm.play.agent_dream import AgentDream, _Start
from iris_wm.reports.run_report import dream_beside

SEED, NUM_STEPS, CONTEXT = 3, 30, 6
TAKEN = torch.randint(3, (NUM_STEPS, 1), generator=torch.Generator().manual_seed(1))
VARIANTS = {
    "restart": ("world.window=restart",),
    "slide": ("world.window=slide",),
    "parallel": ("world.window=slide", "world.prediction=parallel"),
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def agent(request, tiny_agent) -> Agent:
    agent = tiny_agent(*VARIANTS[request.param], f"world.context_steps={CONTEXT}")
    with torch.no_grad():  # dreams that do not end
        agent.world.termination_head[2].bias.copy_(torch.tensor([1e9, 0.0]))
    return agent


@pytest.fixture(scope="module")
def real() -> Episode:
    """Two steps before the start, the start, and real steps under the same actions to compare with."""
    env = make_env(EnvConfig(id="iris_wm/Catch-v0"))
    observation, _ = env.reset(seed=0)
    frames = []
    for _ in range(NUM_STEPS + 3):
        frames.append(torch.from_numpy(observation).permute(2, 0, 1))
        observation, _, terminated, truncated, _ = env.step(1)
        if terminated or truncated:
            observation, _ = env.reset()
    none = torch.zeros(len(frames), dtype=torch.bool)
    actions = torch.cat([torch.ones(2, 1, dtype=torch.int64), TAKEN, TAKEN[:1]])
    return Episode(torch.stack(frames), actions, torch.zeros(len(frames)), none, none)


@pytest.fixture(scope="module")
def past(real: Episode) -> Segment:
    """The two steps before the start, and the start."""
    return Segment.seen(real.frames[None, :3], real.actions[None, :3])


@pytest.fixture(scope="module")
def expected(agent: Agent, past: Segment) -> torch.Tensor:
    """Tokens (T, K) of the dream by the dreamer itself."""
    dream = Dream(agent.new_world(), past, [dream_seed(SEED)])
    return torch.cat([dream.step(action[None]).measures["tokens"] for action in TAKEN])


def shows(frames: torch.Tensor, agent: Agent, tokens: torch.Tensor) -> bool:
    """Whether these are the pictures of the tokens; a convolution rounds a batch otherwise than a single frame."""
    pictures = agent.tokenizer.decode(tokens).mul(255).round().int()
    return len(frames) == len(pictures) and int((frames.int() - pictures).abs().max()) <= 1


def test_learning(agent, past, expected):
    steps = iter(TAKEN)

    def choose(inputs, memory, draw):
        return Choice(next(steps)[None], torch.ones(1, dtype=torch.bool)), memory

    config = ImaginationConfig(horizon=NUM_STEPS)
    imagination = Imagination(agent.new_world(), agent.look, choose, config, 1)
    obs_tokens = agent.tokenizer.encode(past.frames)
    seeds = torch.tensor([dream_seed(SEED)])
    rollout = imagination.imagine(obs_tokens, past.actions[:, :2], agent.start(), seeds)
    # The last step's next frame is nobody's to see.
    assert torch.equal(rollout.measures["tokens"][0, :-1], expected[:-1])


def test_the_agent(agent, real, expected):
    dream = agent.dream(real.frames[2], NUM_STEPS, SEED, context=real.slice(0, 2), actions=TAKEN)
    assert shows(dream.frames[1:], agent, expected[:-1])
    beside = dream_beside(agent, real.slice(0, NUM_STEPS + 2), 2, SEED)
    assert shows(beside.frames[3:], agent, expected[:-1])


@pytest.mark.parametrize("num_envs", [1, 3])
def test_gymnasium(agent, past, expected, num_envs):
    if num_envs == 1:
        env = DreamEnv(agent, past)
        env.reset(seed=SEED)
        tokens = [env.step(int(action))[4]["obs_tokens"] for action in TAKEN]
    else:
        many = DreamVectorEnv(agent, past, num_envs)
        many.reset(seed=SEED - 1)
        tokens = [many.step(np.full(num_envs, int(action)))[4]["obs_tokens"][1] for action in TAKEN]
    assert np.array_equal(np.stack(tokens), expected.numpy())


def test_the_page(agent, past, expected):
    env = make_env(EnvConfig(id="iris_wm/Catch-v0"))
    env.reset(seed=0)
    dream = AgentDream(agent, env, num_starts=1)
    dream._starts[0] = _Start(past, agent.start(), env.snapshot())
    dream.reset(0, SEED)
    tokens = [dream.step(int(action)).tokens for action in TAKEN]
    assert torch.equal(torch.stack(tokens), expected)


def test_the_measurement(agent, real, expected, monkeypatch):
    monkeypatch.setattr(
        dream_quality, "_choose_starts", lambda episodes, num, seed: [dream_quality._Start(0, 2)]
    )
    quality = dream_quality.evaluate_dream(agent, [real], horizon=NUM_STEPS, burn_in=2, seed=SEED)
    dreamed = quality.examples[0]["dreamed"][1:]
    assert shows(dreamed, agent, expected)


def test_nothing_outside_the_world_reaches_into_it():
    """What dreams knows worlds by their public names alone."""
    package = Path(__file__).parents[2] / "iris_wm"
    for room in ("dream", "play", "evaluation", "policy", "reports"):
        for file in (package / room).glob("*.py"):
            text = file.read_text()
            assert "world._" not in text, file
            assert "network._" not in text, file
