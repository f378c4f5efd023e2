"""The published IRIS checkpoint format (eloialonso/iris): its state dict, in and out.

One table maps our names to the published ones; reading and writing both follow it. Shapes are inferred from the
tensors, so the paper's checkpoints load and any other size does.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from iris_wm.agent import Agent, AgentConfig
from iris_wm.policy.actor_critic import PolicyConfig
from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig, VectorQuantizerConfig
from iris_wm.world.network import WorldConfig
from iris_wm.world.token_layout import LearnedPositions

# Our key -> the published one, applied in this order; what no pattern matches keeps its name.
_RENAMES = [
    (r"^tokenizer\.quantizer\.library\._codebook\.embed$", "tokenizer.embedding.weight"),
    (r"^tokenizer\.to_codes\.", "tokenizer.pre_quant_conv."),
    (r"^tokenizer\.from_codes\.", "tokenizer.post_quant_conv."),
    (r"^(tokenizer\..*\.)(query|key|value)\.", lambda match: f"{match[1]}{match[2][0]}."),
    (r"^(tokenizer\..*)\.out\.", r"\1.proj_out."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.(norm|conv)_([12])\.", r".\1\2."),
    (r"\.bottleneck\.0\.", ".mid.block_1."),
    (r"\.bottleneck\.1\.", ".mid.attn_1."),
    (r"\.bottleneck\.2\.", ".mid.block_2."),
    (r"\.encoder\.stages\.(\d+)\.resample\.", r".encoder.down.\1.downsample."),
    (r"\.decoder\.stages\.(\d+)\.resample\.", r".decoder.stages.\1.upsample."),
    (r"\.stages\.(\d+)\.blocks\.", r".stages.\1.block."),
    (r"\.stages\.(\d+)\.attentions\.", r".stages.\1.attn."),
    (r"\.encoder\.stages\.", ".encoder.down."),
    (r"\.(blocks\.\d+)\.ln_([12])\.", r".\1.ln\2."),
    (r"\.(blocks\.\d+)\.out\.", r".\1.attn.proj."),
    (r"\.(blocks\.\d+)\.fc_1\.", r".\1.mlp.0."),
    (r"\.(blocks\.\d+)\.fc_2\.", r".\1.mlp.2."),
    (r"\.ln_out\.", ".ln_f."),
    (r"\.position_embedding\.", ".pos_emb."),
    (r"\.action_embedding\.", ".embedder.embedding_tables.0."),
    (r"\.token_embedding\.", ".embedder.embedding_tables.1."),
    (r"\.observation_head\.", ".head_observations.head_module."),
    (r"\.reward_head\.", ".head_rewards.head_module."),
    (r"\.termination_head\.", ".head_ends.head_module."),
    (r"^policy\.features\.convs\.(\d)\.", lambda match: f"policy.conv{int(match[1]) + 1}."),
    (r"^policy\.(critic|actor)\.", r"policy.\1_linear."),
    (r"^policy\.", "actor_critic."),
    (r"^world\.", "world_model."),
]
_CODEBOOK = "_codebook.embed"
# Rebuilt from the config, or (the perceptual network) no part of the agent.
_NOT_WEIGHTS = re.compile(r"\.attn\.mask$|^world_model\..*\.indices$|^tokenizer\.lpips\.")


def load_published(path: str | Path, *, num_heads: int = 4) -> Agent:
    """Read a published checkpoint file, weights only: no code in it is run.

    Raises:
        ValueError: where the file is missing or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f'"{path}": no such file; expected a published IRIS checkpoint (.pt)') from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f'"{path}": not a published IRIS checkpoint: {reason[:120]}') from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'"{path}": not a published IRIS checkpoint: expected a state dict of tensors')
    return agent_from_published(state, num_heads=num_heads)


def agent_from_published(state: dict[str, Tensor], *, num_heads: int = 4) -> Agent:
    """An agent of the checkpoint's shape with its weights.

    Args:
        state: the published state dict: tokenizer.*, world_model.*, actor_critic.*.
        num_heads: attention heads of the transformer, which no tensor shows; 4 in the paper.

    Raises:
        ValueError: naming missing, unknown or misshapen tensors.
    """
    weights = {key: value for key, value in state.items() if not _NOT_WEIGHTS.search(key)}
    agent = Agent(config_from_published(weights, num_heads=num_heads))
    assert isinstance(agent.config.tokenizer, TokenizerConfig)
    num_stages = len(agent.config.tokenizer.autoencoder.channel_multipliers)
    ours, used = {}, set()
    for key in agent.weights():
        names = published_keys(key, num_stages)
        missing = [name for name in names if name not in weights]
        if missing:
            raise ValueError(f"published checkpoint: tensor {missing[0]} is missing")
        used.update(names)
        joined = torch.cat([weights[name] for name in names])
        ours[key] = joined[None] if key.endswith(_CODEBOOK) else joined
    if unknown := sorted(weights.keys() - used):
        raise ValueError(f"published checkpoint: {len(unknown)} unknown tensors, first {unknown[0]}")
    agent.load_weights(ours)
    return agent


