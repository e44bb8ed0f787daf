"""The figures of the README and of the page about the demo are those of its result file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cmp_rerank.demo.recipe import FULL
from cmp_rerank.evaluation.comparison import p_text

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "demo.md")


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    return found


def test_the_file_is_of_the_recipe_that_is_there(metrics: dict[str, Any]) -> None:
    assert metrics["queries"] == FULL.queries
    assert metrics["packages"] == list(FULL.packages)
    assert metrics["settings"] == dict(FULL.settings)
    assert metrics["seed"] == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_table(page: Path, metrics: dict[str, Any]) -> None:
    compared = metrics["against_first_stage"]
    lines = page.read_text().splitlines()
    for system in compared["systems"]:
        means = [
            f"{e['mean']:.3f}"
            for measure in compared["measures"]
            for e in compared["means"]
            if (e["system"], e["measure"]) == (system, measure)
        ]
        (row,) = (line for line in lines if line.startswith(f"| {system} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:4] == means
        tests = [c for c in compared["contrasts"] if (c["system"], c["measure"]) == (system, compared["measures"][0])]
        assert cells[4] == "".join(f"{c['difference']:+.3f} (p {p_text(c['t_p_holm'])})" for c in tests)


def test_the_sentences(metrics: dict[str, Any]) -> None:
    page = " ".join((ROOT / "docs" / "demo.md").read_text().split())
    for about in metrics["arms"].values():
        assert about["verdict"]["sentence"] in page
        assert about["verdict"]["test"]["sentence"] in page
    for found in metrics["between_arms"].values():
        c = found["contrasts"][0]
        assert f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f}), p {p_text(c['t_p_holm'])}" in page


def test_the_costs(metrics: dict[str, Any]) -> None:
    """In seconds of processor time, which do not depend on what else the machine does."""
    page = " ".join((ROOT / "docs" / "demo.md").read_text().split())
    cpu = {title: each["cpu"] for title, each in metrics["seconds"].items()}
    assert f"{sum(cpu.values()):,.0f} seconds of processor time" in page
    plain, comparative = (cpu[f"{arm}: Training: seed 0"] for arm in ("plain", "comparative"))
    assert f"{plain:.0f} seconds plainly and {comparative:.0f} comparatively" in page
    assert re.search(rf"{comparative / plain:.1f} times", page)
    assert f"{metrics['candidates_hold_relevant']:.1%}" in page
