"""Every value out of range is refused in one line: the key's full path, the value, what was expected."""

import pytest

from iris_wm.agent import AgentConfig
from iris_wm.config import apply_overrides, build_config
from iris_wm.runs.config import RunConfig
from iris_wm.spaces import ActionSpace

# key, value as on the command line, what the message says after the key
REFUSED = [
    ("seed", "-1", "got -1, expected a whole number from 0 to 2147483647"),
    ("seed", "2147483648", "got 2147483648, expected a whole number from 0 to"),
    ("seed", "1.5", "got 1.5, expected a whole number"),
    ("seed", "true", "got true, expected a whole number"),
    ("env.id", "''", "got '', expected the name of a game"),
    ("env.resolution", "32", "got 32, expected the tokenizer's (64)"),
    ("env.frame_skip", "0", "got 0, expected a whole number from 1 to 100"),
    ("env.noop_max", "-1", "got -1, expected a whole number from 0 to 1000"),
    ("env.sticky", "1.0", "got 1.0, expected a number from 0 to below 1"),
    ("env.sticky", ".nan", "got nan, expected a number from 0 to below 1"),
    ("env.resize", "cubic", 'got "cubic", expected one of "bilinear_then_max", "area"'),
    ("env.terminal_on_life_loss", "no", 'got "no", expected true or false'),
    ("env.max_emulator_frames", "0", "got 0, expected a whole number from 1"),
    ("tokenizer.quantizer.codebook_size", "0", "got 0, expected a whole number of at least 1"),
    ("tokenizer.quantizer.embedding_dim", "-4", "got -4, expected a whole number of at least 1"),
    ("tokenizer.quantizer", "vqvae", 'got "vqvae", expected one of "vq", "fsq"'),
    ("tokenizer.autoencoder.channels", "0", "got 0, expected a whole number of at least 1"),
    ("tokenizer.autoencoder.channels", "wide", 'got "wide", expected a whole number'),
    ("tokenizer.autoencoder.patch_size", "0", None),
    ("tokenizer.autoencoder.resolution", "60", "got 60, expected a multiple of 16"),
    ("world.num_layers", "0", "got 0, expected a whole number of at least 1"),
    ("world.num_heads", "3", None),
    ("world.embed_dim", "30", "got 30, expected a multiple of num_heads (4)"),
    ("world.context_steps", "1", "got 1, expected a whole number of at least 2"),
    ("world.dropout", "1", "got 1, expected a number from 0 to below 1"),
    ("world.dropout", ".nan", "got nan, expected a number from 0 to below 1"),
    ("world.prediction", "sideways", 'got "sideways", expected one of "autoregressive", "parallel"'),
    ("policy.hidden_size", "0", "got 0, expected a whole number of at least 1"),
    ("policy.inputs", "pixels", 'got "pixels", expected one of "frames", "tokens"'),
    ("tokenizer.loss.l1", "-1", "got -1, expected a number of at least 0"),
    ("tokenizer.loss.max_pixel", ".inf", "got inf, expected a number of at least 0"),
    ("tokenizer.loss.perceptual", "lpips", None),
    ("world.loss.rare_event_weight", "0", "got 0, expected a number above 0"),
    ("policy.loss.gamma", "1.01", "got 1.01, expected a number from 0 to 1"),
    ("policy.loss.lambda_", "-0.1", "got -0.1, expected a number from 0 to 1"),
    ("policy.loss.entropy_weight", ".nan", "got nan, expected a number of at least 0"),
    ("imagination.horizon", "1", "got 1, expected a whole number of at least 2"),
    ("imagination.burn_in", "-1", "got -1, expected a whole number of at least 0"),
    ("imagination.temperature", "-1", "got -1, expected a number of at least 0"),
    ("imagination.temperature", "hot", 'got "hot", expected a number'),
    ("collection.env_steps_per_epoch", "0", "got 0, expected a whole number of at least 1"),
    ("collection.num_envs", "0", "got 0, expected a whole number of at least 1"),
    ("collection.stop_after_epoch", "-1", "got -1, expected a whole number of at least 0"),
    ("collection.policy_temperature", ".inf", "got inf, expected a number of at least 0"),
    ("collection.epsilon", "1.1", "got 1.1, expected a number from 0 to 1"),
    ("collection.epsilon_before_policy", ".nan", "got nan, expected a number from 0 to 1"),
    ("collection.max_action_hold", "0", "got 0, expected a whole number of at least 1"),
    ("training.num_epochs", "0", "got 0, expected a whole number of at least 1"),
    ("training.num_epochs", "1e3", "got 1000.0, expected a whole number"),
    ("training.checkpoint_every_minutes", "0", "got 0, expected a number above 0"),
    ("training.checkpoint_every_epochs", "0", "got 0, expected a whole number of at least 1"),
    ("training.max_minutes", "-1", "got -1, expected a number of at least 0"),
    ("tokenizer.optimization.batch_size", "0", "got 0, expected a whole number of at least 1"),
    ("tokenizer.optimization.learning_rate", "0", "got 0, expected a number above 0"),
    ("world.optimization.learning_rate", ".nan", "got nan, expected a number above 0"),
    ("world.optimization.weight_decay", ".inf", "got inf, expected a number of at least 0"),
    ("policy.optimization.max_grad_norm", "-1", "got -1, expected a number above 0"),
    ("policy.optimization.start_after_epoch", "-1", "got -1, expected a whole number of at least 0"),
    ("policy.optimization.first_epoch_steps", "-1", "got -1, expected a whole number of at least 0"),
    ("evaluation.every_epochs", "-1", "got -1, expected a whole number of at least 0"),
    ("evaluation.num_episodes", "0", "got 0, expected a whole number of at least 1"),
    ("evaluation.policy_temperature", "-0.5", "got -0.5, expected a number of at least 0"),
    ("evaluation.max_steps", "0", "got 0, expected a whole number of at least 1"),
    ("trainer.devices", "0", "got 0, expected a whole number of at least 1"),
    ("trainer.num_threads", "-1", "got -1, expected a whole number of at least 0"),
    ("trainer.precision", "16", 'got 16, expected one of "32", "bf16"'),
    ("trainer.accelerator", "tpu", 'got "tpu", expected one of "auto", "cpu", "gpu"'),
]


