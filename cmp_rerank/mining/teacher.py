"""Labels from a teacher: the scores of a model or a run, or the ranks that they give.

A teacher that only ranks, such as a large language model that sorts a list, has no meaningful scores. Its ranks are
the labels then, as in Rank-DistiLLM (Schlatt et al. 2024, arXiv 2405.07920).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cmp_rerank.evaluation.reranking import rerank
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import rank
from cmp_rerank.reranking.checks import check_reranker
from cmp_rerank.reranking.result import Counts

#: Scores of the documents that are asked for, by query; without those that it does not know.
Scores = Callable[[Mapping[str, Sequence[str]]], dict[str, dict[str, float]]]


def model_scores(
    model: Any,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    batch_size: int = 32,
    read: Counts | None = None,
) -> Scores:
    """The scores of a cross-encoder, or of any object with ``predict``.

    Args:
        model: Scores pairs of texts.
        queries: Query id -> text.
        corpus: Document id -> text.
        batch_size: Passed to ``predict``, where it takes it.
        read: Gets what was read added, such as how many pairs exceed the window.

    Raises:
        ValueError: What is no model; later, as :func:`cmp_rerank.evaluation.rerank`.

    Example:
        >>> class Overlap:
        ...     def predict(self, pairs):
        ...         return [len(set(query.split()) & set(text.split())) for query, text in pairs]
        >>> model_scores(Overlap(), {"q": "a b"}, {"d": "b c", "e": "c"})({"q": ["e", "d"]})
        {'q': {'d': 1.0, 'e': 0.0}}
    """
    check_reranker(model)

    def scores(wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        run = {query: dict.fromkeys(documents, 0.0) for query, documents in wanted.items()}
        return rerank(model, queries, corpus, run, k=None, batch_size=batch_size, counts=read)

    return scores


def run_scores(run: Run) -> Scores:
    """The scores in a run.

    Example:
        >>> run_scores({"q": {"d": 2.0}})({"q": ["d", "e"], "other": ["d"]})
        {'q': {'d': 2.0}, 'other': {}}
    """

    def scores(wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        return {
            query: {document: float(known[document]) for document in documents if document in known}
            for query, documents in wanted.items()
            for known in (run.get(query, {}),)
        }

    return scores


def teacher_labels(
    query: str, documents: Sequence[str], scores: Mapping[str, float], labels: str, unscored: str
) -> dict[str, float]:
    """The labels of one query's documents by a teacher.

    Args:
        query: The query's id, for errors.
        documents: Ids of the documents to label.
        scores: The teacher's score of each, where it has one.
        labels: "scores"; "ranks": 1 for the best of these documents, then 2; "reciprocal": 1 / rank; "linear":
            (n - rank + 1) / n, of n documents. Ties are decided as by :func:`cmp_rerank.ir.rank`.
        unscored: What becomes of the others: "error"; "drop": they get no label; "lowest": the label of the last
            document, or of the rank after it.

    Returns:
        Document id -> label, in the order of ``documents``.

    Raises:
        ValueError: A document has no score and ``unscored`` is "error", or a score is not finite.

    Example:
        >>> teacher_labels("q", ["a", "b", "c"], {"a": 0.5, "b": 7.0}, "reciprocal", "lowest")
        {'a': 0.5, 'b': 1.0, 'c': 0.3333333333333333}
        >>> teacher_labels("q", ["a", "b", "c"], {"a": 0.5, "b": 7.0}, "scores", "drop")
        {'a': 0.5, 'b': 7.0}
    """
    known = {document: scores[document] for document in documents if document in scores}
    missing = [document for document in documents if document not in known]
    if missing and unscored == "error":
        raise ValueError(
            f"the teacher must score every document; got none for {len(missing)} of {len(documents)} documents of "
            f"query {query!r}, such as {missing[0]!r}; mine from the teacher's own run, or choose unscored='drop' or "
            "'lowest'"
        )
    for document, score in known.items():
        if not math.isfinite(score):
            raise ValueError(
                f"the teacher's scores must be finite; got {score} for query {query!r} and document {document!r}; "
                "take the line out of its run"
            )
    if labels == "scores":
        last = min(known.values(), default=0.0)
        found = known
    else:
        number = len(known) if unscored == "drop" else len(documents)
        found = {document: _by_rank(labels, place, number) for place, (document, _) in enumerate(rank(known), 1)}
        last = _by_rank(labels, len(known) + 1, number)
    kept = list(known) if unscored == "drop" else documents
    return {document: found.get(document, last) for document in kept}


def _by_rank(labels: str, place: int, number: int) -> float:
    if labels == "ranks":
        return float(place)
    return 1 / place if labels == "reciprocal" else (number - place + 1) / number
