"""Rerank the candidates of a first stage with any model that scores pairs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cmp_rerank.ir import Run, rank
from cmp_rerank.ir.arguments import check_count, check_run, check_texts, kind


class PairScorer(Protocol):
    """What a reranker must have: a CrossEncoder has it, and so has any object with this method."""

    def predict(self, pairs: list[tuple[str, str]]) -> Any:
        """One score for each (query, document) pair, as a sequence, array or tensor."""


def rerank(
    model: PairScorer,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    run: Run,
    *,
    k: int | None = 100,
    batch_size: int = 32,
    show_progress_bar: bool = False,
    predict_options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Score the top k candidates of each query; those below keep their order and stay below.

    A CrossEncoder is asked for logits, not for their sigmoid: in 32 bits the sigmoid is the same number for
    all logits above 17, and ties would decide the ranking.

    Args:
        model: Anything with ``predict(pairs)``; options that its `predict` does not take are not passed.
        queries: Query id -> text.
        corpus: Document id -> text.
        run: Candidates with the scores of the first stage, ranked by :func:`cmp_rerank.ir.rank`.
        k: How many candidates of each query are scored; None scores all.
        batch_size: Passed to ``predict``.
        show_progress_bar: Passed to ``predict``.
        predict_options: More options for ``predict``, which must take them.

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
    check_inputs(queries, corpus, run, k)
    ranked = {query: [doc for doc, _ in rank(scores)] for query, scores in run.items()}
    pairs, owners = [], []
    for query, docs in ranked.items():
        for doc in docs[:k]:
            pairs.append((text_of("query", queries, query), text_of("document", corpus, doc)))
            owners.append((query, doc))
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    result: dict[str, dict[str, float]] = {query: {} for query in ranked}
    for (query, doc), score in zip(owners, _predict(model, pairs, options, predict_options or {}), strict=True):
        result[query][doc] = score
    for query, scores in result.items():
        for doc, score in scores.items():
            if not np.isfinite(score):
                raise ValueError(
                    f"scores must be finite; the model's score for query {query!r} and document {doc!r} is {score}; "
                    "check the model, or load it in 32 bits"
                )
        ordered = dict(rank(scores))
        lowest = min(ordered.values(), default=0.0)
        # Steps that a rounded number can still show, whatever the size of the scores.
        step = max(1.0, abs(lowest) * 1e-6)
        for place, doc in enumerate(ranked[query][len(ordered) :], 1):
            ordered[doc] = lowest - place * step
        result[query] = ordered
    return result


def check_reranker(model: object) -> None:
    """Refuse a model that does not score pairs.

    Raises:
        ValueError: It has no ``predict``, or is a class or a name.
    """
    if isinstance(model, str | type):
        hint = (
            f"create one: {model.__name__}(...)" if isinstance(model, type) else f"load it: CrossEncoder({model!r})"
        )
        raise ValueError(f"model must be a loaded model; got {kind(model)}; {hint}")
    if not callable(getattr(model, "predict", None)):
        bi_encoder = callable(getattr(model, "encode_query", None))
        hint = "a bi-encoder reranks with cmp_rerank.ir.Dense" if bi_encoder else "pass a CrossEncoder"
        raise ValueError(f"model must have a method predict(pairs); got {kind(model)}; {hint}")


def check_inputs(queries: object, corpus: object, run: object, k: int | None) -> None:
    """Refuse texts that have no ids, a run of another shape, and a number of candidates below 1.

    Raises:
        ValueError: What is wrong, what was given and what to do.
    """
    for name, texts in (("queries", queries), ("corpus", corpus)):
        if not isinstance(texts, Mapping):
            check_texts(name, texts)
    check_run("run", run)
    if k is not None:
        check_count("k", k)


def text_of(what: str, texts: Mapping[str, str], name: str) -> str:
    """The text of a query or document.

    Raises:
        ValueError: There is none.
    """
    if name not in texts:
        raise ValueError(
            f"there is no text for {what} {name!r}, which the run needs; add it, or take it out of the run"
        )
    return texts[name]


def _predict(
    model: PairScorer, pairs: list[tuple[str, str]], options: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[float]:
    if not pairs:
        return []
    taken = inspect.signature(model.predict).parameters
    if "activation_fn" in taken and "activation_fn" not in wanted:
        from torch.nn import Identity

        options = {**options, "activation_fn": Identity()}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    accepted = {name: value for name, value in options.items() if name in taken or anything}
    raw: Any = model.predict(pairs, **{**accepted, **wanted})
    if hasattr(raw, "detach"):
        raw = raw.detach().float().cpu().numpy()
    scores = np.asarray([float(score) for score in raw] if isinstance(raw, list) else raw, dtype=np.float64)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.shape != (len(pairs),):
        raise ValueError(
            f"a reranker must give one score for each pair; got scores of shape {scores.shape} for {len(pairs)} pairs"
        )
    return scores.tolist()
