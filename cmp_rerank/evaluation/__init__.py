"""Measures, comparison of systems with significance, an evaluator for training, and the report."""

from cmp_rerank.evaluation.compare import Comparison, Contrast, SystemMean, compare
from cmp_rerank.evaluation.evaluate import Evaluation, Judgments, evaluate
from cmp_rerank.evaluation.measures import parse_measures

__all__ = [
    "Comparison",
    "Contrast",
    "Evaluation",
    "Judgments",
    "SystemMean",
    "compare",
    "evaluate",
    "parse_measures",
]
