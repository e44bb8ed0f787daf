"""A loss whose examples depend on each other's scores cannot be compared per example, and is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import PASSAGES, QUERIES
from torch import Tensor, nn

from cmp_rerank import CmpDrop, ComparativeLoss

LABELS = torch.tensor([1.0, 0.0, 1.0, 1.0])


class Transformed(nn.Module):
    """The squared error of scores that are transformed first; its criterion can be told to give every example's."""

    def __init__(self, model: CrossEncoder, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.transform = transform
        self.criterion = nn.MSELoss()

    def forward(self, inputs: list[list[str]], labels: Tensor) -> Tensor:
        scores = self.model(self.model.preprocess(list(zip(*inputs, strict=True))))["scores"].view(-1)
        return self.criterion(self.transform(scores), labels)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "transform",
    [
        lambda s: s - s.mean(),  # normalised over the batch
        lambda s: s + 0.1 * s.roll(1),  # each with its neighbour
        lambda s: s * (1 + 0.2 * s.roll(2)),
    ],
    ids=["centred", "neighbours", "scaled by another"],
)
def test_examples_that_depend_on_other_examples_are_refused(
    transform: Callable[[Tensor], Tensor], tiny_model: CrossEncoder
) -> None:
    """Although the mean over the unreduced values is exactly the loss."""
    loss = ComparativeLoss(tiny_model.train(), Transformed(tiny_model, transform), [CmpDrop()])
    with pytest.raises(ValueError, match="Transformed does not decompose into losses of single examples"):
        loss([QUERIES, PASSAGES], LABELS)


def test_examples_that_do_not_are_taken(tiny_model: CrossEncoder) -> None:
    """The canary: the same loss, with a transformation of each score alone."""
    loss = ComparativeLoss(tiny_model.train(), Transformed(tiny_model, lambda s: s.tanh()), [CmpDrop()])
    assert loss([QUERIES, PASSAGES], LABELS) > 0
