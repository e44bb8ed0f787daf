"""Each format is what the losses take: real losses, a real trainer, one step."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from tiny_models import OTHERS, PASSAGES, QUERIES

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.losses import LOSSES
from cmp_rerank.mining import format_of, mine, take_support
from cmp_rerank.ranking_losses.labels import GRADES

#: The losses of sentence-transformers; those of this package take lists.
EXPECTED = {
    "ADRMSELoss": "lists",
    "BinaryCrossEntropyLoss": "pairs",
    "CachedMultipleNegativesRankingLoss": "tuples",
    "CrossEntropyLoss": "pairs",
    "LambdaLoss": "lists",
    "ListMLELoss": "lists",
    "ListNetLoss": "lists",
    "MSELoss": "pairs",
    "MarginMSELoss": "tuples",
    "MultipleNegativesRankingLoss": "tuples",
    "PListMLELoss": "lists",
    "RankNetLoss": "lists",
}
TAUGHT = ("ADRMSELoss", "MSELoss", "MarginMSELoss", "RankNetLoss", "LambdaLoss")

TEXTS = {f"q{number}": query for number, query in enumerate(QUERIES)}
CORPUS = {f"d{number}": passage for number, passage in enumerate(dict.fromkeys([*PASSAGES, *OTHERS]))}
QRELS = {query: {f"d{number}": 1} for number, query in enumerate(TEXTS)}
RUN = {query: {document: float(len(document)) for document in CORPUS} for query in TEXTS}


class Letters:
    """A teacher that anybody can check: the letters that query and passage share."""

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [len(set(query) & set(passage)) / 10 for query, passage in pairs]


def train(model: CrossEncoder, data: Any, loss: Any, folder: Path) -> float:
    """One step; returns its loss."""
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        logging_steps=1, use_cpu=True, disable_tqdm=True, learning_rate=1e-3, warmup_steps=0,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    value = trainer.train().training_loss
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    return value


def test_the_table_is_complete() -> None:
    found = {
        name: format_of(cls)
        for name, cls in vars(losses).items()
        if inspect.isclass(cls) and name.endswith("Loss") and issubclass(cls, torch.nn.Module)
    }
    assert found == EXPECTED


def test_a_wrapped_loss_counts(tiny_model: CrossEncoder) -> None:
    wrapped = ComparativeLoss(tiny_model, losses.LambdaLoss(tiny_model), [CmpDrop()])
    assert format_of(wrapped) == "lists"

    class Own(losses.MarginMSELoss):
        def __init__(self, model: CrossEncoder) -> None:
            super().__init__(model)

    assert format_of(Own) == format_of(Own(tiny_model)) == "tuples"
    with pytest.raises(ValueError, match="no table 'Inputs'; choose one of 'pairs', 'tuples', 'lists'"):
        format_of(torch.nn.MSELoss())


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "CrossEntropyLoss"])
def test_a_loss_takes_its_format_as_it_is(name: str, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    loss = getattr(losses, name)(tiny_model)
    teacher = Letters() if name in TAUGHT else None
    mined = mine(TEXTS, CORPUS, QRELS, RUN, format=format_of(loss), negatives=2, teacher=teacher)
    value = train(tiny_model, mined.dataset, loss, tmp_path)
    assert 0 < value < float("inf")


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - EXPECTED.keys()))
def test_a_loss_of_this_package_takes_lists(name: str, tiny_model: CrossEncoder) -> None:
    loss = LOSSES[name](tiny_model)
    assert format_of(LOSSES[name]) == format_of(loss) == "lists"
    special = {"SupervisedDistillationLoss": "both", "TeacherOrderLoss": "ranks"}
    # What a loss reads as grades comes from the judgments, everything else from a teacher.
    teacher: dict[str, Any] = {"teacher": Letters(), "labels": special.get(name, "scores")}
    options = {"labels": "grades"} if LOSSES[name].kind is GRADES else teacher
    mined = mine(TEXTS, CORPUS, QRELS, RUN, negatives=2, **options)
    batch = CrossEncoderDataCollator(tiny_model.preprocess)(mined.dataset.to_list())  # type: ignore[attr-defined]
    value = loss([batch["query"], batch["docs"]], batch["label"])
    value.backward()
    assert value > 0
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in tiny_model.parameters())


def test_a_loss_may_say_its_format() -> None:
    class Said(torch.nn.Module):
        data_format = "tuples"

    class Wrong(torch.nn.Module):
        data_format = "tuple"

    assert format_of(Said) == format_of(Said()) == "tuples"
    with pytest.raises(ValueError, match=r"Wrong.data_format must be one of 'pairs', 'tuples', 'lists'; got 'tuple'"):
        format_of(Wrong)


SUPPORT = {"q0": {"d0": [(0, 17)]}, "q1": {"d1": [(43, 58)]}}


@pytest.mark.parametrize("form", ["pairs", "tuples", "lists"])
def test_support_reaches_crops(form: Any) -> None:
    mined = mine(TEXTS, CORPUS, QRELS, RUN, format=form, negatives=2, support=SUPPORT)
    assert "support" in mined.rows.column_names
    assert "support" not in mined.dataset.column_names
    assert mined.support is not None
    pair = (TEXTS["q1"], CORPUS["d1"])
    assert pair in mined.support
    assert mined.support.segments(*pair, [(0, 42), (43, 58), (59, 90)]) == {1}
    assert len(mined.support) == 2
    again, support = take_support(mined.dataset)
    assert support is None
    assert again.column_names == mined.dataset.column_names


def test_a_comparative_loss_crops_mined_lists_by_their_support(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    mined = mine(TEXTS, CORPUS, QRELS, RUN, negatives=2, support=SUPPORT)
    loss = ComparativeLoss(tiny_model, losses.ListNetLoss(tiny_model), [CmpCrop(support=mined.support)])
    assert train(tiny_model, mined.dataset, loss, tmp_path) > 0


def test_take_support_refuses_other_data() -> None:
    with pytest.raises(ValueError, match=r"must be a datasets.Dataset; got a list of 1"):
        take_support([{}])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must have a column query, and one of document, positive, docs"):
        take_support(datasets.Dataset.from_list([{"text": "a", "support": [[0, 1]]}]))


def test_the_table_of_the_docs_is_right() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mining.md").read_text(encoding="utf-8")
    section = page.partition("## The format that a loss takes")[2].partition("\n## ")[0]
    rows = re.findall(r'^\| (.*?) \| `"(\w+)"` \| (.*?) \|$', section, re.MULTILINE)
    found = {name: form for names, form, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert found == {name: form for name, form in EXPECTED.items() if name != "CrossEntropyLoss"}
