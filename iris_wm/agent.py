"""The agent: tokenizer, world model and actor-critic together. It acts, dreams, saves and loads."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from iris_wm.checkpoint.agent_files import (
    AGENT_CONFIG_FILE,
    ModelCard,
    download,
    is_repo_id,
    load_agent,
    save_agent,
    upload,
)
from iris_wm.checkpoint.folder import load_newest
from iris_wm.config import Config, PositiveInt, build_config, to_mapping
from iris_wm.data.episode import Episode
from iris_wm.dream.dream import dream_seed
from iris_wm.dream.rollout import Choice, Choose, roll_out
from iris_wm.policy.actor_critic import ActorCritic, PolicyConfig, PolicyState, policy_inputs
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw
from iris_wm.tokenizer.patches import AnyTokenizer, PatchesConfig, new_tokenizer
from iris_wm.tokenizer.tokenizer import TokenizerConfig, to_uint8
from iris_wm.world.network import WorldConfig, WorldNetwork
from iris_wm.world.token_world import SamplingConfig, TokenState, TokenWorld

MAX_PARAMETERS = 2_000_000_000
MAX_LAYERS = 1000
MAX_ACTIONS = 65_536


@dataclass(frozen=True)
class AgentConfig(Config):
    """The shape of all three networks."""

    action_sizes: tuple[PositiveInt, ...]
    """Choices of each axis of an action; one axis where actions are simply numbered."""
    action_names: tuple[str, ...] = ()
    """Of the choices where there is one axis, else of the axes; none: numbers."""
    tokenizer: TokenizerConfig | PatchesConfig = field(default_factory=TokenizerConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.action_sizes
        if not sizes or sum(sizes) > MAX_ACTIONS:
            raise ValueError(
                f"action_sizes: got {sizes}, expected a positive integer for each axis, {MAX_ACTIONS} together at most"
            )
        expected = sizes[0] if len(sizes) == 1 else len(sizes)
        if self.action_names and len(self.action_names) != expected:
            raise ValueError(f"action_names: got {len(self.action_names)}, expected {expected}")
        if self.policy.sees_frames and self.tokenizer.resolution % 16:
            raise ValueError(
                f"tokenizer: got a resolution of {self.tokenizer.resolution}, "
                "expected a multiple of 16 where the policy sees frames"
            )


class Agent(nn.Module):
    """The three networks. Random weights until trained or loaded.

    tokenizer: one of your own in place of the config's (see `docs/add_your_own.md` for what it must offer).
    """

    def __init__(self, config: AgentConfig, tokenizer: AnyTokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.actions = ActionSpace.discrete(*config.action_sizes, names=config.action_names)
        self.tokenizer = tokenizer or new_tokenizer(config.tokenizer)
        tokens_per_frame = self.tokenizer.tokens_per_frame
        quantizer = self.tokenizer.quantizer
        self.world = WorldNetwork(config.world, quantizer.codebook_size, tokens_per_frame, self.actions)
        self.policy = ActorCritic(
            config.policy,
            self.actions,
            resolution=config.tokenizer.resolution,
            tokens_per_frame=tokens_per_frame,
            embedding_dim=quantizer.embedding_dim,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.actor.weight.device

    def start(self, batch_size: int = 1) -> PolicyState:
        """The policy's memory at the start of an episode."""
        return self.policy.initial_state(batch_size)

    @torch.no_grad()
    def act(
        self, frames: Tensor, memory: PolicyState, draw: Draw, policy_temperature: float = 1.0
    ) -> tuple[Tensor, PolicyState]:
        """Choose actions for real frames, seen through the tokenizer.

        Args:
            frames: (B, C, H, W) uint8.
            memory: of start, or what the last call returned.
            draw: of this step, for B rows.
            policy_temperature: of the draws of actions; 0 takes the most likely action.

        Returns:
            actions (B, n) int64 on the CPU, and the memory for the next call.

        Raises:
            FloatingPointError: the policy's logits are not finite.
        """
        obs_tokens = self.tokenizer.encode(frames.to(self.device))
        inputs = policy_inputs(self.tokenizer, self.policy, obs_tokens)
        draw = draw.to(self.device).of("action")
        choice, memory = self.policy.choose(inputs, memory, draw, policy_temperature)
        if not bool(choice.is_finite.all()):
            raise FloatingPointError("action_logits of the policy are not finite")
        return choice.actions.cpu(), memory

    def keep(self, memory: PolicyState, rows: Tensor, is_new: Tensor) -> PolicyState:
        """The memory of the rows (M,) int64, begun anew where is_new (M,) bool."""
        rows, is_new = rows.to(self.device), is_new.to(self.device)
        hidden, cell = (part[rows].masked_fill(is_new[:, None], 0) for part in memory)
        return PolicyState(hidden, cell)

    def new_world(
        self,
        sampling: SamplingConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        should_measure: bool = False,
    ) -> TokenWorld:
        """The games that the agent imagines, in its weights as they are now: see `TokenWorld`."""
        return TokenWorld(
            self.world, self.tokenizer, self.actions, sampling, dtype=dtype, should_measure=should_measure
        )

    def look(self, state: TokenState) -> Tensor:
        """What the policy sees of imagined games."""
        return policy_inputs(self.tokenizer, self.policy, state.obs_tokens)

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
        policy_temperature: float = 1.0,
    ) -> Episode:
        """Dream an episode from a real frame.

        Args:
            first_frame: (C, H, W) uint8.
            horizon: steps at most; the dream ends earlier where the world terminates it.
            seed: same seed, same dream, as through every other door (see `dream_seed`).
            context: real steps before first_frame, for the world and the policy's memory.
            actions: (horizon, n) int64 to play instead of the policy's; the dream then goes on through terminations.
            sampling: of the world; by default temperature 1.
            policy_temperature: of the policy; 0 takes the most likely action.

        Returns:
            An Episode like a real one; its first frame is the reconstruction of first_frame.
        """
        size = self.config.tokenizer.resolution
        if first_frame.shape != (3, size, size) or first_frame.dtype != torch.uint8:
            raise ValueError(
                f"first_frame: expected uint8 (3, {size}, {size}), got "
                f"{str(first_frame.dtype).removeprefix('torch.')} {tuple(first_frame.shape)}"
            )
        if horizon < 1:
            raise ValueError(f"horizon: got {horizon}, expected a positive number of steps")
        frames, taken = first_frame[None], torch.zeros(0, self.actions.num_axes, dtype=torch.int64)
        if context is not None:
            frames, taken = torch.cat([context.frames, frames]), context.actions
        obs_tokens = self.tokenizer.encode(frames.to(self.device))
        world = self.new_world(sampling)
        state = world.observe_tokens(obs_tokens[None], taken[None].to(self.device))
        memory = self.start()
        if len(taken):
            inputs = policy_inputs(self.tokenizer, self.policy, obs_tokens[:-1])
            _, memory = self.policy.sequence(inputs[None], memory)
        rollout = roll_out(
            world,
            state,
            self.look,
            partial(self.policy.choose, temperature=policy_temperature)
            if actions is None
            else _script(actions),
            memory,
            horizon,
            Draw.start([dream_seed(seed)], self.device),
            should_stop=lambda terminations: actions is None and bool(terminations),
        )
        tokens = torch.cat([obs_tokens[None, -1:], rollout.measures["tokens"][:, :-1]], dim=1)[0]
        terminations = rollout.terminations[0].cpu() & (actions is None)
        is_last = torch.arange(len(terminations)) + 1 == horizon
        return Episode(
            frames=to_uint8(self.tokenizer.decode(tokens)).cpu(),
            actions=rollout.actions[0].cpu(),
            rewards=rollout.rewards[0].cpu(),
            terminations=terminations,
            truncations=is_last & ~terminations,
        )

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
    def load(path: str | Path, tokenizer: AnyTokenizer | None = None) -> "Agent":
        """An agent from a run folder (its newest checkpoint that verifies), a folder that save wrote, or the hub.

        path: "owner/name" is looked for on the hub where no such folder exists.
        tokenizer: for an agent that was made with one of your own; its weights are overwritten.

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
        return Agent.from_weights(build_config(AgentConfig, config), weights, tokenizer)

    @staticmethod
    def from_weights(
        config: AgentConfig, weights: dict[str, Tensor], tokenizer: AnyTokenizer | None = None
    ) -> "Agent":
        """An agent in eval mode with these weights; a config far beyond any real one is refused unallocated."""
        check_size(config)
        agent = Agent(config, tokenizer)
        agent.load_weights(weights)
        return agent.eval()


def check_size(config: AgentConfig) -> None:
    """ValueError for an agent far beyond any real one, before anything is allocated."""
    layers = [config.world.num_layers]
    if isinstance(config.tokenizer, TokenizerConfig):
        layers.append(config.tokenizer.autoencoder.num_residual_blocks)
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


def _script(actions: Tensor) -> "Choose[PolicyState]":
    """A policy that plays actions (T, n) int64, whatever it sees."""
    steps = iter(actions)

    def choose(inputs: Tensor, memory: PolicyState, draw: Draw) -> tuple[Choice, PolicyState]:
        taken = next(steps).to(inputs.device).expand(len(inputs), -1)
        return Choice(taken, torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)), memory

    return choose


_UNUSED = ("_codebook.initted", "_codebook.cluster_size", "_codebook.embed_avg")
