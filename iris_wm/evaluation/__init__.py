"""How good an agent and its dreams are: evaluation, scores and published figures."""

from iris_wm.evaluation.published import PublishedMethod, published, published_method
from iris_wm.evaluation.result import RunResult

__all__ = ["PublishedMethod", "RunResult", "published", "published_method"]
