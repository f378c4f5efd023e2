"""Which weights decay."""

import pytest
import torch
from torch import nn

from iris_wm.optimization import OptimizationConfig, build_optimizer


@pytest.mark.parametrize("network", ["tokenizer", "world", "policy"])
def test_only_weights_of_linear_layers_decay(tiny_agent, network):
    agent = tiny_agent("policy.inputs=tokens", "world.prediction=parallel")
    module = getattr(agent, network)
    optimizer = build_optimizer(module, OptimizationConfig(weight_decay=0.1, learning_rate=0.003))
    decayed = {
        id(parameter)
        for group in optimizer.param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    }
    expected = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    assert decayed == expected
    assert all(group["weight_decay"] in (0.0, 0.1) for group in optimizer.param_groups)
    assert all(group["lr"] == 0.003 for group in optimizer.param_groups)
    assert isinstance(optimizer, torch.optim.AdamW)
    optimized = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(optimized) == sorted(id(parameter) for parameter in module.parameters())


def test_embeddings_norms_and_biases_of_the_world_never_decay(tiny_agent):
    world = tiny_agent("world.prediction=parallel").world
    optimizer = build_optimizer(world, OptimizationConfig(weight_decay=0.1))
    names = {id(parameter): name for name, parameter in world.named_parameters()}
    kept = {
        names[id(parameter)]
        for group in optimizer.param_groups
        if not group["weight_decay"]
        for parameter in group["params"]
    }
    assert {name for name in names.values() if name.endswith("bias")} <= kept
    assert {name for name in names.values() if "ln_" in name or "embedding" in name} <= kept
    assert not any(name.endswith(("qkv.weight", "fc_1.weight", "head.2.weight")) for name in kept)


def test_one_step_by_hand():
    """AdamW's first step: decay by lr x wd, then lr against the sign of the gradient."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.fill_(4.0)
    optimizer = build_optimizer(layer, OptimizationConfig(weight_decay=0.5, learning_rate=0.1))
    layer.weight.grad = torch.tensor([[3.0, -7.0]])
    layer.bias.grad = torch.tensor([-1.0])
    optimizer.step()
    assert torch.allclose(layer.weight, torch.tensor([[1 * 0.95 - 0.1, -2 * 0.95 + 0.1]]), atol=1e-5)
    assert torch.allclose(layer.bias, torch.tensor([4.1]), atol=1e-5)
