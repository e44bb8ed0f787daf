"""Texts that are nearly the same: found by minhash, each pair checked exactly."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from cmp_rerank.text.terms import terms


def shingles(text: str, size: int = 3) -> np.ndarray:
    """Sorted 32-bit hashes of the distinct runs of ``size`` words in ``text``; the same on every machine.

    Words are those of :func:`cmp_rerank.text.terms.terms`: in scripts without spaces each character is one. A text
    without a word, such as one of emoji, is compared by what stands between its spaces.
    """
    tokens = terms(text) or text.casefold().split()
    grams = {" ".join(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1))}
    return np.unique(
        np.fromiter(
            (zlib.crc32(gram.encode(errors="surrogatepass")) for gram in grams), dtype=np.uint32, count=len(grams)
        )
    )


def near_duplicates(texts: Sequence[str], threshold: float = 0.5, size: int = 3, seed: int = 0) -> list[list[int]]:
    """Groups of texts that are nearly the same: connected by pairs whose shingles overlap by ``threshold`` or more.

    Minhash signatures (Broder 1997) in bands find candidate pairs. Each is then checked exactly (Jaccard), so there
    are no false pairs. A pair above the threshold may be missed: with 16 bands of 4 rows, with
    probability 0.36 at a similarity of 0.5 and 0.01 at 0.7.

    Args:
        texts: the texts.
        threshold: the least Jaccard similarity of two near-duplicates, in (0, 1].
        size: words per shingle.
        seed: of the hash functions.

    Returns:
        Groups of two or more indices, ascending, ordered by their first.

    >>> near_duplicates(["one two three four five", "something else entirely here", "one two three four six"])
    [[0, 2]]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1]; got {threshold!r}.")
    bands, rows = 16, 4
    sets = [shingles(text, size) for text in texts]
    generator = np.random.default_rng(seed)
    factor = generator.integers(1, 2**32, size=bands * rows, dtype=np.uint64) | np.uint64(1)
    offset = generator.integers(0, 2**32, size=bands * rows, dtype=np.uint64)
    buckets: dict[Hashable, list[int]] = defaultdict(list)
    for index, hashes in enumerate(sets):
        # Multiply-shift: the upper half of the 64-bit product is a universal hash of the 32-bit shingle.
        mixed = (hashes.astype(np.uint64)[:, None] * factor + offset) >> np.uint64(16)
        signature = (mixed & np.uint64(0xFFFFFFFF)).min(axis=0)
        for band in range(bands):
            buckets[band, signature[band * rows : (band + 1) * rows].tobytes()].append(index)
    parent = list(range(len(texts)))
    for bucket in buckets.values():
        first = bucket[0]
        for other in bucket[1:]:
            # Checking against the bucket's first only keeps this linear; chains are closed by other bands.
            if _find(parent, first) != _find(parent, other) and _jaccard(sets[first], sets[other]) >= threshold:
                parent[max(_find(parent, first), _find(parent, other))] = min(
                    _find(parent, first), _find(parent, other)
                )
    return _groups(_find(parent, index) for index in range(len(texts)))


def same_keys(keys: Iterable[Hashable]) -> list[list[int]]:
    """Groups of two or more positions that hold the same key, ordered by their first.

    >>> same_keys("abca")
    [[0, 3]]
    """
    return _groups(keys)


def _groups(keys: Iterable[Hashable]) -> list[list[int]]:
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return [group for group in found.values() if len(group) > 1]


def _find(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
