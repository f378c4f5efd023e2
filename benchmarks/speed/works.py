"""The pieces of work that the speed table times: each function returns one to call again and again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iris_wm.agent import Agent
from iris_wm.dream.rollout import Imagination, ImaginationConfig
from iris_wm.optimization import OptimizationConfig, build_optimizer
from iris_wm.policy.loss import policy_loss, policy_targets
from iris_wm.runs.config import RunConfig
from iris_wm.streams import Draw, row_seeds
from iris_wm.tokenizer.learner import TokenizerLossConfig, tokenizer_loss
from iris_wm.world.learner import world_loss

Work = Callable[[], Any]


def without_gradients(work: Callable[..., Any], *arguments: Any) -> Work:
    """The call under torch.no_grad."""

    def run() -> None:
        with torch.no_grad():
            work(*arguments)

    return run


def in_turn(*works: Work) -> Work:
    """One after the other."""

    def run() -> None:
        for work in works:
            work()

    return run


def update(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Work:
    """Forward, backward, clip, step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        with torch.autocast(value.device.type, enabled=False):
            value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    return run


def tokenizer_update(agent: Agent, config: RunConfig, frames: Tensor) -> Work:
    """A training step on frames (B, C, H, W) uint8."""
    optimizer = build_optimizer(agent.tokenizer, _standing_still(config.tokenizer.optimization))
    losses_of = TokenizerLossConfig(l1=1.0, l2=0.0, max_pixel=0.0)

    def loss() -> Tensor:
        output = agent.tokenizer.train()(frames)
        agent.eval()
        return _total(tokenizer_loss(output, agent.tokenizer.normalize(frames), losses_of))

    return update(optimizer, loss)


def world_update(
    agent: Agent, config: RunConfig, tokens: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor
) -> Work:
    """A training step on segments: tokens (B, T, K), actions (B, T, 1), the others (B, T)."""
    model = agent.world
    optimizer = build_optimizer(model, _standing_still(config.world.optimization))

    def loss() -> Tensor:
        output = model.train()(tokens, actions)
        model.eval()
        return _total(world_loss(model, output, tokens, rewards, ends, torch.ones_like(ends)))

    return update(optimizer, loss)


def token_roll_out(agent: Agent, tokens: Tensor, actions: Tensor, dtype: torch.dtype) -> Work:
    """Imagined steps in tokens alone: tokens (B, K) to start from, actions (H, B, n). On a GPU one CUDA graph."""
    world = agent.new_world(dtype=dtype)
    cache, horizon = world.new_cache(len(tokens)), len(actions)
    start, draw = tokens[:, None], Draw.start(row_seeds(0, len(tokens)), world.device)

    def roll_out() -> None:
        state = world.observe_tokens(start, actions[:0].transpose(0, 1), cache=cache)
        for t in range(horizon):
            state, _ = world.step(state, actions[t], draw, needs_frame=t + 1 < horizon)

    return _captured(roll_out) if world.device.type == "cuda" else roll_out


def _captured(work: Work) -> Work:
    """The replay of a CUDA graph of the work."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compile every kernel before the capture
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def imagination(agent: Agent, tokens: Tensor, horizon: int, dtype: torch.dtype) -> Work:
    """Imagined steps with the policy and what it sees, from tokens (B, K)."""
    imagined = new_imagination(agent, ImaginationConfig(horizon=horizon), len(tokens), dtype)
    memory, none, seeds = (
        agent.start(len(tokens)),
        _no_actions(tokens),
        row_seeds(0, len(tokens), tokens.device),
    )
    return lambda: imagined.imagine(tokens[:, None], none, memory, seeds)


def policy_update(
    agent: Agent, config: RunConfig, tokens: Tensor, seen: Tensor, horizon: int, dtype: torch.dtype
) -> Work:
    """A training step: burn-in on what the policy saw (B, T, ...), the last of it where the roll-out starts.

    tokens (B, K): of the frames to start from.
    """
    policy = agent.policy
    optimizer = build_optimizer(policy, _standing_still(config.policy.optimization))
    imagined = new_imagination(agent, ImaginationConfig(horizon=horizon), len(tokens), dtype)
    first = seen[:, -1] if policy.config.sees_frames else None

    def loss() -> Tensor:
        with torch.no_grad():
            _, state = policy.sequence(seen[:, :-1], agent.start(len(tokens)))
        seeds = row_seeds(0, len(tokens), tokens.device)
        rollout = imagined.imagine(tokens[:, None], _no_actions(tokens), state, seeds, first)
        output = policy.heads(policy.sequence(rollout.inputs, rollout.memory)[0])
        played = rollout.actions, rollout.rewards, rollout.terminations
        targets = policy_targets(output, *played, config.policy.loss)
        return _total(policy_loss(output, rollout.actions, targets, config.policy.loss))

    return update(optimizer, loss)


def acting(agent: Agent, frame: Tensor, num: int) -> Work:
    """num actions, each for one real frame (1, C, H, W) uint8."""
    memory, draw = agent.start(1), Draw.start([0])
    return lambda: [agent.act(frame, memory, draw) for _ in range(num)]


def new_imagination(
    agent: Agent, config: ImaginationConfig, batch: int, dtype: torch.dtype, *, is_graph: bool = True
) -> Imagination:
    """Roll-outs of the agent; on a GPU one CUDA graph unless is_graph is False."""
    parts = agent.new_world(dtype=dtype), agent.look, agent.policy.choose
    return Imagination(*parts, config, batch, should_use_cuda_graph=is_graph)


def _no_actions(tokens: Tensor) -> Tensor:
    """Of the no steps before a start: (B, 0, 1)."""
    return tokens.new_zeros(len(tokens), 0, 1)


def _standing_still(config: OptimizationConfig) -> OptimizationConfig:
    """An optimizer that does all its work and changes next to nothing."""
    return replace(config, learning_rate=1e-12)


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()
