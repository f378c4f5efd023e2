"""How good the dreams are: held-out real episodes, dreamed again under the same actions, compared step by step."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iris_wm.acting import play_episode
from iris_wm.agent import Agent
from iris_wm.data.episode import Episode
from iris_wm.data.segment import Segment
from iris_wm.dream.dream import Dream, dream_seed
from iris_wm.envs import EnvConfig, make_env
from iris_wm.evaluation.dream_metrics import (
    Curve,
    EventQuality,
    background_of,
    event_quality,
    find_objects,
    horizon_curve,
)
from iris_wm.evaluation.scores import resample_counts
from iris_wm.streams import row_seeds, stream_generator, stream_seed
from iris_wm.tokenizer.tokenizer import to_uint8
from iris_wm.world.token_world import SamplingConfig, TokenWorld

FORMAT_VERSION = 1
RANGES = ((1, 5), (6, 10), (11, 20), (21, 50))
EVENTS = ("reward +1", "reward -1", "termination")
_NUM_RESAMPLES = 1000
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class DreamQuality:
    """What evaluate_dream measured. Frames are compared as numbers in [0, 1].

    curves: by name, at horizons 1..H. token_accuracy, frame_l1, psnr (dB), ssim: the dream against the real
    frame. reconstruction_l1, reconstruction_psnr, reconstruction_ssim: the tokenizer's own error there, the best
    a dream can do. still_l1: the error of showing the start for ever. token_entropy: mean nats of a token.
    reward_brier, termination_brier: squared errors of the probabilities. objects, reconstruction_objects: share of
    the moving objects found at their place (see dream_metrics.Objects).
    events: event -> range of horizons ("1-5", ..., "all") -> quality, None where nothing was predicted.
    entropy_by_token: (H, K) mean nats. one_step_token_accuracy: share of tokens right when the world model sees the
    real tokens before; one_step_nats: their mean negative log-likelihood.
    """

    name: str
    game: str
    prediction: str
    horizon: int
    seed: int
    temperature: float
    num_episodes: int
    num_steps: int
    num_starts: int
    burn_in: int
    window: str
    codebook_size: int
    curves: dict[str, Curve]
    events: dict[str, dict[str, EventQuality | None]]
    entropy_by_token: list[list[float]]
    one_step_token_accuracy: float
    one_step_nats: float
    examples: list[dict[str, Tensor]] = field(default_factory=list, repr=False, compare=False)
    """Some dreams for pictures: real, reconstructed and dreamed frames (T, C, H, W) uint8. Not in the JSON."""

    def save(self, path: str | Path) -> Path:
        """Write all numbers as JSON."""
        mapping = asdict(self)
        del mapping["examples"]
        text = json.dumps(
            {"format": "iris_wm dream quality", "format_version": FORMAT_VERSION, **mapping}, indent=1
        )
        Path(path).write_text(text + "\n", encoding="utf-8")
        return Path(path)


def collect_held_out(
    agent: Agent, env_config: EnvConfig, *, num_episodes: int = 16, max_steps: int = 500, seed: int = 0
) -> list[Episode]:
    """Fresh real episodes, by the rules of training, played by the agent at temperature 1.

    The seeds are none that training uses. An episode is cut after max_steps.
    """
    if num_episodes < 1:
        raise ValueError(f"episodes: got {num_episodes}, expected a positive number")
    env = make_env(env_config)
    episodes = []
    try:
        for i in range(num_episodes):
            game_seed = stream_seed(seed, "held out", i) % 2**31
            episodes.append(play_episode(agent, env, num_steps=max_steps, seed=game_seed))
    finally:
        env.close()
    return episodes


class _Start(NamedTuple):
    """Step of an episode where a dream begins."""

    episode: int
    step: int


@torch.no_grad()
def evaluate_dream(
    agent: Agent,
    episodes: Sequence[Episode],
    *,
    horizon: int = 50,
    num_starts: int = 128,
    seed: int = 0,
    burn_in: int | None = None,
    sampling: SamplingConfig | None = None,
    name: str = "agent",
    game: str = "",
    on_progress: Callable[[int], None] = lambda finished: None,
) -> DreamQuality:
    """Dream from real steps of held-out episodes under the real actions and measure how the dream departs.

    Args:
        agent: in eval mode.
        episodes: real ones that training never saw, with the agent's frame size and actions.
        horizon: steps of every dream; later horizons are of fewer frames where episodes end before.
        num_starts: dreams, at most, from steps drawn without replacement from all episodes.
        seed: of the choice of starts, the dreams' draws and the intervals.
        burn_in: real steps the world sees before the start, fewer where the episode has not so many; None: half its
            context.
        sampling: temperature, top_k, top_p of the dream (default: temperature 1).
        name, game: for the report.
        on_progress: called with the number of dreams that are done.
    """
    if horizon < 1:
        raise ValueError(f"horizon: got {horizon}, expected a positive number of steps")
    if num_starts < 1:
        raise ValueError(f"starts: got {num_starts}, expected a positive number")
    episodes = [episode for episode in episodes if len(episode) > 1]
    if not episodes:
        raise ValueError("episodes: expected at least one real episode of two steps or more, got none")
    world = agent.new_world(sampling, should_measure=True)
    burn_in = world.max_past // 2 if burn_in is None else burn_in
    if not 0 <= burn_in <= world.max_past:
        raise ValueError(f"burn_in: got {burn_in}, expected 0 to {world.max_past}")
    tokens = [_encode(agent, episode.frames) for episode in episodes]
    starts = _choose_starts(episodes, num_starts, seed)
    seeds = row_seeds(dream_seed(seed), len(starts)).tolist()
    background = background_of(torch.cat([episode.frames for episode in episodes]))
    rows: dict[str, list[np.ndarray]] = {}
    examples: list[dict[str, Tensor]] = []
    for first in range(0, len(starts), _LARGEST_BATCH):
        chunk = slice(first, first + _LARGEST_BATCH)
        measured, pictures = _dream(
            world, episodes, tokens, starts[chunk], burn_in, horizon, background, seeds[chunk]
        )
        for key, value in measured.items():
            rows.setdefault(key, []).append(value)
        examples += pictures[: 3 - len(examples)]
        on_progress(min(first + _LARGEST_BATCH, len(starts)))
    values = {key: np.concatenate(parts) for key, parts in rows.items()}
    of_episode = np.array([start.episode for start in starts])
    generator = np.random.default_rng(stream_seed(seed, "dream intervals") % 2**32)
    weights = resample_counts(len(episodes), _NUM_RESAMPLES, generator)
    names = [key for key in values if key not in ("entropy", *_PREDICTED, *_HAPPENED)]
    entropy = values["entropy"]
    is_there = ~np.isnan(entropy[:, :, 0])
    by_token = (
        np.where(is_there[:, :, None], entropy, 0).sum(axis=0) / np.maximum(is_there.sum(axis=0), 1)[:, None]
    )
    accuracy, nats = _one_step(agent, episodes, tokens)
    return DreamQuality(
        name=name,
        game=game,
        prediction=agent.world.config.prediction.kind,
        horizon=horizon,
        seed=seed,
        temperature=world.sampling.temperature,
        num_episodes=len(episodes),
        num_steps=sum(len(episode) for episode in episodes),
        num_starts=len(starts),
        burn_in=burn_in,
        window=agent.world.config.window,
        codebook_size=agent.tokenizer.quantizer.codebook_size,
        curves={key: horizon_curve(values[key], of_episode, weights) for key in names},
        events=_events(values, of_episode, weights, horizon),
        entropy_by_token=by_token[is_there.any(axis=0)].tolist(),
        one_step_token_accuracy=accuracy,
        one_step_nats=nats,
        examples=examples,
    )


_PREDICTED = tuple(f"predicted {event}" for event in EVENTS)
_HAPPENED = tuple(f"happened {event}" for event in EVENTS)


def _encode(agent: Agent, frames: Tensor) -> Tensor:
    """(T, K) tokens, some frames at a time."""
    return torch.cat([agent.tokenizer.encode(part.to(agent.device)) for part in frames.split(256)])


def _choose_starts(episodes: Sequence[Episode], num: int, seed: int) -> list[_Start]:
    """Steps with at least one frame after, drawn without replacement, in order."""
    candidates = [_Start(i, step) for i, each in enumerate(episodes) for step in range(len(each) - 1)]
    order = torch.randperm(len(candidates), generator=stream_generator(seed, "dream quality starts"))
    return [candidates[i] for i in sorted(order[:num].tolist())]


def _dream(
    world: TokenWorld,
    episodes: Sequence[Episode],
    tokens: list[Tensor],
    starts: list[_Start],
    burn_in: int,
    horizon: int,
    background: Tensor,
    seeds: list[int],
) -> tuple[dict[str, np.ndarray], list[dict[str, Tensor]]]:
    """One batch of dreams: every number as (B, H), NaN beyond the real episode's end; and three dreams' frames."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    def cut(source: Callable[[int], Tensor], first: int, length: int) -> Tensor:
        """Rows of each start's episode from its step + first on, the outermost ones repeated beyond its ends."""
        parts = []
        for start in starts:
            column = source(start.episode)
            index = torch.arange(start.step + first, start.step + first + length).clamp(0, len(column) - 1)
            parts.append(column[index.to(column.device)])
        return torch.stack(parts)

    left = torch.tensor([len(episodes[start.episode]) - start.step for start in starts])
    real = cut(lambda e: episodes[e].frames, 0, horizon + 1)
    real_tokens = cut(lambda e: tokens[e], 0, horizon + 1)
    actions = cut(lambda e: episodes[e].actions, 0, horizon)
    signs = cut(lambda e: episodes[e].rewards.sign(), 0, horizon)
    ends = cut(lambda e: episodes[e].terminations, 0, horizon)
    past = Segment.seen(
        cut(lambda e: episodes[e].frames, -burn_in, burn_in + 1),
        cut(lambda e: episodes[e].actions, -burn_in, burn_in + 1),
        torch.stack([torch.arange(start.step - burn_in, start.step + 1) >= 0 for start in starts]),
    )
    past.obs_tokens = cut(lambda e: tokens[e], -burn_in, burn_in + 1)
    dream = Dream(world, past, seeds)
    columns: dict[str, list[np.ndarray]] = {}
    dreamed = [to_uint8(world.tokenizer.decode(real_tokens[:3, 0])).cpu()]
    reconstructed = [dreamed[0]]

    def note(name: str, values: Tensor | np.ndarray, is_there: Tensor) -> None:
        array = np.asarray(values, dtype=np.float64)
        mask = is_there.numpy().reshape(-1, *[1] * (array.ndim - 1))
        columns.setdefault(name, []).append(np.where(mask, array, np.nan))

    for h in range(1, horizon + 1):
        outcome = dream.step(actions[:, h - 1])
        told = {name: value.cpu() for name, value in outcome.measures.items()}
        shares = told["reward_probabilities"].numpy()
        ending = outcome.termination_probability.cpu().numpy()
        has_outcome, has_frame = left >= h, left > h
        shown = dream.frames
        recon = to_uint8(world.tokenizer.decode(real_tokens[:, h])).cpu()
        truth = real[:, h].float() / 255
        right = told["tokens"] == real_tokens[:, h].cpu()
        note("token_accuracy", right.float().mean(dim=1), has_frame)
        for prefix, frames in (("", shown), ("reconstruction_", recon)):
            error = frames.float() / 255 - truth
            note(f"{prefix}l1" if prefix else "frame_l1", error.abs().mean(dim=(1, 2, 3)), has_frame)
            note(f"{prefix}psnr", _psnr(error), has_frame)
            ssim = structural_similarity_index_measure(
                frames.float() / 255, truth, data_range=1.0, reduction="none"
            )
            note(f"{prefix}ssim", ssim if isinstance(ssim, Tensor) else ssim[0], has_frame)
        still = real[:, 0].float() / 255 - truth
        note("still_l1", still.abs().mean(dim=(1, 2, 3)), has_frame)
        note("token_entropy", told["token_entropy"].mean(dim=1), has_outcome)
        note("entropy", told["token_entropy"], has_outcome)
        found = find_objects(real[:, h], real[:, h - 1], background, [shown, recon])
        for key, objects in zip(("objects", "reconstruction_objects"), found, strict=True):
            share = objects.num_found / objects.num_objects.clamp(min=1)
            note(key, share, has_frame & (objects.num_objects > 0))
        happened = (signs[:, h - 1] > 0, signs[:, h - 1] < 0, ends[:, h - 1])
        predicted = (shares[:, 2], shares[:, 0], ending)
        for event, probability, came in zip(EVENTS, predicted, happened, strict=True):
            note(f"predicted {event}", probability, has_outcome)
            note(f"happened {event}", came.float(), has_outcome)
        one_hot = torch.nn.functional.one_hot(signs[:, h - 1].long() + 1, 3).numpy()
        note("reward_brier", ((shares - one_hot) ** 2).sum(axis=1), has_outcome)
        note("termination_brier", (ending - ends[:, h - 1].numpy()) ** 2, has_outcome)
        dreamed.append(shown[:3])
        reconstructed.append(recon[:3])
    strips = {
        "real": real[:3],
        "reconstructed": torch.stack(reconstructed, dim=1),
        "dreamed": torch.stack(dreamed, dim=1),
    }
    lengths = left[:3].clamp(max=horizon + 1).tolist()
    pictures = [
        {key: frames[i, :length] for key, frames in strips.items()} for i, length in enumerate(lengths)
    ]
    return {name: np.stack(values, axis=1) for name, values in columns.items()}, pictures


