"""Extracts: the part of a long document that matches a query, for models that read less than whole documents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cmp_rerank.text.segmenters import Sentences
from cmp_rerank.text.terms import term_splitter

# A term's weight is multiplied by this each time it was added.
_AGAIN = 0.3
# Added to the length of a piece; without it the shortest piece would always win.
_LENGTH_PRIOR = 8


@dataclass(frozen=True)
class _Piece:
    text: str
    terms: frozenset[str]
    length: int

    @property
    def norm(self) -> float:
        return math.sqrt(_LENGTH_PRIOR + self.length)


class Extracts:
    """The part of a document that matches a query best, for a model that reads less than whole documents.

    A document is split into sentences, and long sentences into pieces of about equal length. Pieces are added to the
    extract until it has enough words. Each time it is the piece with the highest sum of idf of the query's terms in
    it, divided by the square root of its length. A term counts less each time it was added before. Ties, and pieces
    without any term, are taken in the order of the document: documents lead with their topic.

    Args:
        documents: text by document id.
        words: no more pieces are added once the extract has this many.
        piece: the maximum number of words of a piece.
        language: of the Snowball stemmer, or None for no stemming.
        stopwords: whether the English stop words are left out when terms are matched.

    Raises:
        ImportError: the extra ``retrieval`` is not installed.
        ValueError: an argument is out of its range.

    Example:
        >>> text = "A heading. It is about birds. Cats sleep all day. Dogs run."
        >>> Extracts({"d": text}, words=6)("where do cats sleep", "d")
        'A heading.\\n\\nCats sleep all day.'
    """

    def __init__(
        self,
        documents: Mapping[str, str],
        words: int = 40,
        piece: int = 20,
        language: str | None = "english",
        stopwords: bool = True,
    ) -> None:
        if words < 1 or piece < 1:
            raise ValueError(f"words and piece must be at least 1; got {words!r} and {piece!r}.")
        self._documents = documents
        self._words = words
        self._piece = piece
        self._terms = term_splitter(language, stopwords)
        self._frequency = Counter(term for terms in self._terms(documents.values()) for term in set(terms))
        self._pieces: dict[str, list[_Piece]] = {}

    def __call__(self, query: str, document: str) -> str:
        """The extract of one document for a query, with a blank line between pieces that are not adjacent.

        Args:
            query: text of the query.
            document: id of the document.

        Raises:
            ValueError: there is no such document.
        """
        if document not in self._documents:
            raise ValueError(
                f"document {document!r} is not among the {len(self._documents)} documents: pass an id, not a text."
            )
        (terms,) = self._terms([query])
        weights = {term: self._idf(term) for term in dict.fromkeys(terms)}
        pieces = self._split(document)
        left, taken, length = list(range(len(pieces))), [], 0
        while left and length < self._words:
            # max takes the first of equals
            best = max(left, key=lambda i: math.fsum(weights.get(t, 0.0) for t in pieces[i].terms) / pieces[i].norm)
            left.remove(best)
            taken.append(best)
            length += pieces[best].length
            for term in pieces[best].terms & weights.keys():
                weights[term] *= _AGAIN
        taken.sort()
        parts = [
            ("" if not k else " " if taken[k - 1] == i - 1 else "\n\n") + pieces[i].text for k, i in enumerate(taken)
        ]
        return "".join(parts)

    def _idf(self, term: str) -> float:
        return math.log1p((len(self._documents) - self._frequency[term] + 0.5) / (self._frequency[term] + 0.5))

    def _split(self, document: str) -> list[_Piece]:
        if document not in self._pieces:
            text = self._documents[document]
            texts: list[str] = []
            for start, end in Sentences()(text):
                words = text[start:end].split()
                size = math.ceil(len(words) / math.ceil(len(words) / self._piece))
                texts += [" ".join(words[i : i + size]) for i in range(0, len(words), size)]
            self._pieces[document] = [
                _Piece(piece, frozenset(terms), len(piece.split()))
                for piece, terms in zip(texts, self._terms(texts), strict=True)
            ]
        return self._pieces[document]
