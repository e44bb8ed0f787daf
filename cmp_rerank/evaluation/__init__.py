"""Measures, comparison of systems with significance, an evaluator for training, and the report."""

from typing import TYPE_CHECKING, Any

from cmp_rerank.evaluation.compare import compare, compare_evaluations
from cmp_rerank.evaluation.comparison import Comparison, Contrast, SystemMean
from cmp_rerank.evaluation.evaluate import evaluate
from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.measures import Measure, parse_measures, register_measure
from cmp_rerank.evaluation.reranking import rerank
from cmp_rerank.evaluation.result import Evaluation

if TYPE_CHECKING:
    from cmp_rerank.evaluation.evaluator import RunEvaluator

__all__ = [
    "Comparison",
    "Contrast",
    "Evaluation",
    "Judgments",
    "Measure",
    "RunEvaluator",
    "SystemMean",
    "compare",
    "compare_evaluations",
    "evaluate",
    "parse_measures",
    "register_measure",
    "rerank",
]


def __getattr__(name: str) -> Any:
    # The evaluator needs torch and sentence-transformers, which take seconds to import and which nothing else
    # here needs.
    if name == "RunEvaluator":
        from cmp_rerank.evaluation.evaluator import RunEvaluator

        return RunEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