def refused(*overrides: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        build_config(RunConfig, apply_overrides({}, overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("key", "value", "expected"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED]
)
def test_out_of_range(key, value, expected):
    message = refused(f"--{key}={value}")
    if expected is None:  # the complaint is about a neighbour in the same section
        assert message.startswith(key.rpartition(".")[0])
    else:
        assert message.startswith(f"{key}: {expected}"), message


def test_the_levels_of_a_quantizer_are_a_list():
    message = refused("tokenizer.quantizer=fsq", "tokenizer.quantizer.levels=8")
    assert message.startswith("tokenizer.quantizer.levels: got 8, expected a list")


def test_several_environments_need_a_multiple_of_steps():
    message = refused("collection.num_envs=3")
    assert message.startswith("collection.env_steps_per_epoch: got 200, expected a multiple of num_envs (3)")


@pytest.mark.parametrize(("prediction", "longest"), [("autoregressive", 18), ("parallel", 19)])
def test_a_context_from_the_burn_in_must_fit(prediction, longest):
    overrides = ["imagination.context=burn_in", f"world.prediction={prediction}"]
    message = refused(*overrides, f"imagination.burn_in={longest + 1}")
    assert message.startswith(f"imagination.burn_in: got {longest + 1}, expected at most {longest}")
    build_config(RunConfig, apply_overrides({}, [*overrides, f"imagination.burn_in={longest}"]))


def test_frames_of_a_policy_need_a_multiple_of_16():
    size = [
        "env.resolution=24",
        "tokenizer.autoencoder.resolution=24",
        "tokenizer.autoencoder.channel_multipliers=[1]",
    ]
    config = build_config(RunConfig, apply_overrides({}, size))
    with pytest.raises(ValueError, match=r"tokenizer: got a resolution of 24, expected a multiple of 16"):
        config.agent_config(ActionSpace.discrete(4))
    build_config(RunConfig, apply_overrides({}, [*size, "policy.inputs=tokens"])).agent_config(
        ActionSpace.discrete(4)
    )


def test_an_agent_needs_actions():
    for sizes in ((), (0,), (3, 0), (10**10,)):
        with pytest.raises(ValueError, match="action_sizes"):
            AgentConfig(sizes)
    with pytest.raises(ValueError, match="action_names: got 1, expected 2"):
        AgentConfig((2,), ("UP",))


@pytest.mark.parametrize("value", ["1e-4", "1E-4", "0.0001", "1.0e-4"])
def test_scientific_notation_is_a_number(value):
    config = build_config(RunConfig, apply_overrides({}, [f"tokenizer.optimization.learning_rate={value}"]))
    assert config.tokenizer.optimization.learning_rate == 0.0001


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("envv.id", 'unknown key "envv"; did you mean "env"?'),
        ("env.i", 'unknown key "env.i"'),
        ("env.ID", 'unknown key "env.ID"'),
        ("tokenizer.optimization.lr", 'unknown key "tokenizer.optimization.lr"'),
        ("world", 'world: got 1, expected a section of "key: value" lines'),
    ],
)
def test_unknown_keys(key, expected):
    assert refused(f"{key}=1").startswith(expected)
