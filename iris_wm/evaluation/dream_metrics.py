"""What a dream is measured by: intervals over episodes, calibration and AUC of events, objects that move."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_BINS = 10
_MOVED = 24
"""Levels of 255 by which a pixel of an object differs from the background, and a moved one from before."""
_LEAST_PIXELS = 4
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Curve:
    """A number at each horizon 1..H: mean and 95% interval over resampled episodes, and how many frames it is of.

    mean, low, high: H floats, None where no frame is left. count: H ints.
    """

    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]
    count: list[int]


@dataclass(frozen=True)
class EventQuality:
    """How well a probability foretells an event.

    count, num_events: predictions, and how many came true. auc: probability that an event got a higher prediction
    than a non-event; None where there is only one kind. auc_low, auc_high: 95% over resampled episodes.
    brier: mean squared error. ece: mean distance of predicted and observed share over the bins, weighted by count.
    bins: predicted mean, observed share and count of each of 10 equal bins of the predicted probability that is
    not empty.
    """

    count: int
    num_events: int
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    brier: float
    ece: float
    bins: list[tuple[float, float, int]]


def horizon_curve(
    values: NDArray[np.float64], episodes: NDArray[np.int64], weights: NDArray[np.float64]
) -> Curve:
    """Mean over starts at each horizon, with a percentile interval from resampling whole episodes.

    values: (num_starts, H), NaN where there is none. episodes: (num_starts,) which episode a start is of.
    weights: of scores.resample_counts. Starts of one episode resemble each other, so episodes are the units.
    """
    is_there = ~np.isnan(values)
    sums = np.zeros((weights.shape[1], values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, episodes, np.where(is_there, values, 0))
    np.add.at(counts, episodes, is_there)
    count = is_there.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(axis=0) / count
        resampled = (weights @ sums) / (weights @ counts)
    low, high = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    some = count > 0
    if some.any():
        low[some], high[some] = np.nanpercentile(resampled[:, some], [2.5, 97.5], axis=0)
    return Curve(_plain(mean), _plain(low), _plain(high), count.tolist())


def event_quality(
    predicted: NDArray[np.float64],
    happened: NDArray[np.bool_],
    episodes: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> EventQuality | None:
    """Calibration and AUC of n predictions in [0, 1]; None for no prediction."""
    if not len(predicted):
        return None
    place = np.minimum((predicted * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(place, minlength=NUM_BINS)
    sums = np.bincount(place, weights=predicted, minlength=NUM_BINS)
    events = np.bincount(place, weights=happened, minlength=NUM_BINS)
    bins = [
        (float(sums[i] / counts[i]), float(events[i] / counts[i]), int(counts[i]))
        for i in range(NUM_BINS)
        if counts[i]
    ]
    value = auc(predicted, happened)
    low = high = None
    if value is not None:
        drawn = [auc(predicted, happened, row[episodes]) for row in weights[:200]]
        known = [each for each in drawn if each is not None]
        low, high = (float(end) for end in np.percentile(known, [2.5, 97.5]))
    return EventQuality(
        count=len(predicted),
        num_events=int(happened.sum()),
        auc=value,
        auc_low=low,
        auc_high=high,
        brier=float(np.mean((predicted - happened) ** 2)),
        ece=float(np.abs(sums - events).sum() / len(predicted)),
        bins=bins,
    )


def auc(
    predicted: NDArray[np.float64],
    happened: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
) -> float | None:
    """Area under the ROC curve, ties counted half (the Mann-Whitney statistic); None without both kinds.

    weights: (n,) how often each prediction counts.
    """
    weights = np.ones(len(predicted)) if weights is None else weights
    _, place = np.unique(predicted, return_inverse=True)
    events = np.bincount(place, weights=weights * happened)
    others = np.bincount(place, weights=weights * ~happened)
    if not events.sum() or not others.sum():
        return None
    below = np.cumsum(others) - others
    return float((events * (below + others / 2)).sum() / (events.sum() * others.sum()))


def background_of(frames: Tensor) -> Tensor:
    """The game without what moves: the median of each pixel over (T, C, H, W) uint8 frames, (C, H, W) uint8."""
    return frames.median(dim=0).values


@dataclass(frozen=True)
class Objects:
    """What of the moving objects of n real frames is found in n other frames.

    num_objects, num_found: (n,) int64. A moving object is a connected piece of at least 4 pixels of the real
    frame that stands out from the background and of which a pixel changed since the frame before. It is found if
    at least half of its pixels in the other frame look more like the object than like the background.
    """

    num_objects: Tensor
    num_found: Tensor


def find_objects(real: Tensor, before: Tensor, background: Tensor, others: list[Tensor]) -> list[Objects]:
    """Moving objects of real frames, looked for at their place in other frames.

    Args:
        real: (n, C, H, W) uint8.
        before: (n, C, H, W) uint8, each real frame's predecessor.
        background: (C, H, W) uint8.
        others: each (n, C, H, W) uint8: dreams or reconstructions of the real frames.
    """
    shown, empty = real.int(), background.int()
    stands_out = (shown - empty).abs().amax(dim=1) > _MOVED
    changed = (shown - before.int()).abs().amax(dim=1) > _MOVED
    labels = connected_pieces(stands_out)
    num, size = len(real), labels[0].numel() + 1
    flat = (labels + torch.arange(num)[:, None, None] * size).flatten()

    def per_piece(mask: Tensor) -> Tensor:
        return torch.bincount(flat[mask.flatten()], minlength=num * size).view(num, size)

    area = per_piece(stands_out)
    is_object = (area >= _LEAST_PIXELS) & (per_piece(changed & stands_out) > 0)
    found = []
    for other in others:
        to_object = (other.int() - shown).abs().sum(dim=1)
        to_background = (other.int() - empty).abs().sum(dim=1)
        same = per_piece(stands_out & (to_object < to_background))
        is_found = is_object & (same >= _LEAST_SHARE * area)
        found.append(Objects(is_object.sum(dim=1), is_found.sum(dim=1)))
    return found


def connected_pieces(mask: Tensor) -> Tensor:
    """Numbers of the 8-connected pieces of (n, H, W) bool masks: 0 where False, one positive number a piece."""
    height, width = mask.shape[1:]
    # float32 holds every number of a frame exactly; each pixel takes the largest number around it until all agree.
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(height, width)
    labels = numbers * mask
    while True:
        spread = torch.nn.functional.max_pool2d(labels[:, None], 3, 1, 1)[:, 0] * mask
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
