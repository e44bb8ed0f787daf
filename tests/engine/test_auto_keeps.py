"""Which rows ``strategy="auto"`` keeps the activations of: the longest, since these take longest to run again."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import QUERIES

from cmp_rerank import ComparativeLoss, HingeRegularized, PairwiseHinge
from cmp_rerank.ablations import CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.memory import kept_bytes
from cmp_rerank.engine.rows import Step
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


def test_rows_that_are_expected_to_get_no_gradient_are_not_kept(tiny_model: CrossEncoder) -> None:
    """Gradients do not depend on it; a row that is a busy view, too, is kept."""
    tiny_model.double().train()
    plan = Plan([CmpDrop(p=0.3, steps=2)])
    batch = tokenise(tiny_model, [(QUERIES[0], text) for text in TEXTS], plan)
    views = [plan.views(example) for example in batch]
    views[0] = [views[0][0], views[0][1], views[0][1]]  # one computation for a busy step and an idle one
    kept: list[int] = []

    def note(_: Any, args: Any) -> None:
        if torch.is_grad_enabled():
            kept.append(len(args[0]["input_ids"]))

    found = []
    for idle, rows in (((), 3 * len(TEXTS) - 1), ((2,), 2 * len(TEXTS)), ((1, 2), len(TEXTS))):
        scorer = Scorer(CrossEncoderAdapter(), plan.on_model, activation_bytes=10**12)
        scorer(tiny_model, batch, views)  # what it finds out once, it finds out here
        kept.clear()
        hook = tiny_model[0].register_forward_pre_hook(note)
        scores = scorer(tiny_model, batch, views, idle)
        hook.remove()
        assert sum(kept) == rows
        (scores[:, 0] + 2 * scores[::2, 1].sum() - scores[1, 2]).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None]))
        tiny_model.zero_grad(set_to_none=True)
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-6, atol=1e-9)


def test_steps_without_weight_in_order_are_not_kept(tiny_model: CrossEncoder) -> None:
    """The comparison asks the objective which steps these are."""
    tiny_model.train()
    task = BinaryCrossEntropyLoss(tiny_model)
    columns, labels = [QUERIES[:2], TEXTS[:2]], torch.tensor([1.0, 0.0])
    asked: list[Any] = []
    for objective in (PairwiseHinge(), HingeRegularized(task="full"), HingeRegularized(task="full", detached=True)):
        loss = ComparativeLoss(tiny_model, task, [CmpDrop(p=0.3, steps=2)], objective=objective)
        with patch.object(Step, "of", wraps=Step.of) as of:
            loss(columns, labels)
        asked.append(of.call_args.args[3])
    assert asked == [[], [1, 2], [1, 2]]
