"""Queries with nothing to learn from: a loss may give NaN for them, as those of earlier sentence-transformers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import MSELoss
from slow_loop import gradients, same_gradients
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor, nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments

LISTS = [
    [PASSAGES[0], OTHERS[0], OTHERS[1]],
    [PASSAGES[1], OTHERS[3]],
    [OTHERS[2], PASSAGES[2]],
    [OTHERS[3], OTHERS[2]],
]
MIXED = [[2.0, 0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
EQUAL = [[1.0] * len(texts) for texts in LISTS]


class Pairs(nn.Module):
    """The mean over pairs of unequal labels, as LambdaLoss has it before 6.2, or as later versions have it."""

    def __init__(self, model: CrossEncoder, earlier: bool) -> None:
        super().__init__()
        self.model, self.earlier = model, earlier

    def forward(self, inputs: list[list[Any]], labels: list[Tensor], **_: Any) -> Tensor:
        texts = [(query, text) for query, own in zip(*inputs, strict=True) for text in own]
        scores = self.model(self.model.preprocess(texts))["scores"].view(-1)
        found = []
        for own, label in zip(scores.split([len(x) for x in inputs[1]]), labels, strict=True):
            found.append((own[None, :] - own[:, None]).sigmoid()[label[:, None] > label[None, :]])
        pairs = torch.cat(found)
        return pairs.mean() if self.earlier else pairs.sum() / max(len(pairs), 1)


def compared(model: CrossEncoder, earlier: bool, labels: list[list[float]]) -> tuple[Tensor, dict[str, float]]:
    loss = ComparativeLoss(model.train(), Pairs(model, earlier), [CmpCrop(), CmpDrop(p=0.3)])
    value = loss([QUERIES, LISTS], [torch.tensor(label) for label in labels])
    model.zero_grad()
    value.backward()
    return value.detach(), {name: float(figure) for name, figure in loss.diagnostics.items()}


def test_the_canary(tiny_model: CrossEncoder) -> None:
    loss = Pairs(tiny_model, earlier=True)
    assert loss([QUERIES, LISTS], [torch.tensor(label) for label in EQUAL]).isnan()
    assert loss([QUERIES[1:2], LISTS[1:2]], [torch.tensor(MIXED[1])]).isnan()


@pytest.mark.parametrize("labels", [MIXED, EQUAL], ids=["some", "none"])
def test_comparing_gives_what_later_versions_give(labels: list[list[float]], tiny_model: CrossEncoder) -> None:
    value, told = compared(tiny_model, True, labels)
    found = gradients(tiny_model)
    expected, told_later = compared(tiny_model, False, labels)
    assert (value == 0) == (labels is EQUAL)
    torch.testing.assert_close(value, expected)
    if labels is EQUAL:
        assert not any(gradient.any() for gradient in found.values())
    else:
        same_gradients(found, gradients(tiny_model))
    assert told == pytest.approx(told_later)


def trainer(model: CrossEncoder, loss: nn.Module, labels: Any, folder: Path, texts: Any = LISTS) -> RerankerTrainer:
    rows = datasets.Dataset.from_dict({"query": QUERIES, "documents": texts, "label": labels})
    args = RerankerTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, report_to="none", use_cpu=True, max_steps=1,
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return RerankerTrainer(model=model, args=args, train_dataset=rows, loss=loss)


@pytest.mark.parametrize("labels", [MIXED, EQUAL], ids=["some", "none"])
def test_plain_training_gives_what_later_versions_give(
    labels: list[list[float]], tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    trained = []
    for earlier in (True, False):
        tiny_model.load_state_dict(before)
        training = trainer(tiny_model, Pairs(tiny_model, earlier), labels, tmp_path)
        training.train()
        trained.append(
            (training.state.log_history[0]["loss"], {n: v.clone() for n, v in tiny_model.state_dict().items()})
        )
    (value, weights), (expected, weights_later) = trained
    assert value == pytest.approx(expected)
    assert (value == 0) == (labels is EQUAL)
    torch.testing.assert_close(weights, weights_later)


@pytest.mark.parametrize("compare", [True, False])
def test_another_nan_is_an_error_that_names_the_query(
    compare: bool, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    plain = MSELoss(tiny_model)
    loss = ComparativeLoss(tiny_model, plain, [CmpDrop(p=0.3)]) if compare else plain
    training = trainer(tiny_model, loss, [1.0, 0.0, float("nan"), 1.0], tmp_path, PASSAGES)
    with pytest.raises(ValueError, match=rf"MSELoss must give finite numbers; got nan for the query '{QUERIES[2]}'"):
        training.train()
