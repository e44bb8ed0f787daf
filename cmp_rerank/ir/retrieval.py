"""The first stage and what follows from it: BM25, dense retrieval, fusion, sampling of negatives.

Everything takes and gives runs (query id -> document id -> score) and breaks ties as `cmp_rerank.ir.rank` does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmp_rerank.ir import Qrels, Run, rank
from cmp_rerank.text.terms import term_splitter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: Called with the number of rows that are done and the number of all rows.
Progress = Callable[[int, int], None]


class BM25:
    """Lexical retrieval by BM25 (Robertson and Zaragoza 2009), with the idf of Lucene, which is never negative.

    Args:
        documents: text by document id.
        k1: how slowly further occurrences of a term stop to count; at least 0.
        b: how much a document's length counts, from 0 (not at all) to 1.
        language: of the Snowball stemmer, or None for no stemming.
        stopwords: whether the English stop words are left out.

    Raises:
        ImportError: the extra ``retrieval`` is not installed.
        ValueError: there is no document, or an argument is out of its range.

    Example:
        >>> bm25 = BM25({"a": "the cat sat", "b": "dogs and cats", "c": "a bird"})
        >>> {doc: round(score, 3) for doc, score in bm25.search({"q": "cats"})["q"].items()}
        {'b': 0.172, 'a': 0.172}
    """

    def __init__(
        self,
        documents: Mapping[str, str],
        k1: float = 1.5,
        b: float = 0.75,
        language: str | None = "english",
        stopwords: bool = True,
    ) -> None:
        if not documents:
            raise ValueError("there is no document to index")
        if k1 < 0:
            raise ValueError(f"k1 must be at least 0, got {k1!r}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must lie between 0 and 1, got {b!r}")
        self._words = term_splitter(language, stopwords)
        import bm25s

        self._ids = np.array(list(documents), dtype=object)
        self._places = _tie_places(self._ids)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        tokens = self._words(documents.values())
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Mapping[str, str], depth: int = 100, progress: Progress | None = None) -> Run:
        """The best ``depth`` documents of each query.

        A document that shares no term with the query is not found, so a query may have fewer, or none.

        Args:
            queries: text by query id.
            depth: at most how many documents a query gets; at least 1.
            progress: called now and then.

        Returns:
            A run with an entry for every query.
        """
        _check_depth(depth)
        run: dict[str, dict[str, float]] = {}
        vocabulary = {} if self._empty else self._index.vocab_dict
        for done, (query, terms) in enumerate(zip(queries, self._words(queries.values()), strict=True), start=1):
            known = [term for term in terms if term in vocabulary]
            scores = self._index.get_scores(known) if known else np.zeros(len(self._ids), dtype=np.float32)
            run[query] = _best(scores, self._ids, self._places, depth, above=0.0)
            if progress is not None and (done % 100 == 0 or done == len(queries)):
                progress(done, len(queries))
        return run


class Dense:
    """Dense retrieval: cosine similarity of the embeddings of a bi-encoder, exact.

    Args:
        documents: text by document id; each is embedded once, here.
        model: a SentenceTransformer; its own ``max_seq_length`` decides what it reads of a text.
        batch_size: texts in a batch; they are sorted by length.
        progress: called after each batch.

    Raises:
        ValueError: there is no document.
    """

    def __init__(
        self,
        documents: Mapping[str, str],
        model: SentenceTransformer,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> None:
        if not documents:
            raise ValueError("there is no document to index")
        self._model = model
        self._batch_size = batch_size
        self._ids = np.array(list(documents), dtype=object)
        self._places = _tie_places(self._ids)
        self._row = {document: row for row, document in enumerate(documents)}
        self._embeddings = self._embed(list(documents.values()), "encode_document", progress)

    def search(self, queries: Mapping[str, str], depth: int = 100, block: int = 256) -> Run:
        """The ``depth`` documents of the highest similarity for each query; ``block`` queries at a time."""
        _check_depth(depth)
        run: dict[str, dict[str, float]] = {}
        names = list(queries)
        for start in range(0, len(names), block):
            part = names[start : start + block]
            similarities = self._embed([queries[name] for name in part], "encode_query") @ self._embeddings.T
            for name, scores in zip(part, similarities, strict=True):
                run[name] = _best(scores, self._ids, self._places, depth)
        return run

    def rerank(self, queries: Mapping[str, str], run: Run) -> Run:
        """The same candidates as in ``run``, scored by similarity.

        Raises:
            ValueError: a query or a document of the run is not known.
        """
        _check_texts(run, queries, self._row)
        names = [name for name in run if run[name]]
        embeddings = dict(zip(names, self._embed([queries[name] for name in names], "encode_query"), strict=True))
        scored: dict[str, dict[str, float]] = {}
        for name, found in run.items():
            rows = [self._row[document] for document in found]
            scores = self._embeddings[rows] @ embeddings[name] if rows else []
            scored[name] = {document: float(score) for document, score in zip(found, scores, strict=True)}
        return scored

    def _embed(self, texts: Sequence[str], method: str, progress: Progress | None = None) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        encode = getattr(self._model, method)
        parts = []
        for start in range(0, len(order), self._batch_size):
            batch = [texts[i] for i in order[start : start + self._batch_size]]
            parts.append(
                encode(batch, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False)
            )
            if progress is not None:
                progress(min(start + self._batch_size, len(order)), len(order))
        if not parts:
            return np.zeros((0, 1), dtype=np.float32)
        embeddings = np.concatenate(parts)
        restored = np.empty_like(embeddings)
        restored[order] = embeddings
        return restored


def fuse(runs: Sequence[Run], k: int = 60) -> Run:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a document's score is the sum of 1 / (k + rank).

    It needs no tuning: ranks are comparable where scores are not.

    Args:
        runs: two or more runs; a document that a run lacks gets nothing from it.
        k: how little the first ranks stand out; at least 0. 60 is the value of the paper.

    Returns:
        A run with every query and document of any of them.

    Example:
        >>> fused = fuse([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 0.9, "c": 0.1}}])
        >>> [document for document, _ in rank(fused["q"])]
        ['b', 'a', 'c']
    """
    if len(runs) < 2:
        raise ValueError(f"fusion needs two runs or more, got {len(runs)}")
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k!r}")
    fused: dict[str, dict[str, float]] = {}
    for run in runs:
        for query, scores in run.items():
            found = fused.setdefault(query, {})
            for place, (document, _) in enumerate(rank(scores), start=1):
                found[document] = found.get(document, 0.0) + 1 / (k + place)
    return fused


