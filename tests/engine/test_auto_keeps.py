"""Which rows ``strategy="auto"`` keeps the activations of: the longest, since these take longest to run again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import QUERIES

from cmp_rerank.ablations import CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.memory import kept_bytes
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

PLAN = Plan([CmpDrop(p=0.3)])
#: Of different lengths, the longest neither first nor last.
TEXTS = [" ".join(["Pandas eat bamboo."] * number) for number in (3, 6, 8, 5, 7, 4)]


def passes(model: CrossEncoder, scorer: Scorer) -> tuple[list[int], list[int], int]:
    """Row lengths of the passes with activations kept, those without, and the bytes that are kept."""
    pairs = [(QUERIES[0], text) for text in TEXTS]
    batch = tokenise(model, pairs, PLAN)
    kept: list[int] = []
    run_again: list[int] = []

    def note(_: Any, args: Any) -> None:
        lengths = args[0]["attention_mask"].sum(dim=1).tolist()
        (kept if torch.is_grad_enabled() else run_again).extend(lengths)

    views = [PLAN.views(example) for example in batch]
    scorer(model.train(), batch, views)  # what it finds out once, it finds out here
    hook = model[0].register_forward_pre_hook(note)
    with kept_bytes(model) as size:
        scores = scorer(model, batch, views)
    hook.remove()
    scores.sum().backward()
    model.zero_grad(set_to_none=True)
    return sorted(kept), sorted(run_again), size[0]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_longest_rows_are_kept_and_the_shortest_run_again(share: float, tiny_model: CrossEncoder) -> None:
    everything, nothing, most = passes(tiny_model, Scorer(CrossEncoderAdapter(), PLAN.on_model, strategy="stacked"))
    full, ablated, least = passes(tiny_model, Scorer(CrossEncoderAdapter(), PLAN.on_model, strategy="hybrid"))
    assert len(everything) == 2 * len(TEXTS)
    assert not nothing
    assert full == ablated  # one ablated row for each row of the full model
    scorer = Scorer(CrossEncoderAdapter(), PLAN.on_model, activation_bytes=int(least + share * (most - least)))
    kept, run_again, _ = passes(tiny_model, scorer)
    more = kept.copy()
    for length in full:
        more.remove(length)
    assert more
    assert run_again  # the canary: some are kept, and some are not
    assert more == ablated[len(run_again) :]
    assert run_again == ablated[: len(run_again)]
