"""docs/losses.md has a row for each loss, and each row says what is true."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES

from cmp_rerank.losses import LOSSES, RankingLoss, TeacherOrderLoss
from cmp_rerank.losses.decompose import decompose
from cmp_rerank.losses.replay import Replay, addressed

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
LINES = [line.strip("|").split(" | ") for line in PAGE.splitlines() if re.match(r"\| `\w+Loss`", line)]
ROWS = {line[0].strip(" `"): [cell.strip() for cell in line[1:]] for line in LINES}
DOCS = [[PASSAGES[0], OTHERS[0], OTHERS[1]], PASSAGES[1:3], PASSAGES[2:4], [OTHERS[1], OTHERS[0]]]
ORDER = [torch.tensor(row) for row in ([2.0, 1.0, 3.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0])]
COLUMNS = [QUERIES, PASSAGES, OTHERS]


def inputs_of(name: str) -> tuple[list[Any], Any]:
    """A batch in the form that the row says."""
    labels = ROWS[name][1]
    if labels.startswith("pairs"):
        return [QUERIES, PASSAGES], torch.tensor([1, 0, 0, 0]) if "class" in labels else torch.rand(4)
    if labels.startswith("columns"):
        return COLUMNS, None if "no labels" in labels else torch.rand(4, 2)
    if "and teacher score" in labels:
        return [QUERIES, DOCS], [torch.stack([row, -row], dim=1) for row in ORDER]
    return [QUERIES, DOCS], ORDER if labels == "ranks" else [row - 1 for row in ORDER]


def made(name: str, model: CrossEncoder) -> Any:
    return eval(ROWS[name][-1].strip("`"), dict(LOSSES), {"model": model})


def test_no_class_is_missing() -> None:
    assert len(ROWS) == len(LINES)
    assert set(ROWS) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_line_of_code_runs(name: str, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    loss = made(name, tiny_model)
    assert type(loss) is LOSSES[name]
    if name != "CrossEntropyLoss":  # it takes a model of several labels
        assert loss(*inputs_of(name)).isfinite()


@pytest.mark.parametrize("name", [name for name in LOSSES if not hasattr(upstream, name)])
def test_the_labels_are_those_that_the_row_says(name: str) -> None:
    cls: Any = LOSSES[name]
    assert issubclass(cls, RankingLoss) or cls is TeacherOrderLoss
    assert ROWS[name][1] == ("grade and teacher score" if cls.label_columns == 2 else cls.kind.name)
    assert f"| {cls.kind.name} |" in PAGE


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "CrossEntropyLoss"])
def test_it_decomposes_as_the_row_says(name: str, tiny_model: CrossEncoder) -> None:
    columns, labels = inputs_of(name)
    torch.manual_seed(0)
    replay = Replay(made(name, tiny_model), tiny_model, addressed(columns), labels)
    # Close to each other: a margin that is kept would leave a query without a gradient.
    scores = 0.1 * torch.randn(len(replay.recording.pairs), 1, generator=torch.Generator().manual_seed(0))
    weights = decompose(replay, scores).weights
    row = ROWS[name]
    if "share of the pairs" in row[2]:
        expected = torch.tensor([3.0, 1.0, 1.0, 1.0]) / 6
    elif "share of the documents" in row[2] or name == "TeacherOrderLoss":  # its line has ADRMSELoss
        expected = torch.tensor([3.0, 2.0, 2.0, 2.0]) / 9
    else:
        assert not hasattr(upstream, name) or "equal weights" in row[2]
        expected = torch.full((4,), 0.25)
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LOSSES if not hasattr(upstream, name)])
def test_options_are_documented(name: str) -> None:
    text = inspect.getdoc(LOSSES[name]) or ""
    for option in inspect.signature(LOSSES[name]).parameters:
        assert f"\n    {option}: " in text
