"""From (query, passage) pairs to examples: tokenise once, and let an ablation prepare what it needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from cmp_rerank.ablations import Ablation, Example, Plan, Prepared, TextPair
from cmp_rerank.ablations.base import PASSAGE, derived_seed
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter, pair_adapter
from cmp_rerank.models.encoding import Encoded, PairLayout


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
        not_cropped: passages that are not cropped, since their support was cut off.
    """

    passages: int = 0
    cut: int = 0
    characters: int = 0
    lost: int = 0
    support_cut: int = 0
    moved: int = 0
    not_cropped: int = 0

    def add(self, passage: str, seen: int) -> None:
        """Count a passage of which the model sees ``seen`` characters."""
        length = len(passage.rstrip())
        self.passages += 1
        self.characters += length
        if seen < length:
            self.cut += 1
            self.lost += length - seen

    def add_counts(self, other: Truncation) -> None:
        """Add the counts of others."""
        for each in fields(Truncation):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def __str__(self) -> str:
        share = self.lost / max(self.characters, 1)
        text = f"{self.cut} of {self.passages} passages were truncated and lost {share:.1%} of all characters"
        if self.support_cut:
            text += (
                f"; of {self.support_cut} some support was cut off ({self.moved} windows were moved to it, "
                f"{self.not_cropped} passages were not cropped)"
            )
        return text


def example_seed(query: str, passage: str, draw: str) -> int:
    """A 62-bit seed from the texts of an example and the name of the draw (seed and training step).

    It depends on nothing else, so that an example gets the same views on any row of any process.

    >>> example_seed("a", "b", "0") == example_seed("a", "b", "0") != example_seed("a", "b", "1")
    True
    """
    return derived_seed(f"{draw}\0{len(query)}\0{query}{passage}")


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
        plan: the ablation that must prepare, if any, divides passages and finds what supports their label.
        relevant: for each pair, whether the passage is relevant, so that it has support. Default: all.
        draw: name of the draw, see `example_seed`.
        truncation: counts what the window cut.
        **preprocess: passed on to ``model.preprocess`` (``prompt``, ``task``).

    Raises:
        ValueError: for an empty passage, for a segmenter whose spans are not in the passage, or for a crop where
            it is unknown which tokens are the passage's.
    """
    for number, (query, passage) in enumerate(pairs):
        if not passage.strip():
            raise ValueError(f"The passage of pair {number} is empty (query: {_shorten(query)!r}). Drop such pairs.")
    if not pairs:
        return []
    truncation = truncation if truncation is not None else Truncation()
    adapter, ablation = pair_adapter(model), plan.preparing
    encoded = adapter.encode(model, pairs, locate=ablation is not None, **preprocess)
    seeds = [example_seed(query, passage, draw) for query, passage in pairs]
    if ablation is None:
        for (_, passage), layout in zip(pairs, encoded.layouts, strict=True):
            truncation.add(passage, _seen(passage, layout))
        return [
            Example(features, np.where(layout.part == PASSAGE, 0, -1), seed=seed, shared=encoded.shared)
            for features, layout, seed in zip(encoded.features, encoded.layouts, seeds, strict=True)
        ]
    source = _Source(model, adapter, preprocess)
    making = [
        _Making(source, ablation, *pair, relevant is None or relevant[number], encoded, number)
        for number, pair in enumerate(pairs)
    ]
    _move([each for each in making if each.prepared.start is not None], source)
    for each in making:
        each.count(truncation)
    return [each.example(seed) for each, seed in zip(making, seeds, strict=True)]


def prepared_example(
    ablation: Ablation | None, pair: TextPair, features: dict[str, np.ndarray], seed: int = 0
) -> Example:
    """The example of a pair whose tokens are known already."""
    if ablation is None:
        return Example(features, np.where(pair.part == PASSAGE, 0, -1), seed=seed)
    return _example(pair, ablation.prepare(pair), features, seed, {})


def _example(
    pair: TextPair, prepared: Prepared, features: dict[str, np.ndarray], seed: int, shared: dict[str, Any]
) -> Example:
    segment = np.where(pair.part == PASSAGE, 0, -1) if prepared.segment is None else prepared.segment
    return Example(
        features,
        segment,
        prepared.support,
        seed,
        shared,
        prepared.until,
        prepared.croppable,
        prepared.notes,
    )


@dataclass(frozen=True)
class _Source:
    """Where tokens come from."""

    model: CrossEncoder
    adapter: CrossEncoderAdapter
    preprocess: dict[str, Any]

    def encode(self, pairs: Sequence[tuple[str, str]], truncation: bool = True) -> Encoded:
        return self.adapter.encode(self.model, pairs, truncation=truncation, **self.preprocess)


class _Making:
    """One pair on its way to an example."""

    def __init__(
        self,
        source: _Source,
        ablation: Ablation,
        query: str,
        passage: str,
        relevant: bool,
        encoded: Encoded,
        place: int,
    ) -> None:
        self.source, self.ablation = source, ablation
        self.query, self.passage, self.relevant = query, passage, relevant
        self.support_cut = False
        self._all_offsets: np.ndarray | None = None
        self.take(encoded, place, 0)

    def take(self, encoded: Encoded, place: int, start: int) -> None:
        """Take what the model sees of a passage that begins ``start`` characters into the whole one."""
        self.features, self.shared = encoded.features[place], encoded.shared
        layout = encoded.layouts[place]
        window = (start, start + _seen(self.passage[start:], layout))
        offsets = layout.offsets + start
        if not start and not layout.truncated:
            self._all_offsets = offsets
        self.pair = TextPair(
            self.query, self.passage, self.relevant, layout.part, offsets, window, self._offsets_of_all
        )
        self.prepared = self.ablation.prepare(self.pair)
        self.support_cut |= self.prepared.support_cut

    def _offsets_of_all(self) -> np.ndarray:
        if self._all_offsets is None:
            self._all_offsets = self.source.encode([(self.query, self.passage)], truncation=False).layouts[0].offsets
        return self._all_offsets

    def count(self, truncation: Truncation) -> None:
        window = self.pair.window
        truncation.add(self.passage, window[1] - window[0])
        truncation.support_cut += self.support_cut
        truncation.moved += window[0] > 0
        truncation.not_cropped += not self.prepared.croppable

    def example(self, seed: int) -> Example:
        return _example(self.pair, self.prepared, self.features, seed, self.shared)


def _move(making: Sequence[_Making], source: _Source) -> None:
    """Tokenise pairs again, with passages that begin later, as their ablation asked."""
    if not making:
        return
    starts = [each.prepared.start or 0 for each in making]
    again = source.encode([(each.query, each.passage[start:]) for each, start in zip(making, starts, strict=True)])
    for place, (each, start) in enumerate(zip(making, starts, strict=True)):
        each.take(again, place, start)


def _seen(passage: str, layout: PairLayout) -> int:
    """How many characters of the passage the model sees; all of them where nothing was cut."""
    return int(layout.offsets[:, 1].max(initial=0)) if layout.truncated else len(passage)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
