"""The agent: tokenizer, world model and actor-critic together. It acts, dreams, saves and loads."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from iris_wm.checkpoint.agent_files import AGENT_CONFIG_FILE, load_agent, save_agent
from iris_wm.checkpoint.folder import load_newest
from iris_wm.checkpoint.hub import ModelCard, download, is_repo_id, upload
from iris_wm.config import build_config, to_mapping
from iris_wm.data.episode import Episode
from iris_wm.dream.rollout import policy_inputs
from iris_wm.dream.token_env import SamplingConfig, TokenEnv
from iris_wm.policy.actor_critic import ActorCritic, PolicyConfig, PolicyState
from iris_wm.spaces import ActionDistribution, ActionSpace
from iris_wm.streams import stream_generator, stream_seed
from iris_wm.tokenizer.tokenizer import Tokenizer, TokenizerConfig, to_uint8
from iris_wm.world.network import WorldConfig, WorldNetwork

MAX_PARAMETERS = 2_000_000_000
MAX_LAYERS = 1000
MAX_ACTIONS = 65_536


@dataclass(frozen=True)
class AgentConfig:
    """The shape of all three networks."""

    action_sizes: tuple[int, ...]
    """Choices of each axis of an action; one axis where actions are simply numbered."""
    action_names: tuple[str, ...] = ()
    """Of the choices where there is one axis, else of the axes; none: numbers."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)

    def __post_init__(self) -> None:
        sizes = self.action_sizes
        if not sizes or min(sizes) < 1 or sum(sizes) > MAX_ACTIONS:
            raise ValueError(
                f"action_sizes: got {sizes}, expected a positive integer for each axis, {MAX_ACTIONS} together at most"
            )
        expected = sizes[0] if len(sizes) == 1 else len(sizes)
        if self.action_names and len(self.action_names) != expected:
            raise ValueError(f"action_names: got {len(self.action_names)}, expected {expected}")
        if self.policy.sees_frames and self.tokenizer.autoencoder.resolution % 16:
            raise ValueError(
                f"tokenizer.autoencoder.resolution: got {self.tokenizer.autoencoder.resolution}, "
                "expected a multiple of 16 where the policy sees frames"
            )


