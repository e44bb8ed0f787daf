"""`cmp-rerank serve`: what it says it would serve, and what it refuses; tests/serving asks running servers."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from typer.testing import CliRunner

from cmp_rerank import LongDocumentReranker
from cmp_rerank.cli.main import app

pytest.importorskip("fastapi", reason="serving needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="serving needs the extra 'serve'")


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["serve", *map(str, arguments), "--device", "cpu"])
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> str:
    status, said, notes = call(*arguments)
    assert (status, said) == (2, ""), notes
    (line,) = [line for line in notes.splitlines() if line.startswith("cmp-rerank: ")]
    return line


def test_check_says_what_would_be_served(tiny_checkpoint: Path) -> None:
    status, said, notes = call(
        tiny_checkpoint, "--check", "--max-documents", 7, "--max-length", 50, "--precision", "bf16"
    )
    assert status == 0, notes
    told = json.loads(said)
    assert told["model"] == tiny_checkpoint.name
    assert (told["class"], told["window"], told["limits"]["documents"]) == ("CrossEncoder", 50, 7)


def test_a_checkpoint_with_settings_is_served_with_passages(tiny_checkpoint: Path, tmp_path: Path) -> None:
    LongDocumentReranker(tiny_models.cross_encoder(tmp_path / "model"), "sum").save_pretrained(str(tmp_path / "long"))
    for arguments, name in (([], "LongDocumentReranker"), (["--truncate"], "CrossEncoder")):
        status, said, notes = call(tmp_path / "long", "--check", "--name", "mine", *arguments)
        assert status == 0, notes
        assert (json.loads(said)["class"], json.loads(said)["model"]) == (name, "mine")


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_model_that_is_good_only_with_the_first_stage(tmp_path: Path, weight: float) -> None:
    tiny_models.cross_encoder(tmp_path)
    more = {"scale": "minmax", "depth": 4, "batch_size": 8, "measure": "nDCG@10", "validation": 0.5}
    (tmp_path / "guard.json").write_text(json.dumps({"weight": weight, **more}))
    if weight < 1:
        error = refused(tmp_path, "--check")
        assert (
            f"joins the scores with the first stage, which a server does not see; got a share of {weight:g}" in error
        )
        assert "--no-mix" in error
    else:
        assert call(tmp_path, "--check")[0] == 0
    assert call(tmp_path, "--check", "--no-mix")[0] == 0


def test_an_address_that_is_taken(tiny_checkpoint: Path) -> None:
    from cmp_rerank.serving.run import listen

    with listen(port=0) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in refused(tiny_checkpoint, "--port", port)


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra(missing: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return right(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "serving needs the extra 'serve': pip install 'cmp-rerank[serve]'" in refused(tiny_checkpoint)


def test_other_models_are_refused(tmp_path: Path) -> None:
    tiny_models.cross_encoder(tmp_path, num_labels=3)
    assert "one score for each pair" in refused(tmp_path, "--check")
    assert "no such checkpoint" in refused(tmp_path / "nothing")


def test_help_shows_examples() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"]).stdout
    assert "curl localhost:8080/rerank" in shown
