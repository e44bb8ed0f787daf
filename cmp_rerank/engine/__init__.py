"""The engine: rows, every (example, view) of a batch, through a model, in whatever order and chunks are cheapest."""

from cmp_rerank.engine.adapter import Adapter, Around
from cmp_rerank.engine.modifier import PassModifier
from cmp_rerank.engine.rows import Row, RowBatch, pad
from cmp_rerank.engine.scorer import STRATEGIES, Scorer, Strategy

__all__ = ["STRATEGIES", "Adapter", "Around", "PassModifier", "Row", "RowBatch", "Scorer", "Strategy", "pad"]
