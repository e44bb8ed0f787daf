"""Rows that are the same computation run once, and have one score, whichever examples they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from test_strategies import close, gradients
from tiny_models import cross_encoder
from torch import Tensor

from cmp_rerank.ablations import CmpCrop, CmpDrop, Example, FixedCounts, IndependentCopies, Plan, View
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.rows import computation, pooled
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise
from cmp_rerank.models.span_reader import SpanReaderAdapter

ADAPTER = CrossEncoderAdapter()
QUERY = "what do bears eat"
# Their first sentence supports the label; what the crop takes away differs, also in length.
SAME = [f"Bears eat fish. {rest}" for rest in ("They live here.", "Their fur is brown and long.", "They sleep.")]
OTHER = "Pandas eat bamboo. They are bears."


def counted(model: CrossEncoder) -> list[int]:
    """The numbers of rows of all passes from now on."""
    seen: list[int] = []
    model[0].model.bert.encoder.layer[-1].register_forward_hook(lambda _, __, out: seen.append(len(out)))
    return seen


def scored(model: CrossEncoder, plan: Plan, passages: list[str], **options: Any) -> Tensor:
    """Scores of all views; each passage with the query, and relevant."""
    batch = tokenise(model, [(QUERY, passage) for passage in passages], plan, draw="0")
    return Scorer(ADAPTER, plan.on_model, **options)(model, batch, [plan.views(example) for example in batch])


def first(_: str, segments: Sequence[str]) -> list[float]:
    return [float(number == 0) for number in range(len(segments))]


CROP = CmpCrop(schedule=FixedCounts((0,)), support=first)


def slow_computation(example: Example, view: View, by_position: bool) -> Any:
    """All that the scores of a row depend on, token by token."""
    inputs = [
        [(name, int(view.features.get(name, values)[token])) for name, values in sorted(example.features.items())]
        for token in view.tokens
    ]
    copy = view.copy
    positions = view.tokens.tolist() if by_position or any(view.levels) else None
    masks = None
    if any(view.levels):
        masks = example.seed_of(copy), {number: level for number, level in enumerate(view.levels) if level}
    return inputs, positions, masks, copy


@st.composite
def rows(draw: st.DrawFn) -> tuple[Example, View]:
    """Rows of few different texts, tokens, levels and seeds, so that many are equal."""
    ids = draw(st.lists(st.integers(1, 2), min_size=2, max_size=3))
    kind = draw(st.sampled_from([np.int8, np.int64]))  # a token store has them in as few bytes as they need
    example = Example({"input_ids": np.array(ids, dtype=kind)}, np.zeros(len(ids)), seed=draw(st.integers(0, 1)))
    tokens = np.array(sorted(draw(st.sets(st.integers(0, len(ids) - 1), min_size=1))))
    levels = draw(st.sampled_from([(), (0,), (0, 0), (1,), (1, 0), (0, 1)]))
    replaced = {"input_ids": np.ones(len(ids), dtype=np.int64)} if draw(st.booleans()) else {}
    return example, View(tokens, levels, replaced, draw(st.integers(0, 1)))


@settings(deadline=None)
@given(st.lists(rows(), min_size=1, max_size=12), st.booleans())
def test_rows_are_pooled_by_what_their_scores_depend_on(many: list[tuple[Example, View]], by_position: bool) -> None:
    kept, index = pooled(
        [example for example, _ in many],
        [[view] for _, view in many],
        lambda i, k, row: computation(row, by_position),
    )
    known = [slow_computation(*row, by_position) for row in many]
    found = index[:, 0].tolist()
    for i, one in enumerate(known):
        assert slow_computation(*kept[found[i]], by_position) == one
        for j, other in enumerate(known):
            assert (found[i] == found[j]) == (one == other)
    assert sorted(set(found)) == list(range(len(kept)))


def test_passages_that_a_crop_makes_equal_have_one_score(tiny_model: CrossEncoder) -> None:
    """In any chunks: rows of several lengths round differently."""
    plan = Plan([CROP, CmpDrop(p=0.3)])
    for tokens in (1, 40, 10**6):
        scores = scored(tiny_model.train(), plan, [*SAME, OTHER], tokens_per_chunk=tokens)[..., 0]
        full, cropped, dropped = scores.T.tolist()
        assert len(set(full)) == 4
        assert cropped[0] == cropped[1] == cropped[2] != cropped[3]
        assert len(set(dropped)) == 4  # masks are those of the whole texts


def test_equal_texts_have_one_score_at_every_step(tiny_model: CrossEncoder) -> None:
    plan = Plan([CROP, CmpDrop(p=0.3, steps=2)])
    seen = counted(tiny_model.train())
    scored(tiny_model, plan, [SAME[0], OTHER], strategy="stacked")
    two = sum(seen)
    scores = scored(tiny_model, plan, [SAME[0], OTHER, SAME[0]], strategy="stacked")
    assert torch.equal(scores[0], scores[2])
    assert not torch.equal(scores[0], scores[1])
    assert sum(seen) == 2 * two


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk", "auto"])
def test_gradients_are_those_of_a_row_for_each(strategy: Any, tmp_path: Path) -> None:
    model = cross_encoder(tmp_path).double().train()
    plan = [CROP, CmpDrop(p=0.3, layers="top:1", steps=2)]
    columns = [[QUERY, QUERY], [[*SAME, SAME[0]], [OTHER, SAME[1]]]]
    labels = [torch.tensor([2.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0])]
    found = []
    for way in ("naive", strategy):
        loss = ComparativeLoss(model, upstream.ListNetLoss(model), plan, strategy=way, tokens_per_chunk=60)
        value = loss(columns, labels)
        value.backward()
        found.append((float(value.detach()), gradients(model)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    close(found[0][1], found[1][1], 1e-6)  # ListNet computes in float32


def test_the_models_own_dropout_draws_for_each_example(tiny_model: CrossEncoder) -> None:
    plan = Plan([CROP])
    scores = scored(tiny_model.train(), plan, [SAME[0], SAME[0]])
    assert (scores[0] != scores[1]).all()
    assert torch.equal(*scored(tiny_model.eval(), plan, [SAME[0], SAME[0]]))
    for module in tiny_model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert torch.equal(*scored(tiny_model, plan, [SAME[0], SAME[0]]))


def test_copies_of_one_example_stay_apart(tiny_model: CrossEncoder) -> None:
    plan = Plan([IndependentCopies(CmpDrop(p=0.3), steps=2)])
    scores = scored(tiny_model.train(), plan, [SAME[0], SAME[0]])[..., 0]
    assert len(set(scores[0].tolist())) == 3
    assert torch.equal(scores[0], scores[1])


def test_scores_of_tokens_belong_to_their_positions() -> None:
    assert SpanReaderAdapter.by_position
    example = Example({"input_ids": np.array([5, 7, 7])}, np.zeros(3))
    one, other = (example, View(np.array([0, 1]))), (example, View(np.array([0, 2])))
    assert computation(one) == computation(other)
    assert computation(one, by_position=True) != computation(other, by_position=True)
