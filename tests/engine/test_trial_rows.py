"""Rows made for trials: shorter than the one they are made of, and as special."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import PASSAGES, QUERIES, bart_config, byte_bpe, cross_encoder, t5_config

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, IndependentCopies
from cmp_rerank.ablations import Example, View
from cmp_rerank.engine.rows import shortened

END = 2


def row(ids: list[int], tokens: list[int] | None = None) -> tuple[Example, View]:
    example = Example({"input_ids": np.array(ids)}, segment=np.full(len(ids), -1))
    return example, example.full() if tokens is None else View(np.array(tokens), levels=(1,))


bodies = st.lists(st.integers(3, 9) | st.just(END), min_size=0, max_size=60)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=bodies, most=st.integers(2, 60), cuts=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_trial_rows(body: list[int], most: int, cuts: list[int]) -> None:
    """Their lengths are those asked for, their tokens those of the row in order, their special tokens all of them."""
    ids = [0, *body, END]
    made = shortened(row(ids), most, *cuts)
    free = sum(token not in (0, END) for token in ids)
    longest = max(min(len(ids), most), len(ids) - free)
    if longest - max(cuts) < len(ids) - free:
        assert made == []
        return
    assert [len(view) for _, view in made] == [longest - cut for cut in cuts]
    for example, view in made:
        kept = view.feature(example, "input_ids").tolist()
        assert kept.count(END) == ids.count(END)
        assert kept[0] == 0
        assert kept[-1] == END
        assert view.tokens.tolist() == sorted(set(view.tokens.tolist()))
        assert max(view.tokens) < len(ids)
    assert {view.levels for _, view in made} == {()}


def test_a_view_is_shortened_and_not_its_example() -> None:
    ((example, view),) = shortened(row([0, 7, 8, 9, END, 5, END], tokens=[0, 2, 3, 4, 6]), 40, 1)
    assert view.tokens.tolist() == [0, 2, 4, 6]
    assert view.levels == (1,)
    assert len(example) == 7


def test_rows_without_ids() -> None:
    """Whatever an adapter calls its features: then the ends stay."""
    example = Example({"patches": np.array([5, 5, 5, 5])}, segment=np.full(4, -1))
    assert [view.tokens.tolist() for _, view in shortened((example, example.full()), 40, 0, 2)] == [
        [0, 1, 2, 3],
        [0, 3],
    ]


@pytest.fixture(scope="module", params=[t5_config, bart_config], ids=["t5", "bart"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    """A classifier that wants the same number of end-of-text tokens in all rows of a batch."""
    folder: Path = tmp_path_factory.mktemp("classifier")
    return cross_encoder(folder, request.param, byte_bpe).train()


@pytest.mark.parametrize(
    ("columns", "labels"),
    [([["it"], ["a"]], [1.0]), ([[*QUERIES, "it"], [*PASSAGES, "a"]], [1.0, 0.0, 1.0, 0.0, 1.0])],
    ids=["short", "mixed"],
)
@pytest.mark.parametrize(
    "ablations",
    [[CmpDrop()], [CmpDrop(layers="top:1")], [CmpCrop(), CmpDrop(steps=2)], [IndependentCopies()]],
    ids=["drop", "trunk", "crop and drop", "copies"],
)
@pytest.mark.parametrize("unpadded", [False, True])
def test_trials_of_models_that_count_end_tokens(
    columns: Any, labels: list[float], ablations: Any, unpadded: bool, model: CrossEncoder
) -> None:
    """``strategy="auto"`` measures memory and tries modifiers on rows that it makes: the model must take them."""
    loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), ablations, unpadded=unpadded)
    torch.manual_seed(1)
    loss(columns, torch.tensor(labels)).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    model.zero_grad(set_to_none=True)
    end = model.tokenizer.eos_token_id
    ids = model.tokenizer("it", "a")["input_ids"]
    with pytest.raises(ValueError, match="same number of <eos> tokens"):  # the canary: the model does count
        model({"input_ids": torch.tensor([ids, [i if place < 4 else 7 for place, i in enumerate(ids)]]),
               "attention_mask": torch.ones(2, len(ids), dtype=torch.long)})  # fmt: skip
    assert ids.count(end) == 3
