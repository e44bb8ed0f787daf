"""BM25: lexical retrieval, the usual first stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cmp_rerank.ir.arguments import Progress, check_count, check_number, check_texts
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import best_documents, tie_places
from cmp_rerank.text.terms import term_splitter


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
        ValueError: ``documents`` is no mapping of ids to texts, or is empty, or an argument is out of its range.

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
        check_texts("documents", documents)
        check_number("k1", k1, 0)
        check_number("b", b, 0, 1)
        self._words = term_splitter(language, stopwords)
        import bm25s

        self._ids = np.array(list(documents), dtype=object)
        self._places = tie_places(self._ids)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        tokens = self._words(documents.values())
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Mapping[str, str], depth: int = 100, progress: Progress | None = None) -> Run:
        """The best ``depth`` documents of each query.

        A document that shares no term with the query is not retrieved: a query may return fewer documents, or none.

        Args:
            queries: text by query id.
            depth: at most how many documents a query gets; at least 1.
            progress: called now and then.

        Returns:
            A run with an entry for every query.

        Raises:
            ValueError: ``queries`` is no mapping of ids to texts, or ``depth`` is below 1.
        """
        check_count("depth", depth)
        check_texts("queries", queries, empty=True)
        run: dict[str, dict[str, float]] = {}
        vocabulary = {} if self._empty else self._index.vocab_dict
        for done, (query, terms) in enumerate(zip(queries, self._words(queries.values()), strict=True), start=1):
            known = [term for term in terms if term in vocabulary]
            scores = self._index.get_scores(known) if known else np.zeros(len(self._ids), dtype=np.float32)
            run[query] = best_documents(scores, self._ids, self._places, depth, above=0.0)
            if progress is not None and (done % 100 == 0 or done == len(queries)):
                progress(done, len(queries))
        return run
