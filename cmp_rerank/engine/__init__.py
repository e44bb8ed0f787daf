"""Scoring rows: every (example, view) of a batch through the model, in whatever order and chunks are cheapest."""

from cmp_rerank.engine.adapter import Adapter, CrossEncoderAdapter
from cmp_rerank.engine.rows import Row, collate, cross_encoder, pad
from cmp_rerank.engine.scorer import STRATEGIES, Scorer, Strategy

__all__ = [
    "STRATEGIES",
    "Adapter",
    "CrossEncoderAdapter",
    "Row",
    "Scorer",
    "Strategy",
    "collate",
    "cross_encoder",
    "pad",
]
