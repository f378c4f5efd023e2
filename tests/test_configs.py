"""Every shipped config builds, the paper's preset holds the paper's values, and every key is explained."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from iris_wm.config import build_config, describe, dump_yaml, to_mapping
from iris_wm.envs import make_env
from iris_wm.envs.make import atari_game, check_id
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import parse_yaml, read_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
ALL = sorted(CONFIGS.rglob("*.yaml"))
PAPER = CONFIGS / "atari100k" / "iris.yaml"

# Micheli, Alonso and Fleuret (2023), appendices A to C, and the published configuration.
PUBLISHED: dict[str, Any] = {
    "env.resize": "bilinear_then_max",
    "env.resolution": 64,
    "env.frame_skip": 4,
    "env.noop_max": 30,
    "env.terminal_on_life_loss": True,
    "env.max_emulator_frames": 20_000,
    "env.max_emulator_frames_test": 108_000,
    "env.sticky": 0.0,
    "tokenizer.autoencoder.resolution": 64,
    "tokenizer.autoencoder.channels": 64,
    "tokenizer.autoencoder.channel_multipliers": [1, 1, 1, 1, 1],
    "tokenizer.autoencoder.num_residual_blocks": 2,
    "tokenizer.autoencoder.attention_resolutions": [8, 16],
    "tokenizer.autoencoder.latent_dim": 512,
    "tokenizer.autoencoder.patch_size": 1,
    "tokenizer.quantizer": "vq",
    "tokenizer.quantizer.codebook_size": 512,
    "tokenizer.quantizer.embedding_dim": 512,
    "world.num_layers": 10,
    "world.num_heads": 4,
    "world.embed_dim": 256,
    "world.context_steps": 20,
    "world.dropout": 0.1,
    "world.prediction": "autoregressive",
    "policy.inputs": "frames",
    "policy.hidden_size": 512,
    "tokenizer.loss.moving_pixels": 0.0,
    "world.loss.rare_event_weight": 1.0,
    "policy.loss.gamma": 0.995,
    "policy.loss.lambda_": 0.95,
    "policy.loss.entropy_weight": 0.001,
    "policy.loss.return_normalization": "none",
    "policy.loss.stop_at_termination": False,
    "imagination.horizon": 20,
    "imagination.burn_in": 20,
    "imagination.context": "frame",
    "imagination.temperature": 1.0,
    "imagination.rewards": "sampled",
    "collection.env_steps_per_epoch": 200,
    "collection.first_epoch_env_steps": 200,
    "collection.num_envs": 1,
    "collection.stop_after_epoch": 500,
    "collection.policy_temperature": 1.0,
    "collection.epsilon": 0.01,
    "collection.epsilon_before_policy": 0.01,
    "collection.max_action_hold": 1,
    "collection.burn_in": 20,
    "training.num_epochs": 600,
    "tokenizer.optimization.start_after_epoch": 5,
    "tokenizer.optimization.steps_per_epoch": 200,
    "tokenizer.optimization.first_epoch_steps": 0,
    "tokenizer.optimization.final_learning_rate": 0.0,
    "world.optimization.final_learning_rate": 0.0,
    "policy.optimization.final_learning_rate": 0.0,
    "tokenizer.optimization.batch_size": 256,
    "tokenizer.optimization.learning_rate": 1e-4,
    "tokenizer.optimization.max_grad_norm": 10.0,
    "tokenizer.optimization.weight_decay": 0.0,
    "world.optimization.start_after_epoch": 25,
    "world.optimization.steps_per_epoch": 200,
    "world.optimization.first_epoch_steps": 0,
    "world.optimization.batch_size": 64,
    "world.optimization.learning_rate": 1e-4,
    "world.optimization.max_grad_norm": 10.0,
    "world.optimization.weight_decay": 0.01,
    "policy.optimization.start_after_epoch": 50,
    "policy.optimization.steps_per_epoch": 200,
    "policy.optimization.first_epoch_steps": 0,
    "policy.optimization.batch_size": 64,
    "policy.optimization.learning_rate": 1e-4,
    "policy.optimization.max_grad_norm": 10.0,
    "policy.optimization.weight_decay": 0.0,
    "evaluation.every_epochs": 5,
    "evaluation.num_episodes": 16,
    "evaluation.policy_temperature": 0.5,
    "evaluation.max_steps": 27_000,
}


def flat(mapping: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted keys to values; the kind of a choice stands at the choice's own key."""
    result = {}
    for key, value in mapping.items():
        dotted = (path + key).removesuffix(".kind")
        result |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {dotted: value}
    return result