def _psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of (B, C, H, W) errors in [0, 1]; 100 where there is none."""
    return -10 * error.square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10()


def _events(
    values: dict[str, np.ndarray], of_episode: np.ndarray, weights: np.ndarray, horizon: int
) -> dict[str, dict[str, EventQuality | None]]:
    """The quality of each event's probabilities, by ranges of horizons and over all."""
    ranges = {
        f"{low}-{min(high, horizon)}": (low, min(high, horizon)) for low, high in RANGES if low <= horizon
    }
    ranges["all"] = (1, horizon)
    result: dict[str, dict[str, EventQuality | None]] = {}
    for event in EVENTS:
        result[event] = {}
        for key, (low, high) in ranges.items():
            predicted = values[f"predicted {event}"][:, low - 1 : high]
            happened = values[f"happened {event}"][:, low - 1 : high]
            is_there = ~np.isnan(predicted)
            episodes = np.broadcast_to(of_episode[:, None], predicted.shape)[is_there]
            result[event][key] = event_quality(
                predicted[is_there], happened[is_there] > 0.5, episodes, weights
            )
    return result


def _one_step(agent: Agent, episodes: Sequence[Episode], tokens: list[Tensor]) -> tuple[float, float]:
    """Share of next-frame tokens whose likeliest code is right, and their nats, given the real tokens before."""
    layout = agent.world.layout
    right = total = 0
    nats = 0.0
    for episode, codes in zip(episodes, tokens, strict=True):
        windows = [
            (codes[i : i + layout.context_steps], episode.actions[i : i + layout.context_steps])
            for i in range(0, len(codes) - 1, layout.context_steps - 1)
        ]
        for obs_tokens, actions in windows:
            if len(obs_tokens) < 2:
                continue
            output = agent.world(obs_tokens[None], actions[None].to(obs_tokens.device))
            kept, labels = agent.world.observation_targets(obs_tokens[None])
            logits = output.observation_logits[:, kept]
            # The first frame's tokens are not foretold: nothing came before.
            own = labels.shape[1] - (len(obs_tokens) - 1) * layout.tokens_per_frame
            logits, labels = logits[:, own:].flatten(0, 1).float(), labels[:, own:].flatten()
            right += int((logits.argmax(-1) == labels).sum())
            nats += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            total += len(labels)
    return (right / total, nats / total) if total else (math.nan, math.nan)
