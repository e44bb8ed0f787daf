"""What a reranker is, and the errors for arguments that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cmp_rerank.collections.matching import some
from cmp_rerank.ir import Run
from cmp_rerank.ir.arguments import check_count, check_run, check_texts, kind


class PairScorer(Protocol):
    """What a reranker must have: a CrossEncoder has it, and so has any object with this method."""

    def predict(self, pairs: list[tuple[str, str]]) -> Any:
        """One score for each (query, document) pair, as a sequence, array or tensor."""


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


def candidates_of(run: Run, judged: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """The candidates of the judged queries, in their order.

    Raises:
        ValueError: The run has none for any of them.
    """
    found = {query: run[query] for query in judged if run.get(query)}
    if not found:
        raise ValueError(
            f"the first stage has no candidate for any judged query; got {len(run):,} in the run ({some(list(run))}) "
            f"and {len(judged):,} in the qrels ({some(judged)}); match the ids"
        )
    return found


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
