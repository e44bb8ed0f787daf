"""Scoring rows: every (example, view) of a batch through the model, in whatever order and chunks are cheapest."""

from cmp_rerank.scoring.rows import Row, collate, cross_encoder
from cmp_rerank.scoring.scorer import STRATEGIES, Scorer, Strategy

__all__ = ["STRATEGIES", "Row", "Scorer", "Strategy", "collate", "cross_encoder"]
