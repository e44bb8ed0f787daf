"""The options of a reranking that a configuration may hold."""

from __future__ import annotations

from dataclasses import dataclass

from cmp_rerank.ir.arguments import check_count
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.reranking.precision import PRECISIONS

#: How many pairs fill a group of queries: enough for passes of pairs of one length.
PAIRS_PER_GROUP = 1024


@dataclass(frozen=True)
class RerankOptions:
    """How much is scored, and how: ``rerank_run(..., **asdict(options))``.

    Attributes:
        depth: How many candidates of each query are scored; None: all.
        tokens_per_batch: How many tokens, padding included, one pass holds; None: what suits the device.
        pairs_per_group: How many pairs fill a group.
        precision: "float32", "bf16" or "int8"; None leaves the model as it is.

    Raises:
        ValueError: A value is out of its range.

    Example:
        >>> RerankOptions(depth=100, precision="bf16")
        RerankOptions(depth=100, tokens_per_batch=None, pairs_per_group=1024, precision='bf16')
    """

    depth: int | None = None
    tokens_per_batch: int | None = None
    pairs_per_group: int = PAIRS_PER_GROUP
    precision: str | None = None

    def __post_init__(self) -> None:
        check_count("pairs_per_group", self.pairs_per_group)
        for name in ("depth", "tokens_per_batch"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
