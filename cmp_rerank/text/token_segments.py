"""Which segments of a text its tokens belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmp_rerank.text.segmenters import CharSpan


def segments_of_tokens(offsets: np.ndarray, spans: Sequence[CharSpan]) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last segment that each token touches, int64 of shape (T,) each.

    A token between two segments (white space, mostly) belongs to the one after it, a token after all segments to the
    last one.

    Args:
        offsets: (T, 2) characters of each token.
        spans: the segments, in order.

    Example:
        >>> first, last = segments_of_tokens(np.array([[0, 2], [2, 3], [2, 5], [4, 7]]), [(0, 2), (3, 5), (5, 7)])
        >>> first.tolist(), last.tolist()
        ([0, 1, 1, 1], [0, 1, 1, 2])
    """
    if not len(spans) or not len(offsets):
        # No segment: nothing can be cropped.
        return np.full(len(offsets), -1, dtype=np.int64), np.full(len(offsets), -1, dtype=np.int64)
    starts, ends = np.array(spans, dtype=np.int64).T
    begin, end = offsets[:, 0], np.maximum(offsets[:, 1], offsets[:, 0] + 1)
    # In a gap, the segment after it: SentencePiece may make a token of the space before a word.
    first = np.minimum(np.searchsorted(ends, begin, side="right"), len(spans) - 1)
    last = np.maximum(np.searchsorted(starts, end, side="left") - 1, first)
    return first, last


def touched(first: np.ndarray, last: np.ndarray) -> list[int]:
    """The segments that any token touches, as `segments_of_tokens` gives them.

    Example:
        >>> touched(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 2]))
        [0, 1, 2]
    """
    inside = first >= 0
    if not inside.any():
        return []
    size = int(last.max()) + 2
    edges = np.bincount(first[inside], minlength=size) - np.bincount(last[inside] + 1, minlength=size)
    return [int(i) for i in np.flatnonzero(np.cumsum(edges) > 0)]