def combine(runs: Sequence[Run]) -> Run:
    """Sum of scores (CombSUM, Fox and Shaw 1994), those of each run as shares of its best one of the query.

    Unlike ranks, scores say by how much a document is better; scores below 0 count as 0.

    Args:
        runs: two or more runs; a document that a run lacks gets nothing from it.

    Returns:
        A run with every query and document of any of them; scores lie between 0 and the number of runs.

    Example:
        >>> combine([{"q": {"a": 4.0, "b": 3.0}}, {"q": {"b": 0.5, "c": 0.25}}])
        {'q': {'a': 1.0, 'b': 1.75, 'c': 0.5}}
    """
    if len(runs) < 2:
        raise ValueError(f"a combination needs two runs or more, got {len(runs)}")
    combined: dict[str, dict[str, float]] = {}
    for run in runs:
        for query, scores in run.items():
            found = combined.setdefault(query, {})
            best = max(scores.values(), default=0.0)
            for document, score in scores.items():
                found[document] = found.get(document, 0.0) + (max(score, 0.0) / best if best > 0 else 0.0)
    return combined


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
    ones). The relevant documents do not count when ranks are counted. A band with too few documents is topped
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
        ValueError: an argument is out of its range, or there are too few documents.

    Example:
        >>> run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
        >>> sample_negatives({"q": {"b": 1}}, "abcdef", 1, run, ranks=(2, 2))
        {'q': ['c']}
    """
    first, last = ranks
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}")
    if not 1 <= first <= last:
        raise ValueError(f"ranks must be (first, last) with 1 <= first <= last, got {ranks!r}")
    pool = list(documents)
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
            raise ValueError(f"query {query!r}: {count} negatives were asked for, but there are too few documents")
        while len(chosen) < count:
            document = pool[int(draw() * len(pool))]
            if document not in taken:
                taken.add(document)
                chosen.append(document)
        negatives[query] = chosen
    return negatives


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth!r}")


def _check_texts(run: Run, queries: Mapping[str, str], documents: Mapping[str, Any]) -> None:
    for query, found in run.items():
        if query not in queries:
            raise ValueError(f"the run has query {query!r}, which is not among the {len(queries)} queries")
        for document in found:
            if document not in documents:
                raise ValueError(
                    f"the run has document {document!r} for query {query!r}, which is not among the "
                    f"{len(documents)} documents"
                )


def _tie_places(ids: np.ndarray) -> np.ndarray:
    """For each document its place when ids are sorted descending: what decides between equal scores."""
    places = np.empty(len(ids), dtype=np.int64)
    places[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids))
    return places


def _best(
    scores: np.ndarray, ids: np.ndarray, places: np.ndarray, depth: int, above: float = -np.inf
) -> dict[str, float]:
    """The ``depth`` best documents with a score above ``above``; ties across the cut are decided by id, too."""
    rows = np.flatnonzero(scores > above)
    if len(rows) > depth:
        kept = scores[rows]
        rows = rows[kept >= np.partition(kept, len(kept) - depth)[len(kept) - depth]]
    rows = rows[np.lexsort((places[rows], -scores[rows]))][:depth]
    return {str(ids[row]): float(scores[row]) for row in rows}
