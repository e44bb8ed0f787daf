"""Negatives for training: documents that are not judged relevant, from a band of ranks or at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from cmp_rerank.ir.arguments import check_count, check_id, check_run, kind
from cmp_rerank.ir.files import Qrels, Run
from cmp_rerank.ir.mappings import Texts
from cmp_rerank.ir.ranking import rank


def sample_negatives(
    qrels: Qrels,
    documents: Sequence[str] | Mapping[str, str],
    count: int,
    run: Run | None = None,
    ranks: tuple[int, int] = (1, 100),
    seed: int = 0,
) -> dict[str, list[str]]:
    """Draw documents that are not judged relevant, for every query of ``qrels``.

    With a run they are drawn from a band of its ranks (hard negatives), without one from all documents (random
    ones). The relevant documents do not count when ranks are counted. A band with too few documents is filled
    up with random ones. What a query gets depends on the seed and on its id only, not on the other queries.

    Args:
        qrels: relevance by document id, by query id; grades above 0 are relevant.
        documents: ids of the documents to draw random ones from.
        count: negatives for each query; at least 1.
        run: the first stage's run, for hard negatives.
        ranks: first and last rank of the band, counted from 1, both included.
        seed: any integer.

    Returns:
        ``count`` distinct document ids by query id.

    Raises:
        ValueError: an argument is out of its range, an id is not a string, or there are too few documents.

    Example:
        >>> run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
        >>> sample_negatives({"q": {"b": 1}}, ["a", "b", "c", "d"], 1, run, ranks=(2, 2))
        {'q': ['c']}
    """
    first, last = _band(ranks)
    check_count("count", count)
    check_run("qrels", qrels)
    if run is not None:
        check_run("run", run)
    if isinstance(documents, str):
        raise ValueError(f"documents must be a list of ids, or texts by id; got {kind(documents)}; write [id, ...]")
    pool = documents.ids if isinstance(documents, Texts) else list(documents)
    if not isinstance(documents, Texts):
        for document in pool:
            check_id("documents", "document", document)
    negatives: dict[str, list[str]] = {}
    for query, judged in qrels.items():
        # Of Python's generators, only random() promises the same numbers in every version.
        draw = random.Random(f"{seed} {query}").random
        relevant = {document for document, grade in judged.items() if grade > 0}
        band: list[str] = []
        if run is not None:
            ranked = [document for document, _ in rank(run.get(query, {})) if document not in relevant]
            band = ranked[first - 1 : last]
        chosen = [document for _, document in sorted((draw(), document) for document in band)][:count]
        taken = relevant | set(chosen)
        missing = count - len(chosen)
        if missing and len(pool) < len(taken) + missing and len(set(pool) - taken) < missing:
            raise ValueError(
                f"query {query!r} needs {count} negatives; got {len(set(pool) - relevant)} documents that are not "
                "relevant; give more documents, or lower count"
            )
        while len(chosen) < count:
            document = pool[int(draw() * len(pool))]
            if document not in taken:
                taken.add(document)
                chosen.append(document)
        negatives[query] = chosen
    return negatives


def _band(ranks: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(ranks, Sequence) or len(ranks) != 2 or not 1 <= ranks[0] <= ranks[1]:
        raise ValueError(f"ranks must be (first, last) with 1 <= first <= last; got {ranks!r}")
    return ranks[0], ranks[1]