def published_state(agent: Agent) -> dict[str, Tensor]:
    """The agent's weights under the published keys, masks and index tables included: published IRIS loads it.

    Raises:
        ValueError: for an agent that published IRIS cannot express.
    """
    config = agent.config
    world = config.world
    if world.is_parallel or world.positions != LearnedPositions() or not config.policy.sees_frames:
        raise ValueError(
            "export: published IRIS predicts autoregressively from learned positions and acts on frames; "
            "this agent does not"
        )
    if len(config.action_sizes) > 1:
        raise ValueError("export: published IRIS has one axis of actions; this agent has more")
    tokenizer = config.tokenizer
    if (
        not isinstance(tokenizer, TokenizerConfig)
        or not isinstance(tokenizer.quantizer, VectorQuantizerConfig)
        or tokenizer.autoencoder.patch_size != 1
    ):
        raise ValueError("export: published IRIS has a vq codebook and no patches; this agent is different")
    num_stages = len(tokenizer.autoencoder.channel_multipliers)
    state: dict[str, Tensor] = {}
    for key, value in agent.weights().items():
        names = published_keys(key, num_stages)
        value = value[0] if key.endswith(_CODEBOOK) else value
        state.update(zip(names, (part.clone() for part in value.chunk(len(names))), strict=True))
    layout = agent.world.layout
    positions = torch.arange(layout.max_tokens)
    within = positions % layout.tokens_per_step
    mask = torch.tril(torch.ones(layout.max_tokens, layout.max_tokens))
    for i in range(config.world.num_layers):
        state[f"world_model.transformer.blocks.{i}.attn.mask"] = mask.clone()
    is_action = within == layout.tokens_per_frame
    state["world_model.head_observations.indices"] = positions[within != layout.tokens_per_frame - 1]
    state["world_model.head_rewards.indices"] = positions[is_action]
    state["world_model.head_ends.indices"] = positions[is_action]
    return state


def published_keys(key: str, num_stages: int) -> list[str]:
    """The published names of one of our tensors: one, or three where ours joins query, key and value."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)  # type: ignore[call-overload]
    # The published decoder counts its stages from the largest resolution, ours in the order they run.
    key = re.sub(
        r"\.decoder\.stages\.(\d+)\.", lambda match: f".decoder.up.{num_stages - 1 - int(match[1])}.", key
    )
    if ".qkv." in key:
        return [key.replace(".qkv.", f".attn.{part}.") for part in ("query", "key", "value")]
    return [key]


def config_from_published(state: dict[str, Tensor], *, num_heads: int = 4) -> AgentConfig:
    """Every size, read off the tensors' shapes."""

    def shape(key: str) -> torch.Size:
        if key not in state:
            raise ValueError(f"published checkpoint: tensor {key} is missing")
        return state[key].shape

    num_stages = _count(state, r"^tokenizer\.encoder\.down\.(\d+)\.")
    channels = shape("tokenizer.encoder.conv_in.weight")[0]
    widths = [shape(f"tokenizer.encoder.down.{i}.block.0.conv1.weight")[0] for i in range(num_stages)]
    hidden_size = shape("actor_critic.actor_linear.weight")[1]
    # Four halvings lie between the frame and the 64 maps of the policy's last convolution.
    policy_side = round((shape("actor_critic.lstm.weight_ih")[1] / 64) ** 0.5)
    resolution = 16 * policy_side
    autoencoder = AutoencoderConfig(
        resolution=resolution,
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_residual_blocks=_count(state, r"^tokenizer\.encoder\.down\.0\.block\.(\d+)\."),
        attention_resolutions=tuple(
            resolution // 2**i
            for i in reversed(range(num_stages))
            if f"tokenizer.encoder.down.{i}.attn.0.q.weight" in state
        ),
        latent_dim=shape("tokenizer.encoder.conv_out.weight")[0],
    )
    codebook_size, embedding_dim = shape("tokenizer.embedding.weight")
    tokenizer = TokenizerConfig(autoencoder, VectorQuantizerConfig(codebook_size, embedding_dim))
    max_tokens, embed_dim = shape("world_model.pos_emb.weight")
    world = WorldConfig(
        num_layers=_count(state, r"^world_model\.transformer\.blocks\.(\d+)\."),
        num_heads=num_heads,
        embed_dim=embed_dim,
        context_steps=max_tokens // (tokenizer.tokens_per_frame + 1),
    )
    return AgentConfig(
        action_sizes=(shape("actor_critic.actor_linear.weight")[0],),
        tokenizer=tokenizer,
        world=world,
        policy=PolicyConfig(hidden_size=hidden_size),
    )


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number that the pattern captures in the keys."""
    numbers = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    if not numbers:
        raise ValueError(
            f"published checkpoint: no tensor matches {pattern}; expected the published IRIS names"
        )
    return max(numbers) + 1
