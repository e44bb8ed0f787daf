"""BM25: lexical retrieval, the usual first stage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmp_rerank.ir.arguments import Progress, check_number
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.id_list import IdList
from cmp_rerank.ir.index import Found, Index
from cmp_rerank.ir.index_folder import read_manifest
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.ir.postings import Postings, build_postings
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.text.terms import TERM_RULES, term_splitter

# Queries that are searched at once.
_BLOCK = 100
LENGTHS = ("exact", "lucene")
ANSERINI: Mapping[str, Any] = {
    "k1": 0.9,
    "b": 0.4,
    "language": "porter",
    "stopwords": True,
    "tokens": "lucene",
    "lengths": "lucene",
}
"""What Anserini does by default: its k1 and b, Porter's stemmer, Lucene's tokens, stop words and lengths:
``BM25(corpus, **ANSERINI)``."""


class BM25(Index):
    """Lexical retrieval by BM25 (Robertson and Zaragoza 2009), with the idf of Lucene, which is never negative.

    The score of a document is the sum over the terms of the query, with repetitions, of
    idf * tf / (tf + k1 * (1 - b + b * length / mean length)), where idf is log(1 + (n - df + 0.5) / (df + 0.5)).
    bm25s adds them up. A saved index has the files of bm25s, which opens them too, and the ids of the documents.

    Args:
        documents: text by document id; read once, in blocks, so that it may be larger than memory.
        k1: how slowly further occurrences of a term stop to count; at least 0.
        b: how much a document's length counts, from 0 (not at all) to 1.
        language: of the Snowball stemmer, such as "english" or "porter" (Porter's first), or None for no stemming.
        stopwords: whether the English stop words are left out: the 33 of Lucene.
        tokens: what counts as a term: "words" are two word characters or more, and in a script without spaces all
            that stands between spaces and punctuation; "lucene" is near to what Lucene takes for one, that is each
            character of Han and Hiragana.
        lengths: "exact", or rounded as "lucene" does, which keeps each in one byte. ``BM25(documents, **ANSERINI)``
            has the defaults of Anserini.
        scratch: folder for files that are needed while the index is built; None: that of the system.
        progress: called after each block with the number of documents that are read.

    Raises:
        ImportError: the extra ``retrieval`` is not installed.
        ValueError: ``documents`` is no mapping of ids to texts, or is empty, or an argument is out of its range.

    Example:
        >>> bm25 = BM25({"a": "the cat sat", "b": "dogs and cats", "c": "a bird"})
        >>> {doc: round(score, 3) for doc, score in bm25.search({"q": "cats"})["q"].items()}
        {'b': 0.172, 'a': 0.172}
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> bm25.save(folder)
        >>> BM25.open(folder).search({"q": "bird"}) == bm25.search({"q": "bird"})
        True
    """

    kind = "bm25"
    _made_by: ClassVar[Mapping[str, Any]] = {"term_rules": TERM_RULES}

    def __init__(
        self,
        documents: Mapping[str, str],
        k1: float = 1.5,
        b: float = 0.75,
        language: str | None = "english",
        stopwords: bool = True,
        tokens: str = "words",
        lengths: str = "exact",
        *,
        scratch: PathLike | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_number("k1", k1, 0)
        check_number("b", b, 0, 1)
        check_choice("lengths", lengths, LENGTHS)
        self._settings = {
            "k1": k1,
            "b": b,
            "language": language,
            "stopwords": stopwords,
            "tokens": tokens,
            "lengths": lengths,
        }
        self._words = _splitter(self._settings)
        place = None if scratch is None else Path(scratch)
        documents = as_texts("documents", documents)
        postings = build_postings(documents, self._words, k1, b, lengths, place, progress)
        self._ids = postings.ids
        self._index = _bm25s_index(postings, k1, b)

    @classmethod
    def open(cls, folder: PathLike) -> BM25:
        """Open a saved index; it is memory-mapped, so that only what queries touch is read.

        Raises:
            ImportError: the extra ``retrieval`` is not installed.
            ValueError: there is no such index in the folder, or not a whole one, or one of a version with other rules
                of what a term is.
        """
        bm25 = cls.__new__(cls)
        settings = read_manifest(folder, cls.kind)
        rules = settings.pop("term_rules", 1)
        if rules != TERM_RULES:
            raise ValueError(
                f"{os.fspath(folder)}: the rules of what a term is must be {TERM_RULES}; got an index by rules "
                f"{rules!r}; build the index again"
            )
        bm25._settings = settings
        bm25._words = _splitter(settings)
        import bm25s

        bm25._ids = IdList.open(Path(folder))
        bm25._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return bm25

    def search(self, queries: Mapping[str, str], depth: int = 100, progress: Progress | None = None) -> Run:
        """The best ``depth`` documents of each query.

        A document that shares no term with the query is not retrieved: a query may return fewer documents, or none.

        Args:
            queries: text by query id.
            depth: at most how many documents a query gets; at least 1.
            progress: called after each 100 queries.

        Returns:
            A run with an entry for every query; ties are decided by document id, descending, also across the cut.

        Raises:
            ValueError: ``queries`` is no mapping of ids to texts, or ``depth`` is below 1.
        """
        return self._search(queries, depth, _BLOCK, progress)

    def __getstate__(self) -> dict[str, Any]:
        # The splitter holds a stemmer of C, and follows from the settings.
        return {name: value for name, value in vars(self).items() if name != "_words"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._words = _splitter(self._settings)

    def _find(self, queries: Sequence[str], depth: int) -> Iterator[Found]:
        for terms in self._words(queries):
            known = self._index.get_tokens_ids(terms)
            scores = self._index.get_scores_from_ids(known) if known else np.zeros(0, dtype=np.float32)
            rows = np.flatnonzero(scores > 0)
            yield scores[rows], rows

    def _write(self, folder: Path) -> None:
        self._index.save(folder, show_progress=False)


def _splitter(settings: Mapping[str, Any]) -> Callable[[Iterable[str]], list[list[str]]]:
    return term_splitter(settings["language"], settings["stopwords"], settings["tokens"])


def _bm25s_index(postings: Postings, k1: float, b: float) -> Any:
    """The postings as an index of bm25s.

    Its own ``index`` needs all terms of all documents in memory, and numbers them by chance.
    """
    import bm25s

    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.scores = {
        "data": postings.scores,
        "indices": postings.rows,
        "indptr": postings.bounds,
        "num_docs": len(postings.ids),
    }
    index.vocab_dict = postings.vocabulary
    index.unique_token_ids_set = set(postings.vocabulary.values())
    index.nonoccurrence_array = None  # only BM25L and BM25+ have one
    return index