def config_classes(cls: type = RunConfig) -> set[type]:
    """cls and every config dataclass inside it."""
    found = {cls}
    found |= {base for base in cls.__mro__ if dataclasses.is_dataclass(base)}
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            found |= config_classes(typing.cast(type, hint))
    return found


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_config_builds_and_survives_a_round_trip(path):
    config = build_config(RunConfig, read_yaml(path))
    assert build_config(RunConfig, parse_yaml(dump_yaml(config))) == config
    check_id(config.env.id)
    assert path.read_text().lstrip().startswith("#"), "a shipped config opens with what it is for"


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_config_makes_an_agent_for_its_game(path):
    config = build_config(RunConfig, read_yaml(path))
    env = make_env(config.env)
    assert env.reset(seed=0)[0].shape == (config.env.resolution, config.env.resolution, 3)
    config.agent_config(env.actions)
    env.close()


def test_configs_of_the_benchmark_are_atari():
    for path in (CONFIGS / "atari100k").glob("*.yaml"):
        config = build_config(RunConfig, read_yaml(path))
        assert atari_game(config.env.id) is not None
        assert config.total_env_steps == 100_000, path
        assert config.env.sticky == 0
        assert config.env.max_emulator_frames_test == 108_000


def test_the_papers_preset_holds_the_published_values():
    values = flat(to_mapping(build_config(RunConfig, read_yaml(PAPER))))
    assert {key: values[key] for key in PUBLISHED} == PUBLISHED
    pixel_terms = {"l1": 1.0, "l2": 0.0, "max_pixel": 0.0}
    assert {name: values[f"tokenizer.loss.{name}"] for name in pixel_terms} == pixel_terms


def test_the_papers_preset_writes_every_published_value_out():
    """A reader of the file sees the whole recipe, and a changed default cannot change it."""
    missing = PUBLISHED.keys() - flat(read_yaml(PAPER)).keys()
    beyond_the_paper = ("first_epoch_steps", "final_learning_rate", "moving_pixels", "weight_decay")
    assert [key for key in missing if not key.endswith(beyond_the_paper)] == []


def test_the_papers_preset_says_what_its_perceptual_loss_needs():
    assert "lpips" in PAPER.read_text().lower()


def test_defaults_are_the_papers():
    """But for the pixel terms, which replace its perceptual loss."""
    values = flat(to_mapping(RunConfig()))
    assert {key: values[key] for key in PUBLISHED} == PUBLISHED


def test_every_key_is_explained():
    """By the docstring below it; a section by the docstring of its class."""
    sections = describe(RunConfig())
    assert set(flat(to_mapping(RunConfig()))) <= {
        option.key for section in sections for option in section.options
    }
    for section in sections:
        assert section.help.endswith("."), section.key
        assert "(" not in section.help.split()[0], f"{section.key} has no docstring"
        for option in section.options:
            assert option.help.endswith("."), option.key


def test_every_config_is_frozen():
    for cls in config_classes():
        assert cls.__dataclass_params__.frozen, cls


def test_unknown_and_abbreviated_keys_are_refused():
    for yaml, key in (
        ("training: {epochs: 3}", "training.epochs"),
        ("world: {num_layer: 3}", "world.num_layer"),
        ("seeds: 1", "seeds"),
        ("_target_: os.system", "_target_"),
        ("class_path: os.system", "class_path"),
    ):
        with pytest.raises(ValueError, match=f'unknown key "{key}"'):
            build_config(RunConfig, parse_yaml(yaml))
