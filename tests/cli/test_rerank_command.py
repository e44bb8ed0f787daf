"""`cmp-rerank rerank`: a run in, a run out; what is said about windows, the guard, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from sentence_transformers import CrossEncoder
from typer.testing import CliRunner

from cmp_rerank import LongDocumentReranker
from cmp_rerank.cli.main import app
from cmp_rerank.ir import rank, read_run, write_corpus, write_qrels, write_queries, write_run
from cmp_rerank.reranking import rerank_run

CORPUS = {f"d{i}": text * (1 + 20 * (i == 0)) for i, text in enumerate(tiny_models.TEXTS)}
QUERIES = {f"q{i}": query for i, query in enumerate(tiny_models.QUERIES)}
RUN = {query: {doc: float(9 - place) for place, doc in enumerate(CORPUS)} for query in QUERIES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    write_queries(folder / "queries.jsonl", QUERIES)
    write_corpus(folder / "corpus.jsonl", CORPUS)
    (folder / "qrels").mkdir()
    write_qrels(folder / "qrels" / "test.tsv", {query: {"d1": 1} for query in QUERIES})
    write_run(folder / "first.trec", RUN)
    tiny_models.cross_encoder(folder / "model")
    return folder


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["rerank", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def given(folder: Path, **change: object) -> list[object]:
    """Options by name; those that are None are left out."""
    names = {"queries": folder / "queries.jsonl", "corpus": folder / "corpus.jsonl", "run": folder / "first.trec"}
    options = {**names, "model": folder / "model", "device": "cpu", **change}
    return [x for name, value in options.items() if value is not None for x in (f"--{name}".replace("_", "-"), value)]


def test_files_and_a_collection_give_what_python_gives(folder: Path, tmp_path: Path) -> None:
    model = CrossEncoder(str(folder / "model"), device="cpu")
    expected = rerank_run(model, QUERIES, CORPUS, RUN, depth=3)
    status, said, notes = call(*given(folder, out=tmp_path / "a.trec", depth=3), "--json")
    assert status == 0, notes
    assert read_run(tmp_path / "a.trec") == expected
    told = json.loads(said)
    assert (told["out"], told["queries"], told["pairs"], told["cut"]) == (str(tmp_path / "a.trec"), 4, 12, 4)
    assert "12 pairs of 4 queries; 4 of the pairs (33.3%) exceed the window, and were cut" in notes
    assert "--long-documents" in notes
    named = given(folder, queries=None, corpus=None, depth=3, split="test")
    status, said, notes = call(f"beir:{folder}", *named)
    assert status == 0, notes
    (tmp_path / "b.trec").write_text(said)
    assert read_run(tmp_path / "b.trec") == expected


@pytest.mark.parametrize(("options", "again"), [([], "the same command"), (["--restart"], "with --resume")])
def test_an_interruption_says_what_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], again: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cmp_rerank.reranking.rerank_run", interrupted)
    out = tmp_path / "new.trec"
    status, _, said = call(*given(folder), "--out", out, *options)
    assert status == 130
    assert f"What is complete is in {out}.part-*; " in said
    assert f"{again} goes on." in said


def test_passages_are_where_they_say(folder: Path, tmp_path: Path) -> None:
    out, passages = tmp_path / "a.trec", tmp_path / "p.jsonl"
    status, said, notes = call(*given(folder, out=out, passages=passages, max_length=40, depth=2), "--json")
    assert status == 0, notes
    assert "8 pairs of 4 queries, read as" in notes
    told = json.loads(said)
    assert (told["out"], told["passages_out"]) == (str(out), str(passages))
    reranker = LongDocumentReranker(CrossEncoder(str(folder / "model"), device="cpu", max_length=40))
    expected = rerank_run(reranker, QUERIES, CORPUS, RUN, depth=2)
    assert read_run(out) == expected
    lines = [json.loads(line) for line in passages.read_text().splitlines()]
    assert len(lines) == 8
    for line in lines:
        assert line["score"] == expected[line["query"]][line["document"]]
        assert line["score"] == max(passage["score"] for passage in line["passages"])
        text = CORPUS[line["document"]]
        assert line["passages"][0]["start"] == 0
        assert line["passages"][-1]["end"] == len(text.rstrip())
    assert max(len(line["passages"]) for line in lines) > 4
    assert told["passages"] == sum(len(line["passages"]) for line in lines)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_share_of_the_guard_is_applied_and_said(folder: Path, tmp_path: Path, weight: float) -> None:
    from cmp_rerank.guard import Mix

    guarded = tmp_path / "guarded"
    model = tiny_models.cross_encoder(guarded, seed=1)
    mix = {"weight": weight, "scale": "minmax", "depth": 4}
    more = {"batch_size": 8, "measure": "nDCG@10", "validation": 0.5}
    (guarded / "guard.json").write_text(json.dumps(mix | more))
    status, _, notes = call(*given(folder, model=guarded, out=tmp_path / "mixed.trec"))
    assert status == 0, notes
    assert f"as the guard has chosen: {weight:g} of the model; --no-mix leaves that out" in notes
    top = {query: {doc: scores[doc] for doc in list(scores)[:4]} for query, scores in RUN.items()}
    mixed = Mix(**mix)(RUN, rerank_run(model, QUERIES, CORPUS, top))
    assert read_run(tmp_path / "mixed.trec") == mixed
    options = {"precision": "float32", "passages": tmp_path / "p.jsonl"}
    for name, value in options.items():  # they break nothing where the guard keeps the first stage
        status, _, notes = call(*given(folder, model=guarded, out=tmp_path / "more.trec", **{name: value}))
        assert status == 0, notes
        assert (read_run(tmp_path / "more.trec") == mixed) or weight > 0.0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 4 * len(QUERIES)
    status, _, notes = call(*given(folder, model=guarded, out=tmp_path / "alone.trec", depth=4), "--no-mix")
    assert status == 0, notes
    assert "guard" not in notes
    alone = rerank_run(model, QUERIES, CORPUS, RUN, depth=4)
    assert read_run(tmp_path / "alone.trec") == alone
    orders = [[doc for doc, _ in rank(run[query])] for run in (mixed, alone) for query in QUERIES]
    assert (orders[:4] == orders[4:]) == (weight == 1.0)


def test_a_model_that_was_saved_with_settings_reads_passages(folder: Path, tmp_path: Path) -> None:
    model = LongDocumentReranker(tiny_models.cross_encoder(tmp_path / "model"), "sum", passage_tokens=20)
    model.save_pretrained(str(tmp_path / "saved"))
    status, _, notes = call(*given(folder, model=tmp_path / "saved", out=tmp_path / "a.trec", depth=2))
    assert status == 0, notes
    assert "read as" in notes
    expected = rerank_run(model, QUERIES, CORPUS, RUN, depth=2)
    found = read_run(tmp_path / "a.trec")
    assert {query: list(scores) for query, scores in found.items()} == {q: list(s) for q, s in expected.items()}
    for query, scores in expected.items():  # not in the same batches before sentence-transformers 6.2
        assert found[query] == pytest.approx(scores, abs=1e-6)
    status, _, notes = call(*given(folder, model=tmp_path / "saved", out=tmp_path / "b.trec", depth=2), "--truncate")
    assert "exceed the window" in notes


def bi_encoder(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(folder / "model").save_pretrained(folder / "bert")
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(folder / "bert")
    (folder / "empty").mkdir()
    (folder / "st").mkdir()
    (folder / "st" / "modules.json").write_text("[]")


def test_wrong_input_is_one_line_and_status_2(folder: Path, tmp_path: Path) -> None:
    bi_encoder(folder)
    (tmp_path / "other.trec").write_text("q9 Q0 d1 1 2.0 x\n")
    (tmp_path / "binary.trec").write_bytes(bytes(range(256)))
    cases: list[tuple[dict, list[str], str]] = [
        (
            {"model": folder / "bert"},
            [],
            "must be a cross-encoder (a ...ForSequenceClassification or ...ForCausalLM); got BertModel",
        ),
        ({"model": folder / "st"}, [], "must be a cross-encoder; got a SentenceTransformer"),
        ({"model": folder / "empty"}, [], "this folder holds no checkpoint"),
        ({"model": folder / "nowhere"}, [], "no such checkpoint"),
        ({"run": tmp_path / "nowhere.trec"}, [], "nowhere.trec: no such file"),
        ({"run": tmp_path}, [], "a directory"),
        ({"run": tmp_path / "binary.trec"}, [], "binary.trec"),
        ({"run": tmp_path / "other.trec"}, [], "no text for query 'q9' (1 of 1)"),
        ({"corpus": tmp_path / "nowhere.jsonl"}, [], "no such file"),
        ({"corpus": folder / "queries.jsonl"}, [], "no text for document 'd0', 'd1', 'd2' and others"),
        ({"corpus": None}, [], "got no --corpus"),
        ({"split": "test"}, [], "--split goes with a collection"),
        ({"precision": "int4"}, [], "got 'int4'"),
        ({"out": tmp_path / "nowhere" / "a.trec"}, [], "no such directory"),
        ({}, ["--tag", "my tag"], "the tag 'my tag' cannot stand in a file of columns"),
        ({}, ["--json"], "--json needs --out"),
        ({"passages": tmp_path / "p.jsonl"}, [], "--passages needs --out"),
    ]
    before = sorted(tmp_path.iterdir())
    for change, more, message in cases:
        status, said, notes = call(*given(folder, **change), *more)
        assert status == 2, (message, notes)
        assert message in notes
        assert not said
        assert len([line for line in notes.splitlines() if line.startswith("cmp-rerank:")]) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_help_shows_examples() -> None:
    result = CliRunner().invoke(app, ["rerank", "--help"])
    assert result.exit_code == 0
    assert "torchrun --nproc-per-node 4" in result.stdout
