"""Strategy x loss x kind of encoder x chunk size x gradient checkpointing: all of it, and a part for every run."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from test_strategies import ENCODERS, GRADES, INPUTS, LISTS, LOSSES, PLAN, checkpoint_activations, close, gradients
from tiny_models import PASSAGES, QUERIES, cross_encoder

from cmp_rerank.losses import ComparativeLoss

#: Absolute positions; rotary, local and global; causal, last token; encoders with a decoder behind them.
KINDS = ["bert", "modernbert", "qwen3", "t5", "bart"]
ALL_LOSSES: dict[str, Any] = {**LOSSES, "cross-entropy": upstream.CrossEntropyLoss}
CASES = list(product(KINDS, ALL_LOSSES))
WAYS = list(product(["stacked", "hybrid", "trunk", "auto"], [1, 150, 10**6], [False, True]))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], CrossEncoder]:
    return {
        (kind, labels): cross_encoder(
            tmp_path_factory.mktemp(f"{kind}-{labels}"), *ENCODERS[kind], num_labels=labels
        ).double()
        for kind in KINDS
        for labels in (1, 3)
    }


def trained(model: CrossEncoder, loss: str, strategy: Any, tokens: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The value of a loss, and its gradients."""
    if loss == "cross-entropy":
        columns, labels = [QUERIES, PASSAGES], torch.tensor([0, 2, 1, 2])
    else:
        columns, labels = INPUTS.get(loss, ([QUERIES, LISTS], GRADES))
    torch.manual_seed(3)  # random negatives
    wrapped = ALL_LOSSES[loss](model)
    value = ComparativeLoss(model, wrapped, list(PLAN.ablations), strategy=strategy, tokens_per_chunk=tokens)(
        columns, labels
    )
    value.backward()
    return float(value.detach()), gradients(model)


def agree(model: CrossEncoder, kind: str, loss: str, ways: list[tuple[str, int, bool]]) -> None:
    # Rotary positions, norms and T5's attention compute in float32, whatever the model's precision.
    tolerance = {"bert": 1e-9, "t5": 1e-5}.get(kind, 1e-6)
    model.train()
    expected, gradient = trained(model, loss, "naive", 10**6)
    for checkpointing in sorted({way[2] for way in ways}):
        if checkpointing:
            checkpoint_activations(model)
        try:
            for strategy, tokens, _ in [way for way in ways if way[2] == checkpointing]:
                value, found = trained(model, loss, strategy, tokens)
                assert value == pytest.approx(expected, rel=tolerance), (strategy, tokens, checkpointing)
                close(gradient, found, tolerance)
        finally:
            if checkpointing:
                model[0].model._set_gradient_checkpointing(enable=False)


@pytest.mark.parametrize(("kind", "loss"), CASES)
def test_a_part_of_the_product(kind: str, loss: str, encoders: dict[tuple[str, int], CrossEncoder]) -> None:
    """One way for each loss and encoder, such that each way comes up twice or more."""
    way = WAYS[5 * CASES.index((kind, loss)) % len(WAYS)]
    agree(encoders[kind, 3 if loss == "cross-entropy" else 1], kind, loss, [way])


def test_the_part_has_every_way() -> None:
    seen = [WAYS[5 * number % len(WAYS)] for number in range(len(CASES))]
    assert set(seen) == set(WAYS)
    assert len(ALL_LOSSES) == 12


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss"), CASES)
def test_the_whole_product(kind: str, loss: str, encoders: dict[tuple[str, int], CrossEncoder]) -> None:
    agree(encoders[kind, 3 if loss == "cross-entropy" else 1], kind, loss, WAYS)
