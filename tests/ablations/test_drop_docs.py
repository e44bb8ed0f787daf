"""The tables of docs/cmpdrop.md are true: those of models are found anew, those of costs are the benchmarks' results.

python tests/ablations/test_drop_docs.py    # writes the tables into the page
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from cmp_rerank.ablations.drop import CmpDrop, DropHooks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cmpdrop.md"


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def families() -> list[str]:
    lines = []
    for name, make in tiny_models.families().items():
        model = make()
        sites = DropHooks(model, CmpDrop(layers=[0])).sites
        first, second = (site.name.split(".0.", 1)[1] for site in sites)
        checkpointing = "yes" if model.supports_gradient_checkpointing else "no"
        lines.append(f"| {name} | `{type(model).__name__}` | `{first}` | `{second}` | {checkpointing} |")
    return lines


def strengths() -> list[str]:
    found = result("drop_strength")["cosine"]
    return [f"| {name} | {cosine['mean']:.3f} | {cosine['lowest']:.3f} |" for name, cosine in found.items()]


def cost_of_masks() -> list[str]:
    lines = []
    for found in result("masks")["masks"]:
        forward, both = (found[part]["nested_dropout"]["ratio"] for part in ("forward", "forward and backward"))
        lines.append(f"| {' x '.join(map(str, found['shape']))} | {found['dtype']} | {forward:.2f} | {both:.2f} |")
    return lines


def cost_in_models() -> list[str]:
    lines = []
    for found in result("masks")["models"]:
        model = f"{found['model']}, {found['shape'][0]} x {found['shape'][1]}"
        for arm in found["forward"]:
            if arm != "own dropout":
                forward, both = (found[part][arm]["ratio"] for part in ("forward", "forward and backward"))
                lines.append(f"| {model} | {arm} | {forward:.2f} | {both:.2f} |")
    return lines


TABLES = {
    "family": families,
    "ablation": strengths,
    "mask over F.dropout": cost_of_masks,
    "model over its own dropout": cost_in_models,
}


def rows(head: str) -> re.Match[str]:
    """The lines of the table whose head starts so."""
    found = re.search(rf"(?<=\n)\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"))
    assert found, f"the page has no table {head!r}"
    return found


@pytest.mark.parametrize("head", TABLES)
def test_table(head: str) -> None:
    assert rows(head)[1].splitlines() == TABLES[head](), (
        f"run PYTHONPATH=tests python {Path(__file__).relative_to(ROOT)}"
    )


if __name__ == "__main__":
    for head, lines in TABLES.items():
        old = rows(head)
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(text[: old.start(1)] + "\n".join(lines()) + "\n" + text[old.end(1) :], encoding="utf-8")
