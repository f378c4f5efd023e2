"""metrics.csv as a Lightning logger."""

from typing import Any

from lightning.pytorch.loggers.logger import Logger

from iris_wm.checkpoint.metrics_file import MetricsFile


class MetricsLogger(Logger):
    """Appends each number to the run's metrics.csv: env_steps, epoch, name, value."""

    def __init__(self, metrics: MetricsFile) -> None:
        super().__init__()
        self._metrics = metrics

    @property
    def name(self) -> str:
        """For Lightning."""
        return "metrics"

    @property
    def version(self) -> int:
        """For Lightning."""
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """step: env_steps; metrics holds the epoch, too."""
        values = dict(metrics)
        epoch = int(values.pop("epoch", 0))
        if values:
            self._metrics.append(step or 0, epoch, values)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config has a file of its own."""
