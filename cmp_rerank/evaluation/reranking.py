"""Rerank the candidates of a first stage with any model that scores pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from cmp_rerank.ir import Progress, Run
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.reranking import rerank_run
from cmp_rerank.reranking.checks import PairScorer, check_inputs, check_reranker
from cmp_rerank.reranking.result import Counts


def rerank(
    model: PairScorer,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    run: Run,
    *,
    k: int | None = 100,
    batch_size: int = 32,
    show_progress_bar: bool = False,
    progress: Progress | None = None,
    predict_options: Mapping[str, Any] | None = None,
    counts: Counts | None = None,
) -> dict[str, dict[str, float]]:
    """Score the top k candidates of each query; those below keep their order and stay below.

    This is :func:`cmp_rerank.reranking.rerank_run`, in memory and in one process. Scores of a CrossEncoder are
    logits, not their sigmoid: in 32 bits the sigmoid is the same number for all logits above 17, and ties would
    decide the ranking.

    Args:
        model: Anything with ``predict(pairs)``; options that its `predict` does not take are not passed.
        queries: Query id -> text, or a dataset of `datasets` or ir_datasets.
        corpus: Document id -> text, or such a dataset.
        run: Candidates with the scores of the first stage, ranked by :func:`cmp_rerank.ir.rank`.
        k: How many candidates of each query are scored; None scores all.
        batch_size: Passed to ``predict``. A CrossEncoder without options runs in passes of the engine instead,
            which hold a number of tokens, not of pairs.
        show_progress_bar: Whether to show a bar with the pairs that are done.
        progress: Called with the number of pairs that are done and the number of all.
        predict_options: More options for ``predict``, which must take them.
        counts: Gets what was read added, such as how many pairs exceed the window.

    Returns:
        The new run, over the same documents.

    Raises:
        ValueError: A text is missing, an argument has another shape, the model gives another number of scores
            than there are pairs, or a score that is not finite.

    Example:
        >>> class Overlap:
        ...     def predict(self, pairs):
        ...         return [len(set(query.split()) & set(text.split())) for query, text in pairs]
        >>> corpus = {"d1": "a dog", "d2": "the cat sat", "d3": "the cat"}
        >>> rerank(Overlap(), {"q": "cat sat"}, corpus, {"q": {"d1": 3.0, "d2": 2.0, "d3": 1.0}}, k=2)
        {'q': {'d2': 2.0, 'd1': 0.0, 'd3': -1.0}}
    """
    check_reranker(model)
    queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
    check_inputs(queries, corpus, run, k)
    with tqdm(desc="Pairs", disable=not show_progress_bar) as bar:

        def show(done: int, pairs: int) -> None:
            bar.total = pairs
            bar.update(done - bar.n)
            if progress is not None:
                progress(done, pairs)

        return rerank_run(
            model,
            queries,
            corpus,
            run,
            depth=k,
            shard=(0, 1),
            batch_size=batch_size,
            predict_options=predict_options,
            progress=show,
            counts=counts,
        )
