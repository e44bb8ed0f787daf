"""The tables of the documentation are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tables


@pytest.mark.parametrize("page", sorted({page for page, *_ in tables.TABLES.values()}))
def test_the_committed_tables_are_those_of_the_results(page: str) -> None:
    text = (tables.DOCS / page).read_text(encoding="utf-8")
    assert tables.filled(page, text) == text, "run docs/scripts/figures.py"


def test_a_regenerated_result_flows_into_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, result, _ in tables.TABLES.values():
        (tmp_path / result).write_bytes((tables.RESULTS / result).read_bytes())
    found = json.loads((tmp_path / "sparse.json").read_text())
    arm = found["runs"][0]["arms"]["two drops, PairwiseHinge"]
    arm["cpu_s"] = [each * 3 for each in arm["cpu_s"]]
    found["runs"][0]["loads"] = [7.5, 7.5]
    (tmp_path / "sparse.json").write_text(json.dumps(found))
    before = (tables.DOCS / "measurements.md").read_text(encoding="utf-8")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    changed = tables.filled("measurements.md", before).splitlines()
    different = [line for line, old in zip(changed, before.splitlines(), strict=True) if line != old]
    assert len(different) == 2
    assert "load average 7.5" in different[0]
    assert different[1].startswith("| two drops, PairwiseHinge |")


def test_what_was_not_measured_is_said_to_be() -> None:
    after = {"first_step_s": 4.0, "step_s": 2.0, "own_memory_mb": 1400.0}
    lines = tables.first_step({"sizes": {"60000": {"after": after}, "4000000": {"after": after}}})
    assert lines[0] == "| pairs | 60,000 | 4,000,000 |"
    assert "| time of a step, against tokenising first | not measured | not measured |" in lines
    assert not any("epoch" in line for line in lines)
