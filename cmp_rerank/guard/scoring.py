"""Scores of a model for the candidates of a first stage, and values of a run for each query."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from cmp_rerank.evaluation.reranking import PairScorer, rerank
from cmp_rerank.ir import Run
from cmp_rerank.ir.arguments import Progress

_QUERIES_AT_ONCE = 32


def score(
    model: PairScorer,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    run: Run,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """The model's logits for all documents of a run.

    The same model, texts and run give the same scores, bit by bit: queries are scored in blocks of a fixed size.

    Args:
        model: Anything with ``predict(pairs)``.
        queries: Query id -> text.
        corpus: Document id -> text.
        run: The candidates.
        batch_size: Passed to ``predict``.
        progress: Called with the number of pairs that are done and of all pairs.

    Returns:
        Query id -> document id -> score.

    Raises:
        ValueError: As :func:`cmp_rerank.evaluation.rerank`.
    """
    total, done = count_pairs(run), 0
    scores: dict[str, dict[str, float]] = {}
    entries = iter(run.items())
    while block := dict(islice(entries, _QUERIES_AT_ONCE)):
        scores |= rerank(model, queries, corpus, block, k=None, batch_size=batch_size)
        done += count_pairs(block)
        if progress is not None:
            progress(done, total)
    return scores


def count_pairs(run: Run) -> int:
    """The number of (query, document) pairs of a run."""
    return sum(len(found) for found in run.values())
