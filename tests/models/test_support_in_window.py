"""A scorer of support is asked of what the model sees of a passage, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream

from cmp_rerank import CmpCrop, ComparativeLoss

PASSAGE = "Pandas eat bamboo. They live in China and they are bears and they like honey. Honey is sweet."


class Asked:
    """A scorer that remembers the segments it was asked of."""

    def __init__(self) -> None:
        self.segments: list[str] = []

    def __call__(self, query: str, segments: Sequence[str]) -> list[float]:
        self.segments = list(segments)
        return [1.0] * len(segments)


@pytest.mark.parametrize("tokens", [12, 14, 18, 25, 128])
def test_segments_are_clipped_to_the_window(tokens: int, tiny_model: CrossEncoder) -> None:
    asked = Asked()
    tiny_model.train().max_seq_length = tokens
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop(support=asked)])
    query = "who eats"
    loss([[query], [PASSAGE]], torch.ones(1))
    encoded = tiny_model.tokenizer(query, PASSAGE, truncation=True, max_length=tokens, return_offsets_mapping=True)
    ends = [end for (_, end), of in zip(encoded["offset_mapping"], encoded.sequence_ids(), strict=True) if of == 1]
    seen = PASSAGE[: max(ends)]
    assert (seen == PASSAGE) == (tokens == 128)  # the canary: it is cut
    assert "".join(asked.segments).replace(" ", "") == seen.replace(" ", "")
    assert all(segment in seen for segment in asked.segments)
