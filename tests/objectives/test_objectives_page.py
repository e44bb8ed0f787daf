"""docs/objectives.md has one row for each class of the package, with a line of code that makes one."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_oracles import random_losses

import cmp_rerank.objectives
from cmp_rerank.objectives import Objective, Outputs, TrainingProgress
from cmp_rerank.objectives.base import at

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def rows() -> dict[str, list[str]]:
    """The cells of each row of the first table, by the name of its class."""
    table = PAGE.read_text(encoding="utf-8").split("| objective |")[1].split("\n\n")[0].splitlines()[2:]
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {cells[0].strip("` "): cells for cells in found}


def classes() -> set[str]:
    public = {name: getattr(cmp_rerank.objectives, name) for name in cmp_rerank.objectives.__all__}
    return {n for n, c in public.items() if inspect.isclass(c) and issubclass(c, Objective) and c is not Objective}


def test_no_class_is_missing() -> None:
    assert rows().keys() == classes()
    assert len(classes()) == 10
    package = Path(cmp_rerank.objectives.__file__).parent
    defined = {
        name
        for path in package.glob("*.py")
        for name in re.findall(r"^class (\w+)\((?:Objective|_Weighted)\)", path.read_text(encoding="utf-8"), re.M)
    }
    assert {name for name in defined if not name.startswith("_")} == classes()  # and none is left out of __all__


@pytest.mark.parametrize("name", rows())
def test_the_line_of_a_row_makes_an_objective_that_runs(name: str) -> None:
    cells = rows()[name]
    assert len(cells) == 5
    made: Any = eval(cells[4].strip("`"), vars(cmp_rerank.objectives))
    assert type(made).__name__ == name
    now = at(made, TrainingProgress(1, total=10))
    passes = getattr(now, "passes", 2)
    outputs = Outputs(torch.randn(4, passes, 1, dtype=torch.float64), torch.arange(4)) if now.needs_outputs else None
    values = now(random_losses(4, passes), outputs)
    assert values.shape == (4,)
    assert values.isfinite().all()
