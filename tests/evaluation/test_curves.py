"""Utility curves: the same numbers as reranking by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import QUERIES, TEXTS
from typer.testing import CliRunner

from cmp_rerank.ablations import CmpDrop
from cmp_rerank.cli.main import app
from cmp_rerank.evaluation import evaluate, rerank
from cmp_rerank.evaluation.curves import utility_curves
from cmp_rerank.ir import write_corpus, write_qrels, write_queries, write_run
from cmp_rerank.text.segmenters import Sentences

CORPUS = {f"d{i}": text for i, text in enumerate(TEXTS)}
ASKED = {f"q{i}": query for i, query in enumerate(QUERIES)}
RUN = {query: {doc: 10.0 - i for i, doc in enumerate(CORPUS)} for query in ASKED}
QRELS = {"q0": {"d0": 1}, "q1": {"d2": 2, "d0": 1}, "q2": {"d3": 1}, "q3": {"d4": 1}}


def test_points_against_texts_cropped_by_hand(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    curves = utility_curves(
        {"tiny": tiny_model}, ASKED, CORPUS, RUN, QRELS, "RR", segments=[2, 1], levels=[2], order=None, k=5
    )
    assert tiny_model.training
    one, two, everything, dropped = curves.points["tiny"]
    assert [(p.segments, p.level) for p in (one, two, everything, dropped)] == [(1, 0), (2, 0), (None, 0), (None, 2)]
    for point in (one, two, everything):
        leads = {doc: text[: Sentences()(text)[: point.segments][-1][1]] for doc, text in CORPUS.items()}
        run = rerank(tiny_model, ASKED, leads, RUN, k=5)
        run = {query: dict(list(docs.items())[:5]) for query, docs in run.items()}
        assert evaluate(run, QRELS, "RR").means == pytest.approx(dict(point.means))
    assert one.tokens < two.tokens < everything.tokens == dropped.tokens
    assert dict(dropped.per_query["RR"]) != dict(everything.per_query["RR"])


def test_the_best_segments_come_first(tiny_model: CrossEncoder) -> None:
    lead = utility_curves({"m": tiny_model}, {"q": "honey"}, {"d": TEXTS[2]}, {"q": {"d": 1.0}}, {"q": {"d": 1}},
                          segments=[1], levels=[], order=None)  # fmt: skip
    best = utility_curves({"m": tiny_model}, {"q": "honey"}, {"d": TEXTS[2]}, {"q": {"d": 1.0}}, {"q": {"d": 1}},
                          segments=[1], levels=[])  # fmt: skip
    texts = [TEXTS[2][slice(*span)] for span in Sentences()(TEXTS[2])]
    lengths = [len(tiny_model.preprocess([("honey", text)])["input_ids"][0]) for text in texts]
    assert [points.points["m"][0].tokens for points in (lead, best)] == [lengths[0], lengths[1]]


def test_the_command_writes_numbers_and_a_plot(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[set[str]] = []

    def curves_of(models: Any, queries: Any, corpus: Any, *arguments: Any, **options: Any) -> Any:
        texts.append(set(corpus))
        return utility_curves(models, queries, corpus, *arguments, **options)

    monkeypatch.setattr("cmp_rerank.evaluation.curves.utility_curves", curves_of)
    write_queries(tmp_path / "queries.jsonl", ASKED)
    write_corpus(tmp_path / "corpus.jsonl", CORPUS | {f"other{i}": "Not a candidate." for i in range(9)})
    write_qrels(tmp_path / "qrels.txt", QRELS)
    write_run(tmp_path / "run.txt", RUN)
    arguments = [
        "curves", str(tmp_path / "qrels.txt"), str(tmp_path / "run.txt"), "--model", f"a={tiny_checkpoint}",
        "--model", f"b={tiny_checkpoint}", "--queries", str(tmp_path / "queries.jsonl"),
        "--corpus", str(tmp_path / "corpus.jsonl"), "--segments", "1,3", "--levels", "1",
        "--out", str(tmp_path / "curves.json"), "--max-queries", "2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "curves.json").read_text())
    assert numbers["config"]["rates"] == {"0": 0.0, "1": CmpDrop().rate(1)}
    assert list(numbers["points"]) == ["a", "b"]
    assert numbers["points"]["a"] == numbers["points"]["b"]
    assert len(numbers["points"]["a"][0]["per_query"]["nDCG@10"]) == 2
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "curves"))) == [
        "curves.json", "curves.svg",
    ]  # fmt: skip
    assert len(result.stdout.splitlines()) == 8
    assert texts == [set(CORPUS)]
    piped = CliRunner().invoke(app, [*arguments, "--out", "-", "--plot", "none", "--depth", "2"])
    assert piped.exit_code == 0, piped.output
    assert list(json.loads(piped.stdout)["points"]) == ["a", "b"]
    assert texts[1:] == [{"d0", "d1"}]
    for out, plot in ((str(tmp_path / "x.png"), "png"), ("-", "svg"), ("/dev/null", "pdf")):
        taken = CliRunner().invoke(app, [*arguments, "--out", out, "--plot", plot])
        assert taken.exit_code == 2
        assert f"to their name with .{plot}; got --out {out}; give the numbers another name" in taken.stderr
    assert not (tmp_path / "x.png").exists()
    write_run(tmp_path / "run.txt", {"zz": {"d0": 1.0}, **RUN})  # one that nobody has judged does not count
    more = CliRunner().invoke(app, [*arguments, "--model", f"_c={tiny_checkpoint}"])
    assert more.exit_code == 0, more.output
    assert json.loads((tmp_path / "curves.json").read_text())["points"]["a"] == numbers["points"]["a"]
    drawn = (tmp_path / "curves.svg").read_text()
    assert "<!-- _c -->" in drawn or ">_c<" in drawn  # in the legend, as paths or as text
    bad = CliRunner().invoke(app, [*arguments, "--segments", "x"])
    assert bad.exit_code == 2
    assert "--segments must be whole numbers" in bad.stderr


def test_bad_input(tiny_model: CrossEncoder) -> None:
    with pytest.raises(ValueError, match="no model"):
        utility_curves({}, ASKED, CORPUS, RUN, QRELS)
    with pytest.raises(ValueError, match="segments must be whole numbers"):
        utility_curves({"m": tiny_model}, ASKED, CORPUS, RUN, QRELS, segments=[0])
    with pytest.raises(ValueError, match=r"needs a text; got none for 1 of 6 \('d3'\)"):
        utility_curves({"m": tiny_model}, ASKED, CORPUS | {"d3": " "}, RUN, QRELS)
    with pytest.raises(ValueError, match=r"needs a text; got none for 4 of 4 \(.q0., .q1., .q2.,"):
        utility_curves({"m": tiny_model}, {}, CORPUS, RUN, QRELS)
    assert torch.is_grad_enabled()
