"""A share of the examples is compared: over all draws the loss and the gradient are those of comparing all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import (
    BinaryCrossEntropyLoss,
    ListNetLoss,
    MultipleNegativesRankingLoss,
)
from slow_loop import gradients, same_gradients
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, HingeRegularized, IndependentCopies, PairwiseHinge, RDrop
from cmp_rerank.ablations import Example, Plan
from cmp_rerank.ablations.base import derived_seed
from cmp_rerank.engine import Scorer
from cmp_rerank.losses import core
from cmp_rerank.losses.core import Comparison, sampled
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter

N = 3
BOTH = [[PASSAGES[i], OTHERS[i]] for i in range(N)]
POINTWISE = BinaryCrossEntropyLoss, [QUERIES[:N], PASSAGES[:N]], torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
LISTWISE = ListNetLoss, [QUERIES[:N], BOTH], [torch.tensor([1.0, 0.0], dtype=torch.float64)] * N
IN_BATCH = MultipleNegativesRankingLoss, [QUERIES[:N], PASSAGES[:N]], None
STEPS = [CmpCrop(), CmpDrop(p=0.3)]


def run(
    model: CrossEncoder, kind: Any, columns: Any, labels: Any, *options: Any, **more: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of one batch."""
    torch.manual_seed(0)  # what a loss draws
    task = kind(model, num_negatives=2) if kind is MultipleNegativesRankingLoss else kind(model)
    value = ComparativeLoss(model, task, *options, **more)(columns, labels)
    value.backward()  # type: ignore[union-attr]
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    return value.detach(), found  # type: ignore[union-attr]


def fixed(chosen: tuple[bool, ...]) -> Callable[..., list[bool]]:
    """In place of `sampled`: the owners that are drawn."""
    return lambda owner, examples, share: [chosen[number] for number in owner]


HINGE, FULL = PairwiseHinge(), HingeRegularized(2.0, task="full")


@pytest.mark.parametrize(
    ("batch", "ablations", "objective"),
    [
        (POINTWISE, STEPS, HINGE),
        (POINTWISE, IndependentCopies(STEPS[1]), RDrop()),
        (LISTWISE, STEPS, FULL),
        (IN_BATCH, STEPS, FULL),
    ],
    ids=["pointwise", "with outputs", "listwise", "in-batch"],
)
def test_the_expectation_is_that_of_comparing_all(
    batch: Any, ablations: Any, objective: Any, tiny_model: CrossEncoder
) -> None:
    """The oracle: the loss and the gradient of every possible draw, each times its probability."""
    model = tiny_model.double().train()
    share = 0.4
    value, found = torch.zeros(()), dict[str, Tensor]()
    seen = []
    for chosen in product((False, True), repeat=N):
        with patch.object(core, "sampled", fixed(chosen)):
            one, grads = run(model, *batch, ablations, objective=objective, compare_share=share)
        seen.append(one)
        chance = share ** sum(chosen) * (1 - share) ** (N - sum(chosen))
        value = value + chance * one
        found = {name: found.get(name, 0) + chance * grad for name, grad in grads.items()}
    assert len({round(float(each), 6) for each in seen}) > N, "the draws do not differ"
    expected, all_grads = run(model, *batch, ablations, objective=objective)
    torch.testing.assert_close(value, expected, check_dtype=False)
    # Masks scale in single precision, so small entries agree relative to the largest only.
    same_gradients(found, all_grads, rtol=1e-5, atol=1e-6 * max(float(g.abs().max()) for g in all_grads.values()))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=12), st.floats(0.05, 0.95), st.integers(0, 10**6), st.randoms()
)
def test_owners_are_drawn_as_a_whole_and_whatever_is_beside_them(
    owner: list[int], share: float, seed: int, random: Any
) -> None:
    examples = [Example({}, np.zeros(1), seed=derived_seed(f"{seed} {i}")) for i in range(len(owner))]
    drawn = sampled(owner, examples, share)
    for number in set(owner):
        own = [i for i, each in enumerate(owner) if each == number]
        assert len({drawn[i] for i in own}) == 1
        order = random.sample(own, len(own))
        assert sampled([0] * len(own), [examples[i] for i in order], share) == [drawn[i] for i in own]
    more = sampled(owner, examples, min(1.0, share + 0.3))
    assert all(after or not before for before, after in zip(drawn, more, strict=True))


def test_the_share_is_what_was_asked_for() -> None:
    examples = [Example({}, np.zeros(1), seed=derived_seed(str(i))) for i in range(4000)]
    for share in (0.1, 0.5, 0.9):
        drawn = sum(sampled(range(4000), examples, share)) / 4000
        assert abs(drawn - share) < 4.5 * (share * (1 - share) / 4000) ** 0.5


def rows_of(model: CrossEncoder, **options: Any) -> tuple[int, ComparativeLoss]:
    """How many rows a batch takes."""
    kind, columns, labels = POINTWISE
    loss = ComparativeLoss(model, kind(model), STEPS, strategy="stacked", **options)
    count = 0

    def note(_: Any, args: Any) -> None:
        nonlocal count
        count += len(args[0]["input_ids"])

    loss(columns, labels)  # what the engine finds out once
    hook = model[0].register_forward_pre_hook(note)
    loss(columns, labels)
    hook.remove()
    return count, loss


def test_others_are_scored_in_full_only_and_do_not_count_in_the_rates(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    assert rows_of(tiny_model)[0] == 3 * N
    with patch.object(core, "sampled", fixed((False, False, True))):
        rows, loss = rows_of(tiny_model, compare_share=0.3)
    assert rows == 3 + (N - 1)
    with patch.object(core, "sampled", fixed((False,) * N)):
        rows, none = rows_of(tiny_model, compare_share=0.3)
    assert rows == N
    assert loss.diagnostics.keys() - none.diagnostics.keys() == {"violation_rate", "beaten_rate", "zero_weight_rate"}
    assert float(loss.diagnostics["zero_weight_rate"]) in (0, 1 / 3, 2 / 3)  # of one example
    step = float(loss.diagnostics["task_loss_step_2"] - loss.diagnostics["task_loss_full"])
    assert step != 0
    full = float(none.diagnostics["task_loss_full"])
    assert full == pytest.approx(float(none.diagnostics["task_loss_step_2"]))


def test_a_share_of_one_is_what_it_was(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    with patch.object(core, "sampled", side_effect=AssertionError("nothing is drawn")):
        value, found = run(tiny_model, *POINTWISE, STEPS, compare_share=1)
    expected, all_grads = run(tiny_model, *POINTWISE, STEPS)
    assert torch.equal(value, expected)
    assert all(torch.equal(found[name], grad) for name, grad in all_grads.items())


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan"), True, "half", None])
def test_what_is_no_share_is_refused(share: Any) -> None:
    plan = Plan(STEPS)
    with pytest.raises(ValueError, match=r"compare_share must be .* got"):
        Comparison(plan, PairwiseHinge(), Scorer(CrossEncoderAdapter(), plan.on_model), compare_share=share)
