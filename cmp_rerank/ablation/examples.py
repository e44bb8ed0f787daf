"""From (query, passage) pairs to examples: tokenise once, know each token's segment and the support."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from cmp_rerank.ablation.views import Example, Plan
from cmp_rerank.segments import Span


@dataclass
class Truncation:
    """How much of the passages the model's window has cut, over everything tokenised so far."""

    passages: int = 0
    cut: int = 0
    characters: int = 0
    lost: int = 0

    def add(self, passage: str, seen: int) -> None:
        """Count a passage of which the model sees the first ``seen`` characters."""
        length = len(passage.rstrip())
        self.passages += 1
        self.characters += length
        if seen < length:
            self.cut += 1
            self.lost += length - seen

    def __str__(self) -> str:
        share = self.lost / max(self.characters, 1)
        return f"{self.cut} of {self.passages} passages were truncated and lost {share:.1%} of all characters"


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
        ValueError: for an empty passage, or for a crop where the tokenizer gives no offsets.
    """
    for number, (query, passage) in enumerate(pairs):
        if not passage.strip():
            raise ValueError(f"The passage of pair {number} is empty (query: {_shorten(query)!r}). Drop such pairs.")
    offsets = bool(getattr(model.tokenizer, "is_fast", False)) and set(model.modalities) == {"text"}
    if plan.crop and not offsets:
        raise ValueError(
            f"CmpCrop needs a fast tokenizer and plain text pairs to know which tokens belong to which segment; "
            f"got {type(model.tokenizer).__name__} and the modalities {model.modalities}. Use CmpDrop alone."
        )
    encoded = model.preprocess(
        [tuple(pair) for pair in pairs],
        processing_kwargs={
            "text": {"padding": False, **({"return_offsets_mapping": True} if offsets else {})},
            "common": {"return_tensors": None},
        },
        **preprocess,
    )
    lengths = [len(ids) for ids in encoded["input_ids"]]
    per_token, shared = {}, {}
    for name, value in encoded.items():
        if name in ("attention_mask", "offset_mapping", "special_tokens_mask"):
            continue
        rows = isinstance(value, list) and len(value) == len(lengths)
        if rows and all(hasattr(row, "__len__") and len(row) == n for row, n in zip(value, lengths, strict=True)):
            per_token[name] = [np.asarray(row) for row in value]
        else:
            shared[name] = value
    examples = []
    for number, (query, passage) in enumerate(pairs):
        segment = np.full(lengths[number], -1, dtype=np.int32)
        support: frozenset[int] = frozenset()
        if offsets:
            is_passage = np.array([i == 1 for i in encoded.sequence_ids(number)])
            ends = [
                end for (_, end), inside in zip(encoded["offset_mapping"][number], is_passage, strict=True) if inside
            ]
            if truncation is not None:
                truncation.add(passage, max(ends, default=0))
            if plan.crop:
                spans = plan.crop.segmenter(passage)
                segment[is_passage] = _segments_of(ends, spans)
                if relevant is None or relevant[number]:
                    alive = [int(i) for i in np.unique(segment) if i >= 0]
                    support = plan.crop.supporting(query, passage, spans, alive)
        features = {name: rows[number] for name, rows in per_token.items()}
        examples.append(Example(features, segment, support, example_seed(query, passage, draw), shared))
    return examples


def _segments_of(ends: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """The segment of each token, by its last character: a token may begin with the space before its word."""
    starts = [start for start, _ in spans]
    return [max(bisect_right(starts, max(end - 1, 0)) - 1, 0) for end in ends]


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
