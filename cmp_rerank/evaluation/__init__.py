"""Measures, comparison of systems with significance, an evaluator for training, and the report."""

from typing import TYPE_CHECKING, Any

from cmp_rerank.evaluation.compare import compare
from cmp_rerank.evaluation.comparison import Comparison, Contrast, SystemMean
from cmp_rerank.evaluation.evaluate import Evaluation, Judgments, evaluate
from cmp_rerank.evaluation.measures import parse_measures
from cmp_rerank.evaluation.reranking import rerank

if TYPE_CHECKING:
    from cmp_rerank.evaluation.evaluator import RerankingEvaluator

__all__ = [
    "Comparison",
    "Contrast",
    "Evaluation",
    "Judgments",
    "RerankingEvaluator",
    "SystemMean",
    "compare",
    "evaluate",
    "parse_measures",
    "rerank",
]


def __getattr__(name: str) -> Any:
    # The evaluator needs torch and sentence-transformers, which take seconds to import and which nothing else
    # here needs.
    if name == "RerankingEvaluator":
        from cmp_rerank.evaluation.evaluator import RerankingEvaluator

        return RerankingEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
