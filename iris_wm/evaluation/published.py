"""Published Atari 100k scores of 21 methods, with their sources, and the random and human references: the only ones."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

REFERENCES = ("Random", "Human")


@dataclass(frozen=True)
class PublishedMethod:
    """Scores of one method, as published, and how they came about; None where the source does not say.

    scores: game -> raw scores, one for each run if `per_run`, else the single published game mean.
    hours_per_run: wall-clock hours of one run on `num_gpus` GPUs (0.5: two runs share one) of `gpu_model`,
    the figures of the texts `hours` and `gpu`; a published range counts as its middle.
    """

    name: str
    source: str
    year: int | None
    kind: str
    per_run: bool
    params: str | None
    gpu: str | None
    hours: str | None
    gpu_model: str | None
    num_gpus: float | None
    hours_per_run: float | None
    sticky_actions: str | None
    life_loss_terminal: str | None
    evaluation: str | None
    scores: dict[str, list[float]]

    @property
    def gpu_hours(self) -> float | None:
        """GPU-hours of one run."""
        if self.hours_per_run is None or self.num_gpus is None:
            return None
        return self.hours_per_run * self.num_gpus


@cache
def _load() -> dict[str, PublishedMethod]:
    text = (
        resources.files("iris_wm.evaluation").joinpath("published/atari100k.json").read_text(encoding="utf-8")
    )
    raw: dict[str, dict[str, Any]] = json.loads(text)
    return {name: PublishedMethod(name=name, **fields) for name, fields in raw.items()}


def published() -> dict[str, PublishedMethod]:
    """Every method of the package's data by name, and under `REFERENCES` the two reference scores."""
    return dict(_load())


def published_method(name: str) -> PublishedMethod:
    """The method called `name`; ValueError listing the names if there is none."""
    methods = _load()
    if name not in methods:
        known = ", ".join(other for other in methods if other not in REFERENCES)
        raise ValueError(f"published method: got {name!r}, expected one of {known}")
    return methods[name]


def games() -> list[str]:
    """The 26 games of Atari 100k, in alphabetical order."""
    return list(_load()["Human"].scores)