class Agent(nn.Module):
    """The three networks. Random weights until trained or loaded."""

    def __init__(self, config: AgentConfig) -> None:
        super().__init__()
        self.config = config
        self.actions = ActionSpace.discrete(*config.action_sizes, names=config.action_names)
        self.tokenizer = Tokenizer(config.tokenizer)
        tokens_per_frame = self.tokenizer.tokens_per_frame
        quantizer = self.tokenizer.quantizer
        self.world = WorldNetwork(config.world, quantizer.codebook_size, tokens_per_frame, self.actions)
        self.policy = ActorCritic(
            config.policy,
            self.actions,
            resolution=config.tokenizer.autoencoder.resolution,
            tokens_per_frame=tokens_per_frame,
            embedding_dim=quantizer.embedding_dim,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.actor.weight.device

    def initial_state(self, batch_size: int = 1) -> PolicyState:
        """The policy's memory at the start of an episode."""
        return self.policy.initial_state(batch_size)

    @torch.no_grad()
    def act(
        self,
        frames: Tensor,
        state: PolicyState,
        *,
        generator: torch.Generator,
        temperature: float = 1.0,
    ) -> tuple[Tensor, PolicyState]:
        """Choose actions for real frames, seen through the tokenizer.

        Args:
            frames: (B, C, H, W) uint8.
            state: of initial_state, or what the last call returned.
            generator: on the CPU, source of all draws.
            temperature: of the policy; 0 takes the most likely action.

        Returns:
            actions (B, n) int64 on the CPU, and the memory for the next call.

        Raises:
            FloatingPointError: the policy's logits are not finite.
        """
        obs_tokens = self.tokenizer.encode(frames.to(self.device))
        output, state = self.policy(policy_inputs(self.tokenizer, self.policy, obs_tokens), state)
        logits = output.actions.logits.float().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise FloatingPointError("action_logits of the policy are not finite")
        actions = choose(output.actions, generator, temperature)
        return actions, state

    @torch.no_grad()
    def dream(
        self,
        first_frame: Tensor,
        horizon: int,
        seed: int = 0,
        *,
        context: Episode | None = None,
        actions: Tensor | None = None,
        sampling: SamplingConfig | None = None,
        temperature: float = 1.0,
    ) -> Episode:
        """Dream an episode from a real frame.

        Args:
            first_frame: (C, H, W) uint8.
            horizon: steps at most; the dream ends earlier where the world model terminates it.
            seed: same seed, same dream.
            context: real steps before first_frame, for the world model and the policy's memory.
            actions: (horizon, n) int64 to play instead of the policy's; the dream then goes on through terminations.
            sampling: of the world model; by default the context slides when it is full.
            temperature: of the policy.

        Returns:
            An Episode like a real one; its first frame is the reconstruction of first_frame.
        """
        size = self.config.tokenizer.autoencoder.resolution
        if first_frame.shape != (3, size, size) or first_frame.dtype != torch.uint8:
            raise ValueError(
                f"first_frame: expected uint8 (3, {size}, {size}), got "
                f"{str(first_frame.dtype).removeprefix('torch.')} {tuple(first_frame.shape)}"
            )
        if horizon < 1:
            raise ValueError(f"horizon: got {horizon}, expected a positive number of steps")
        env = TokenEnv(self.world, 1, sampling or SamplingConfig(context_overflow="slide"))
        state = self.initial_state()
        past: list[tuple[Tensor, Tensor]] = []
        if context is not None and len(context):
            context_tokens = self.tokenizer.encode(context.frames.to(self.device))
            inputs = policy_inputs(self.tokenizer, self.policy, context_tokens)
            _, state = self.policy.sequence(inputs[None], state)
            taken = context.actions.to(self.device)
            past = [
                (tokens[None], action[None]) for tokens, action in zip(context_tokens, taken, strict=True)
            ]
        obs_tokens = self.tokenizer.encode(first_frame[None].to(self.device))
        env.reset(obs_tokens, stream_seed(seed, "dream"), past)
        generator = stream_generator(seed, "dream policy")
        columns: dict[str, list[Tensor]] = {
            name: [] for name in ("frames", "actions", "rewards", "terminations", "truncations")
        }
        for t in range(horizon):
            output, state = self.policy(policy_inputs(self.tokenizer, self.policy, obs_tokens), state)
            if actions is not None:
                action = actions[t : t + 1].cpu()
            else:
                action = choose(output.actions, generator, temperature)
            step = env.step(action.to(self.device))
            is_over = bool(step.terminations) and actions is None
            frame = to_uint8(self.tokenizer.decode(obs_tokens)).cpu()
            is_last = torch.tensor([t + 1 == horizon and not is_over])
            row = (frame, action, step.rewards.cpu(), step.terminations.cpu() & (actions is None), is_last)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            obs_tokens = step.obs_tokens
            if is_over:
                break
        return Episode(**{name: torch.cat(values) for name, values in columns.items()})

    def weights(self) -> dict[str, Tensor]:
        """Every tensor that defines the agent; the quantizer library's unused statistics are left out."""
        return {key: value for key, value in self.state_dict().items() if not key.endswith(_UNUSED)}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take these weights.

        Raises:
            ValueError: naming what is missing, unknown or of another shape.
        """
        own = self.weights()
        problems = [f"{key} is missing" for key in own if key not in weights]
        problems += [f"{key} is unknown" for key in weights if key not in own]
        problems += [
            f"{key} has shape {tuple(weights[key].shape)}, expected {tuple(value.shape)}"
            for key, value in own.items()
            if key in weights and weights[key].shape != value.shape
        ]
        if problems:
            raise ValueError(
                f"weights do not fit the agent ({len(problems)} tensors): " + "; ".join(problems[:5])
            )
        for key, value in own.items():
            value.copy_(weights[key])

    def save(self, folder: str | Path) -> Path:
        """Write agent.safetensors and agent.json, with checksums, to a folder; return it."""
        save_agent(folder, self.weights(), to_mapping(self.config))
        return Path(folder)

    def push_to_hub(self, repo_id: str, card: ModelCard, *, private: bool = False) -> str:
        """Publish on the hub as "owner/name": the files of save and a card (game, steps, score, commit)."""
        return upload(repo_id, self.weights(), to_mapping(self.config), card, private)

    @staticmethod
    def from_pretrained(repo_id: str, revision: str | None = None) -> "Agent":
        """An agent from the hub; nothing but its two verified files is read, no code is run."""
        weights, config = download(repo_id, revision)
        return Agent.from_weights(build_config(AgentConfig, config), weights)

    @staticmethod
    def load(path: str | Path) -> "Agent":
        """An agent from a run folder (its newest checkpoint that verifies), a folder that save wrote, or the hub.

        path: "owner/name" is looked for on the hub where no such folder exists.

        Raises:
            ValueError: the path is neither.
            DamagedState: a file differs from its checksum, or no checkpoint of the run can be used.
        """
        folder = Path(path)
        if isinstance(path, str) and not folder.exists() and is_repo_id(path):
            return Agent.from_pretrained(path)
        if not folder.is_dir():
            raise ValueError(f'"{path}": no such folder; expected a run folder or an exported agent')
        if (folder / AGENT_CONFIG_FILE).is_file():
            weights, config = load_agent(folder)
        elif checkpoint := load_newest(folder):
            weights, config = checkpoint.agent, checkpoint.agent_config
        else:
            raise ValueError(f'"{path}": neither a run folder with a checkpoint nor an exported agent')
        return Agent.from_weights(build_config(AgentConfig, config), weights)

    @staticmethod
    def from_weights(config: AgentConfig, weights: dict[str, Tensor]) -> "Agent":
        """An agent in eval mode with these weights; a config far beyond any real one is refused unallocated."""
        check_size(config)
        agent = Agent(config)
        agent.load_weights(weights)
        return agent.eval()


def choose(distribution: ActionDistribution, generator: torch.Generator, temperature: float) -> Tensor:
    """Actions (B, n) int64, drawn on the CPU; temperature 0 takes the likeliest."""
    if temperature == 0:
        return distribution.mode().cpu()
    shares = [(logits.cpu() / temperature).softmax(-1) for logits in distribution.axes]
    return torch.cat([torch.multinomial(share, 1, generator=generator) for share in shares], dim=1)


def check_size(config: AgentConfig) -> None:
    """ValueError for an agent far beyond any real one, before anything is allocated."""
    layers = config.world.num_layers, config.tokenizer.autoencoder.num_residual_blocks
    if max(layers) > MAX_LAYERS:
        raise ValueError(f"agent config: {max(layers)} layers, expected at most {MAX_LAYERS}")
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in Agent(config).parameters())
    except RuntimeError:
        raise ValueError(
            f"agent config: a size overflows; expected at most {MAX_PARAMETERS} parameters"
        ) from None
    if count > MAX_PARAMETERS:
        raise ValueError(f"agent config: {count} parameters, expected at most {MAX_PARAMETERS}")


_UNUSED = ("_codebook.initted", "_codebook.cluster_size", "_codebook.embed_avg")
