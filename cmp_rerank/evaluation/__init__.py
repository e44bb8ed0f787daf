"""Measures, comparison of systems with significance, an evaluator for training, and the report."""

from cmp_rerank.evaluation.evaluate import Evaluation, evaluate
from cmp_rerank.evaluation.measures import parse_measures

__all__ = ["Evaluation", "evaluate", "parse_measures"]
