"""A reranker that was tuned, and its export by an interpreter that has a backend."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.ir import write_run

ROOT = Path(__file__).parents[2]


class Tuned(NamedTuple):
    """A MiniLM that `RerankerTrainer` has tuned, what it scores, and the judgments of that."""

    checkpoint: Path
    candidates: dict[str, dict[str, float]]
    pairs: Path
    calibration: Path
    qrels: Path

    def read_pairs(self) -> list[tuple[str, str]]:
        return [tuple(json.loads(line)) for line in self.pairs.read_text().splitlines()]


class Exported(NamedTuple):
    """Logits of each arm, and what `cmp-rerank compare` says of their runs."""

    scores: dict[str, np.ndarray]
    megabytes: dict[str, float]
    contrasts: dict[str, dict[str, Any]]


def export(python: str | Path, backend: str, tuned: Tuned, folder: Path) -> Exported:
    """Export the checkpoint by an interpreter that has the backend, and compare the runs with this package."""
    subprocess.run(
        [
            python, ROOT / "benchmarks" / "backends" / "score.py", tuned.checkpoint, backend, "--pairs", tuned.pairs,
            "--calibration", tuned.calibration, "--out", folder / "export",
        ],
        check=True,
    )  # fmt: skip
    found = json.loads((folder / "export" / "scores.json").read_text())
    for arm, scores in found["scores"].items():
        values = iter(scores)
        of_arm = {query: {document: next(values) for document in run} for query, run in tuned.candidates.items()}
        write_run(folder / f"{arm}.run", of_arm, tag=arm)
    command = ["compare", tuned.qrels, *(folder / f"{arm}.run" for arm in found["scores"]), "-b", "torch"]
    result = CliRunner().invoke(app, [*map(str, command), "-m", "nDCG@10", "--json"])
    assert result.exit_code == 0, result.output
    contrasts = {contrast["system"]: contrast for contrast in json.loads(result.stdout)["contrasts"]}
    scores = {arm: np.array(values) for arm, values in found["scores"].items()}
    return Exported(scores, found["megabytes"], contrasts)


def check(exported: Exported) -> None:
    """In 32 bits nothing is lost; int8 is smaller, is another model, and ranks much alike."""
    scores, contrasts = exported.scores, exported.contrasts
    np.testing.assert_allclose(scores["float"], scores["torch"], atol=1e-5)
    assert np.ptp(scores["torch"]) > 0.01  # what is compared differs
    assert contrasts["float"]["difference"] == pytest.approx(0, abs=1e-6)
    assert 0 < np.abs(scores["int8"] - scores["torch"]).max() < np.ptp(scores["torch"])
    assert np.corrcoef(scores["int8"], scores["torch"])[0, 1] > 0.9
    assert contrasts["int8"]["low"] <= contrasts["int8"]["difference"] <= contrasts["int8"]["high"]
    assert abs(contrasts["int8"]["difference"]) < 0.1
    assert exported.megabytes["int8"] < 0.3 * exported.megabytes["float"]
