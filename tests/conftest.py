"""Fixtures that several parts share."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from iris_wm.agent import Agent
    from iris_wm.runs.config import RunConfig

TINY_RUN = """
env: {id: iris_wm/Catch-v0}
tokenizer:
  autoencoder:
    channels: 8
    channel_multipliers: [1, 1]
    num_residual_blocks: 1
    attention_resolutions: [4]
    latent_dim: 8
    patch_size: 8
  quantizer: {kind: vq, codebook_size: 16, embedding_dim: 8}
  optimization: {start_after_epoch: 0, steps_per_epoch: 2, batch_size: 4}
world:
  num_layers: 2
  num_heads: 2
  embed_dim: 16
  context_steps: 4
  optimization: {start_after_epoch: 0, steps_per_epoch: 2, batch_size: 3, weight_decay: 0.01}
policy:
  hidden_size: 16
  optimization: {start_after_epoch: 1, steps_per_epoch: 2, batch_size: 3}
imagination: {horizon: 3, burn_in: 2}
collection: {env_steps_per_epoch: 60, first_epoch_env_steps: 60, stop_after_epoch: 2}
training:
  num_epochs: 3
evaluation: {every_epochs: 2, num_episodes: 2, num_envs: 2, max_steps: 20}
trainer: {accelerator: cpu, num_threads: 1}
"""
GOLDEN = Path(__file__).parent / "data" / "golden" / "tiny"

PRODUCT = (
    "docs",
    "notebooks",
    "examples",
    "learning",
    "benchmarks",
    "play/test_browser",
    "kernels/test_benchmarks",
    "kernels/test_resources",
)
"""What `make test-product` runs: whole programs, as a user would start them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the product's tests by where they are."""
    for item in items:
        if str(item.path.relative_to(Path(__file__).parent)).startswith(PRODUCT):
            item.add_marker("product")


@pytest.fixture(scope="session")
def golden_manifest() -> dict:
    """Sizes, tensors' shapes and losses of the published implementation's tiny run."""
    return json.loads((GOLDEN / "manifest.json").read_text())


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    """The published implementation's inputs and outputs."""
    return load_file(GOLDEN / "outputs.safetensors")


def _weight(key: str, shape: list[int]) -> torch.Tensor:
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        values = 1 + 0.1 * noise if key.endswith("weight") else 0.02 * noise
    elif "embedding" in key or "pos_emb" in key:
        values = (0.5 if "tokenizer" in key else 0.1) * noise
    else:
        values = noise / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@pytest.fixture(scope="session")
def golden_state(golden_manifest: dict) -> dict[str, torch.Tensor]:
    """The published state dict, rebuilt by the rule."""
    return {key: _weight(key, shape) for key, shape in golden_manifest["parameters"].items()}


@pytest.fixture(scope="session")
def tiny_run() -> "Callable[..., RunConfig]":
    """A config of the smallest run, seconds long, with overrides: tiny_run("world.num_layers=1")."""
    from iris_wm.config import apply_overrides, build_config
    from iris_wm.runs.config import RunConfig
    from iris_wm.strict_yaml import parse_yaml

    def build(*overrides: str) -> RunConfig:
        return build_config(RunConfig, apply_overrides(parse_yaml(TINY_RUN), list(overrides)))

    return build


@pytest.fixture(scope="session")
def tiny_agent(tiny_run: "Callable[..., RunConfig]") -> "Callable[..., Agent]":
    """An untrained agent of the smallest run whose logits are far from flat, in eval mode."""
    from iris_wm.agent import Agent
    from iris_wm.spaces import ActionSpace

    def build(*overrides: str, num_actions: int = 3) -> Agent:
        torch.manual_seed(0)
        agent = Agent(tiny_run(*overrides).agent_config(ActionSpace.discrete(num_actions)))
        with torch.no_grad():  # the usual N(0, 0.02) would make all codes nearly equally likely
            for parameter in [*agent.world.parameters(), *agent.policy.actor.parameters()]:
                if parameter.dim() > 1:
                    parameter.mul_(10)
        return agent.eval()

    return build
