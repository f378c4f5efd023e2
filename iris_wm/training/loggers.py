"""metrics.csv as a Lightning logger, and TensorBoard's event files, whose failing is told in one line."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from iris_wm.checkpoint.errors import ResourceError
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


class EventFiles(TensorBoardLogger):
    """TensorBoard's files below the run folder. Raises ResourceError where they cannot be written."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """As every logger; what an earlier call could not write is told here."""
        try:
            super().log_metrics(metrics, step)
        except OSError as error:
            raise ResourceError(f"{self.log_dir}: cannot be written: {error.strerror}") from None


@contextmanager
def silent_writer() -> Iterator[None]:
    """Meanwhile the thread that writes event files prints no traceback; the logger's next call raises its error."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
