"""From (query, passage) pairs to examples: tokenise once, know each token's segments and the support."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from cmp_rerank.ablations.crop import CmpCrop, Support
from cmp_rerank.ablations.views import Example, Plan
from cmp_rerank.models.encoding import PASSAGE, Encoded, Located, encode
from cmp_rerank.text.segmenters import CharSpan, TokenWindows, check_segments
from cmp_rerank.text.support import GivenSupport


@dataclass
class Truncation:
    """How much of the passages the model's window has cut, over everything tokenised so far.

    Attributes:
        passages: how many passages there were.
        cut: how many of them were longer than the window.
        characters: how many characters they had.
        lost: how many of those the model does not see.
        support_cut: passages of which supporting text was cut off.
        moved: of those, the passages whose window was moved so that it is seen.
        dropped: of those, the passages that were dropped from cropping.
    """

    passages: int = 0
    cut: int = 0
    characters: int = 0
    lost: int = 0
    support_cut: int = 0
    moved: int = 0
    dropped: int = 0

    def add(self, passage: str, seen: int) -> None:
        """Count a passage of which the model sees ``seen`` characters."""
        length = len(passage.rstrip())
        self.passages += 1
        self.characters += length
        if seen < length:
            self.cut += 1
            self.lost += length - seen

    def __str__(self) -> str:
        share = self.lost / max(self.characters, 1)
        told = f"{self.cut} of {self.passages} passages were truncated and lost {share:.1%} of all characters"
        if self.support_cut:
            told += (
                f"; of {self.support_cut} some support was cut off ({self.moved} windows were moved to it, "
                f"{self.dropped} passages were not cropped)"
            )
        return told


def example_seed(query: str, passage: str, draw: str) -> int:
    """A 62-bit seed from the texts of an example and the name of the draw (seed and training step).

    It depends on nothing else, so that an example gets the same views on any row of any process.

    >>> example_seed("a", "b", "0") == example_seed("a", "b", "0") != example_seed("a", "b", "1")
    True
    """
    digest = hashlib.blake2b(f"{draw}\0{len(query)}\0{query}{passage}".encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 2


def tokenise(
    model: CrossEncoder,
    pairs: Sequence[tuple[str, str]],
    plan: Plan,
    *,
    relevant: Sequence[bool] | None = None,
    draw: str = "",
    truncation: Truncation | None = None,
    **preprocess: Any,
) -> list[Example]:
    """Tokenise each pair once, by the model's own preprocessing and truncation, unpadded.

    Args:
        model: the cross-encoder.
        pairs: (query, passage) texts.
        plan: its crop, if any, says how a passage is split and what supports its label.
        relevant: for each pair, whether the passage is relevant, so that it has support. Default: all.
        draw: name of the draw, see `example_seed`.
        truncation: counts what the window cut.
        **preprocess: passed on to ``model.preprocess`` (``prompt``, ``task``).

    Raises:
        ValueError: for an empty passage, for a segmenter whose spans are not in the passage, or for a crop where it
            cannot be told which tokens are the passage's.
    """
    for number, (query, passage) in enumerate(pairs):
        if not passage.strip():
            raise ValueError(f"The passage of pair {number} is empty (query: {_shorten(query)!r}). Drop such pairs.")
    if not pairs:
        return []
    truncation = truncation if truncation is not None else Truncation()
    encoded = encode(model, pairs, locate=plan.crop is not None, **preprocess)
    seeds = [example_seed(query, passage, draw) for query, passage in pairs]
    if plan.crop is None:
        for (_, passage), located in zip(pairs, encoded.located, strict=True):
            truncation.add(passage, _seen(passage, located))
        return [
            Example(features, np.where(located.part == PASSAGE, 0, -1), seed=seed, shared=encoded.shared)
            for features, located, seed in zip(encoded.features, encoded.located, seeds, strict=True)
        ]
    offsets = _offsets_to_split(model, pairs, plan.crop, encoded, preprocess)
    crops = [
        _Cropping(plan.crop, *pair, relevant is None or relevant[number], offsets[number], encoded, number)
        for number, pair in enumerate(pairs)
    ]
    moving = [crop for crop in crops if crop.support.lost and plan.crop.lost_support == "move"]
    if moving:
        _move(model, moving, preprocess)
    for crop in crops:
        crop.count(truncation)
    return [crop.example(seed) for crop, seed in zip(crops, seeds, strict=True)]


def _offsets_to_split(
    model: CrossEncoder,
    pairs: Sequence[tuple[str, str]],
    crop: CmpCrop,
    encoded: Encoded,
    preprocess: dict[str, Any],
) -> list[np.ndarray]:
    """The tokens that a segmenter of tokens is to split; beyond the window too, if given support may be there."""
    offsets = [located.offsets for located in encoded.located]
    if isinstance(crop.segmenter, TokenWindows) and isinstance(crop.support, GivenSupport):
        cut = [i for i, located in enumerate(encoded.located) if located.cut]
        if cut:
            whole = encode(model, [pairs[i] for i in cut], truncation=False, **preprocess)
            for i, located in zip(cut, whole.located, strict=True):
                offsets[i] = located.offsets
    return offsets


def cropped(
    crop: CmpCrop, query: str, passage: str, relevant: bool, encoded: Encoded, truncation: Truncation, seed: int
) -> Example:
    """The example of the first pair of a batch that is encoded already, whole."""
    one = _Cropping(crop, query, passage, relevant, encoded.located[0].offsets, encoded, 0)
    one.count(truncation)
    return one.example(seed)


class _Cropping:
    """One pair on its way to an example: its segments, its support, and the part of it that the model sees."""

    def __init__(
        self,
        crop: CmpCrop,
        query: str,
        passage: str,
        relevant: bool,
        offsets: np.ndarray,
        encoded: Encoded,
        place: int,
    ) -> None:
        self.crop, self.query, self.passage, self.relevant = crop, query, passage, relevant
        segmenter = crop.segmenter
        spans = segmenter.of_tokens(offsets) if isinstance(segmenter, TokenWindows) else segmenter(passage)
        name = getattr(segmenter, "__name__", type(segmenter).__name__)
        self.spans = check_segments(passage, spans, f"Segments by {name}")
        self.support_cut = False
        self.locate(encoded, place, 0)

    def locate(self, encoded: Encoded, place: int, start: int) -> None:
        """Take what the model sees of a passage that begins ``start`` characters into the whole one."""
        self.features, self.shared = encoded.features[place], encoded.shared
        located = encoded.located[place]
        self.inside = located.part == PASSAGE
        self.window: CharSpan = (start, start + _seen(self.passage[start:], located))
        self.first, self.last = segments_of_tokens(located.offsets + start, self.spans)
        self.support = Support()
        if self.relevant:
            seen = _covered(self.first, self.last)
            self.support = self.crop.supporting(self.query, self.passage, self.spans, seen, self.window)
        self.support_cut |= bool(self.support.lost)

    @property
    def croppable(self) -> bool:
        return not self.support.lost or self.crop.lost_support == "ignore"

    def count(self, truncation: Truncation) -> None:
        truncation.add(self.passage, self.window[1] - self.window[0])
        truncation.support_cut += self.support_cut
        truncation.moved += self.window[0] > 0
        truncation.dropped += not self.croppable

    def example(self, seed: int) -> Example:
        segment = np.full(len(self.inside), -1, dtype=np.int64)
        until = segment.copy()
        segment[self.inside], until[self.inside] = self.first, self.last
        return Example(self.features, segment, self.support.kept, seed, self.shared, until, self.croppable)


def _move(model: CrossEncoder, crops: Sequence[_Cropping], preprocess: dict[str, Any]) -> None:
    """Tokenise pairs again, with passages that begin at a later segment: as early as their support is seen whole."""
    pairs = [(crop.query, crop.passage) for crop in crops]
    starts = []
    for crop, located in zip(crops, encode(model, pairs, truncation=False, **preprocess).located, strict=True):
        wanted = crop.support.kept | crop.support.lost
        begin, end = crop.spans[min(wanted)][0], crop.spans[max(wanted)][1]
        first = int(np.searchsorted(located.offsets[:, 1], begin, side="right"))
        after = int(np.searchsorted(located.offsets[:, 0], end, side="left"))
        earliest = min(max(after - int(crop.inside.sum()), 0), first, len(located.offsets) - 1)
        at = int(located.offsets[earliest, 0])
        starts.append(min(next((left for left, _ in crop.spans if left >= at), begin), begin))
    shorter = [(crop.query, crop.passage[start:]) for crop, start in zip(crops, starts, strict=True)]
    again = encode(model, shorter, **preprocess)
    for place, (crop, start) in enumerate(zip(crops, starts, strict=True)):
        crop.locate(again, place, start)


def segments_of_tokens(offsets: np.ndarray, spans: Sequence[CharSpan]) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last segment that each token touches, int64 of shape (T,) each.

    What stands between two segments (white space, mostly) goes with the one after it, what stands behind all of
    them with the last.

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


def _covered(first: np.ndarray, last: np.ndarray) -> list[int]:
    """The segments that any token touches."""
    inside = first >= 0
    if not inside.any():
        return []
    edges = np.zeros(int(last.max()) + 2, dtype=np.int64)
    np.add.at(edges, first[inside], 1)
    np.add.at(edges, last[inside] + 1, -1)
    return [int(i) for i in np.flatnonzero(np.cumsum(edges[:-1]) > 0)]


def _seen(passage: str, located: Located) -> int:
    """How many characters of the passage the model sees; all of them where nothing was cut."""
    return int(located.offsets[:, 1].max(initial=0)) if located.cut else len(passage)


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
