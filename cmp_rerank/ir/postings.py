"""Building a BM25 index of any size: texts are read once, block by block, and what grows with them lies on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from cmp_rerank.ir.arguments import Progress, check_texts
from cmp_rerank.ir.id_list import IdList

_BLOCK = 20_000


@dataclass(frozen=True)
class Postings:
    """For each term the documents that hold it, with the term's BM25 score there.

    Args:
        ids: Of the documents, by row.
        vocabulary: Number by term.
        scores: (postings,) ``float32``, term after term.
        rows: (postings,) ``int32``, the document of each score, ascending for each term.
        bounds: (terms + 1,) ``int64``, where the postings of each term begin and end.
    """

    ids: IdList
    vocabulary: dict[str, int]
    scores: np.ndarray
    rows: np.ndarray
    bounds: np.ndarray


def texts_in_blocks(documents: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    """The documents in their order, ``size`` at a time; each is read and checked once.

    Raises:
        ValueError: ``documents`` is no mapping, or is empty, or an id or a text is not a string.
    """
    if not isinstance(documents, Mapping) or not documents:
        check_texts("documents", documents)
    items = iter(documents.items())
    while block := dict(islice(items, size)):
        check_texts("documents", block)
        yield block


def build_postings(
    documents: Mapping[str, str],
    split: Callable[[Iterable[str]], list[list[str]]],
    k1: float,
    b: float,
    lengths: str = "exact",
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Postings:
    """Index documents for BM25, with the idf of Lucene.

    In memory are one block of documents, the vocabulary, and some 40 bytes for each document. Counts and
    postings are in files without a name, which vanish with the arrays that map them.

    Args:
        documents: Text by document id.
        split: Gives the terms of each text.
        k1: How slowly further occurrences of a term stop to count.
        b: How much the length of a document counts.
        lengths: "exact", or "lucene": as :func:`lucene_lengths`.
        scratch: Folder for these files; None: that of the system.
        progress: Called after each block.

    Returns:
        The postings; terms are numbered in the order in which they first occur.
    """
    vocabulary: dict[str, int] = {}
    names: list[IdList] = []
    terms_of: list[np.ndarray] = []
    blocks: list[int] = []
    in_documents = np.zeros(0, dtype=np.int64)
    done = 0
    with tempfile.TemporaryFile(dir=scratch) as counts:
        for block in texts_in_blocks(documents, _BLOCK):
            tokens = split(block.values())
            length = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
            terms = np.fromiter(
                (vocabulary.setdefault(term, len(vocabulary)) for found in tokens for term in found),
                dtype=np.int64,
                count=int(length.sum()),
            )
            # Term and document as one number: unique sorts by term, then by document.
            rows = np.repeat(np.arange(len(tokens)), length)
            pairs, occurrences = np.unique(terms * len(tokens) + rows, return_counts=True)
            terms, rows = np.divmod(pairs, len(tokens))
            in_documents = np.pad(in_documents, (0, len(vocabulary) - len(in_documents)))
            in_documents += np.bincount(terms, minlength=len(vocabulary))
            counts.write(np.stack([terms, rows + done, occurrences]).astype(np.int32).tobytes())
            blocks.append(len(pairs))
            names.append(IdList.of(block))
            terms_of.append(length)
            done += len(tokens)
            if progress is not None:
                progress(done, len(documents))
        bounds = np.concatenate([[0], np.cumsum(in_documents)])
        scores = _scratch(int(bounds[-1]), np.dtype(np.float32), scratch)
        documents_of = _scratch(int(bounds[-1]), np.dtype(np.int32), scratch)
        idf = np.log(1 + (done - in_documents + 0.5) / (in_documents + 0.5))
        length = np.concatenate(terms_of)
        mean = max(length.mean(), 1e-9)  # with no terms at all, no norm is used
        norms = k1 * (1 - b + b * (lucene_lengths(length) if lengths == "lucene" else length) / mean)
        free = bounds[:-1].copy()
        counts.seek(0)
        for terms, rows, occurrences in _read(counts, blocks):
            # How many postings of the same term come before each one in this block.
            groups, starts, sizes = np.unique(terms, return_index=True, return_counts=True)
            places = free[terms] + np.arange(len(terms)) - np.repeat(starts, sizes)
            scores[places] = idf[terms] * occurrences / (occurrences + norms[rows])
            documents_of[places] = rows
            free[groups] += sizes
    return Postings(IdList.joined(names), vocabulary, scores, documents_of, bounds)


def lucene_lengths(lengths: np.ndarray) -> np.ndarray:
    """The lengths that Lucene computes with: it keeps each in one byte, rounded down.

    Up to 40 they are exact. Above, what exceeds 24 has four significant bits (Lucene's ``SmallFloat.intToByte4``).
    The mean length is not rounded.

    Example:
        >>> lucene_lengths(np.array([39, 40, 41, 42, 57, 100, 215])).tolist()
        [39, 40, 40, 42, 56, 96, 200]
    """
    above = np.maximum(lengths - 24, 0)
    bits = np.frexp(above)[1]  # how many bits the number has
    shift = np.maximum(bits - 4, 0)
    return lengths - above + ((above >> shift) << shift)


def _read(file: IO[bytes], blocks: list[int]) -> Iterator[np.ndarray]:
    """The blocks of counts: (3, postings) with terms, rows and occurrences."""
    for size in blocks:
        yield np.frombuffer(file.read(3 * 4 * size), dtype=np.int32).reshape(3, size)


def _scratch(size: int, dtype: np.dtype, folder: Path | None) -> np.ndarray:
    """An array in a file without a name."""
    if not size:
        return np.zeros(0, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and would be a crash later
            os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
        return np.memmap(file, dtype=dtype, mode="w+", shape=(size,))
