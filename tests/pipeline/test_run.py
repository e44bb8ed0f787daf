"""The whole of it on a tiny model: what the folder holds, what a second run keeps, and that a resume is exact."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from optional_libraries import datasets
from pipeline_data import CORPUS, QRELS, QUERIES, collection, settings, split
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from tiny_models import bert_config, save_checkpoint, wordpiece

from cmp_rerank import LongDocumentReranker
from cmp_rerank.collections import Collection, Split
from cmp_rerank.evaluation import evaluate, rerank
from cmp_rerank.guard import load_guard
from cmp_rerank.ir import BM25, read_run, write_run
from cmp_rerank.pipeline import Results, load, run
from cmp_rerank.pipeline.data import task_of
from cmp_rerank.pipeline.model import loss_of, model_digest, start_model
from cmp_rerank.pipeline.run import prepare
from cmp_rerank.pipeline.stages import Stages
from cmp_rerank.pipeline.tuning import is_same_training
from cmp_rerank.reranking.loading import load_reranker
from cmp_rerank.training import RerankerTrainer


def weights(folder: Path) -> torch.Tensor:
    state = load_file(folder / "model.safetensors")
    return torch.cat([state[name].flatten().double() for name in sorted(state)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def made_at(results: Results) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in results.folder.glob("*/stage.json")}


class Interrupted:
    """A report that interrupts a run in a stage, after some of its progress; and notes the stages."""

    def __init__(self, stage: str = "", after: int = 0) -> None:
        self.stage, self.after = stage, after
        self.titles: list[str] = []

    @contextmanager
    def __call__(self, title: str) -> Iterator[Any]:
        self.titles.append(title)

        def progress(done: int, total: int) -> None:
            if title == self.stage and done >= self.after:
                raise KeyboardInterrupt

        yield progress


@pytest.fixture(scope="module")
def comparative(tiny_checkpoint: Path) -> dict[str, Any]:
    return settings(tiny_checkpoint, ablations=["crop", {"kind": "drop", "p": 0.2}], loss="LambdaLoss", seeds=[0, 3])


@pytest.fixture(scope="module")
def whole(comparative: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """An uninterrupted run with two seeds."""
    return run(comparative, tmp_path_factory.mktemp("whole") / "run", collection=collection())


def test_the_folder_holds_what_is_promised(whole: Results, comparative: dict[str, Any]) -> None:
    folder = whole.folder
    assert load(folder / "config.yaml") == load(comparative)
    values = json.loads((folder / "results.json").read_text())
    assert values == json.loads(json.dumps(whole.values))
    assert set(values["seconds"]) == {"first_stage", "training_data", "seed-0", "seed-3", "guard", "runs", "result"}
    assert values["environment"][0]["versions"]["torch"] == torch.__version__
    assert "<html" in (folder / "result" / "report.html").read_text()
    assert "rows from" in (folder / "log.txt").read_text()
    assert whole.model == folder / values["model"] == folder / "guard" / "model"
    CrossEncoder(str(whole.model), device="cpu")  # an ordinary checkpoint
    for seed in (0, 3):
        metrics = lines(folder / f"seed-{seed}-training" / "metrics.jsonl")
        assert [line["step"] for line in metrics if "loss" in line] == [1, 2, 3, 4]
        assert [line["step"] for line in metrics if "eval_nDCG@10" in line] == [0, 2, 4]
        assert "violation_rate" in metrics[1]
        by_query = lines(folder / f"seed-{seed}-training" / "values.jsonl")
        assert [line["step"] for line in by_query] == [0, 2, 4]
        for line, means in zip(by_query, (each for each in metrics if "eval_nDCG@10" in each), strict=True):
            found = line["values"]["nDCG@10"]
            assert set(found) == set(split(6, 10).queries)
            assert sum(found.values()) / len(found) == pytest.approx(means["eval_nDCG@10"])
    assert not torch.equal(weights(folder / "seed-0" / "model"), weights(folder / "seed-3" / "model"))


@pytest.mark.parametrize("model", ["seed-0", "seed-3", "guard"])
def test_the_model_cards_say_how_the_models_were_made(model: str, whole: Results, tiny_checkpoint: Path) -> None:
    card = (whole.folder / model / "model" / "README.md").read_text(encoding="utf-8")
    section = card[card.index("## How this model was made") : card.index("## Training Details")]
    assert f"- **Start:** {tiny_checkpoint}\n" in section
    assert "queries: 6 train (split 'train'), 4 validation (split 'dev'), 4 test (split 'test')" in section
    assert "- **First stage:** bm25, 6 candidates of each query" in section
    hinge = "PairwiseHinge(baseline='zero', reduction='mean')"  # what it is, and not only what it is called
    assert (
        f"- **Ablations:** `CmpCrop()`, `CmpDrop(p=0.2)`\n- **Objective:** `{hinge}`\n- **Seeds:** 0, 3\n" in section
    )
    assert f"the command was `{Path(sys.argv[0]).name.replace('__main__.py', 'cmp-rerank')}" in section
    assert whole.values["guard"]["sentence"] in section
    assert whole.values["training_data"]["summary"] in section
    tuned, contrast = whole.comparison.mean("tuned", "nDCG@10"), whole.comparison.contrast("tuned", "nDCG@10")
    assert f"| tuned (2 seeds) | {tuned.mean:.4f} ({tuned.low:.4f} to {tuned.high:.4f}) |" in section
    assert f"| {contrast.difference:+.4f} ({contrast.low:+.4f} to {contrast.high:+.4f}) |" in section
    assert f"torch {torch.__version__}" in section
    assert ("## What the guard found" in card) == (model == "guard")
    # The configuration of the card makes the same run.
    written = section.partition("```yaml\n")[2].partition("```")[0]
    (whole.folder / ".card.yaml").write_text(written)
    assert load(whole.folder / ".card.yaml") == load(whole.folder / "config.yaml")
    assert CrossEncoder(str(whole.folder / model / "model"), device="cpu").num_labels == 1


def test_the_runs_are_those_of_the_models(whole: Results) -> None:
    candidates = read_run(whole.folder / "first_stage" / "test.trec")
    queries, corpus = split(10, 14).queries, collection().corpus
    for seed in (0, 3):
        model = CrossEncoder(str(whole.folder / f"seed-{seed}" / "model"), device="cpu")
        again = rerank(model, queries, corpus, candidates, k=6)
        found = read_run(whole.folder / "runs" / f"tuned-{seed}.trec")
        assert {query: list(scores) for query, scores in found.items()} == {
            query: sorted(scores, key=lambda doc: (scores[doc], doc), reverse=True) for query, scores in again.items()
        }
    chosen = load_guard(whole.model, device="cpu").rerank(queries, corpus, candidates)
    mean = evaluate(chosen, {query: QRELS[query] for query in queries}, "nDCG@10")["nDCG@10"]
    assert _mean(whole, "chosen") == pytest.approx(mean)


def test_several_seeds_are_one_system(whole: Results) -> None:
    qrels = split(10, 14).qrels
    each = [evaluate(read_run(whole.folder / "runs" / f"tuned-{seed}.trec"), qrels, "nDCG@10") for seed in (0, 3)]
    assert _mean(whole, "tuned") == pytest.approx(sum(e["nDCG@10"] for e in each) / 2)
    (entry,) = [e for e in whole.values["comparison"]["means"] if e["system"] == "tuned"]
    assert entry["seeds"] == 2
    assert whole.comparison.baseline == "first stage"


def _mean(results: Results, system: str) -> float:
    (entry,) = [e for e in results.values["comparison"]["means"] if e["system"] == system]
    return float(entry["mean"])


def test_the_best_checkpoint_is_the_one_that_is_kept(whole: Results) -> None:
    for seed in (0, 3):
        folder = whole.folder / f"seed-{seed}-training"
        found = {
            line["step"]: line["eval_nDCG@10"] for line in lines(folder / "metrics.jsonl") if "eval_nDCG@10" in line
        }
        best = max((2, 4), key=lambda step: found[step])
        assert whole.values["training"][str(seed)]["best_step"] == best
        assert torch.equal(weights(whole.folder / f"seed-{seed}" / "model"), weights(folder / f"checkpoint-{best}"))
        start = whole.folder.parent / "start"
        start_model(load(whole.folder / "config.yaml").model, seed, device="cpu").save_pretrained(str(start))
        assert (weights(folder / f"checkpoint-{best}") - weights(start)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("stage", "after"),
    [("Mining negatives", 2), ("Training: seed 0", 1), ("Training: seed 3", 3), ("Guard: is tuning any better?", 1)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    stage: str, after: int, comparative: dict[str, Any], whole: Results, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(comparative, tmp_path / "run", collection=collection(), report=Interrupted(stage, after))
    assert not (tmp_path / "run" / "results.json").exists()
    with pytest.raises(ValueError, match="this folder holds a run; go on with it by --resume"):
        run(comparative, tmp_path / "run", collection=collection())
    transformers.set_seed(99)  # whatever the state of the process
    report = Interrupted()
    results = run(comparative, tmp_path / "run", collection=collection(), resume=True, report=report)
    for seed in (0, 3):
        one, other = (each.folder / f"seed-{seed}" / "model" for each in (results, whole))
        assert torch.equal(weights(one), weights(other))
        for name in ("metrics.jsonl", "values.jsonl"):
            logs = [lines(each.folder / f"seed-{seed}-training" / name) for each in (results, whole)]
            assert _without_times(logs[0]) == _without_times(logs[1])
    assert results.comparison.to_dict()["means"] == whole.comparison.to_dict()["means"]
    assert results.values["guard"]["chosen"] == whole.values["guard"]["chosen"]
    assert len(results.values["environment"]) == 2
    if stage.startswith("Training"):
        assert report.titles[1] == "Validation"  # within the training
    if stage == "Training: seed 3":
        assert report.titles[0] == "Training: seed 3"  # what was complete is kept
        assert results.values["training"]["3"]["resumed_from"] == "checkpoint-2"


def _without_times(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Also without the last line, whose mean loss is that of the steps since the resume."""
    timed = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in log if "train_loss" not in line]


def test_a_finished_run_is_only_read(comparative: dict[str, Any], whole: Results) -> None:
    before = made_at(whole)
    report = Interrupted()
    again = run(comparative, whole.folder, collection=collection(), resume=True, report=report)
    assert report.titles == []
    assert made_at(again) == before
    assert again.values["comparison"] == whole.values["comparison"]


def test_what_changed_and_what_depends_on_it_is_made_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plain = settings(tiny_checkpoint, training={"max_steps": 2})
    first = run(plain, tmp_path / "run", collection=collection())
    before = made_at(first)
    report = Interrupted()
    changed = settings(tiny_checkpoint, training={"max_steps": 2}, guard={"enabled": False})
    second = run(changed, tmp_path / "run", collection=collection(), resume=True, report=report)
    assert second.verdict is None
    assert second.model == second.folder / "seed-0" / "model"
    assert {name for name, when in made_at(second).items() if before[name] == when} == {
        "first_stage", "training_data", "seed-0", "guard",
    }  # fmt: skip
    assert "chosen" not in second.comparison.systems
    assert load(second.folder / "config.yaml").guard.enabled is False
    # Checkpoints take most of the space, and nothing that is complete needs them.
    shutil.rmtree(second.folder / "seed-0-training")
    third = run(plain, tmp_path / "run", collection=collection(), resume=True)
    assert made_at(third)["seed-0"] == before["seed-0"]
    assert third.verdict is not None


def test_a_training_that_has_finished_is_made_again_with_other_settings(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    plain: dict[str, Any] = {"guard": {"enabled": False}}
    sizes = plain | {"sizes": [3, "all"]}
    run(settings(tiny_checkpoint, **sizes), tmp_path / "run", collection=collection())
    for changed in (sizes | {"training": {"learning_rate": 5e-3}}, plain | {"negatives": {"negatives": 2}}):
        again = run(settings(tiny_checkpoint, **changed), tmp_path / "run", collection=collection(), resume=True)
        fresh = tmp_path / "-".join(changed)
        anew = run(settings(tiny_checkpoint, **changed), fresh, collection=collection())
        for name in ("seed-0", *(["size-3/seed-0"] if "sizes" in changed else [])):
            assert torch.equal(weights(again.folder / name / "model"), weights(anew.folder / name / "model"))
            logs = [lines(each.folder / f"{name}-training" / "metrics.jsonl") for each in (again, anew)]
            assert _without_times(logs[0]) == _without_times(logs[1])
        assert again.values["training"]["0"]["resumed_from"] is None


def test_a_training_that_was_begun_is_not_continued_with_other_settings(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    values = [
        settings(tiny_checkpoint, training={"max_steps": steps, "eval_steps": 1, "save_steps": 1})
        for steps in (2, 3, 4)
    ]
    finished = run(values[0], tmp_path / "run", collection=collection())
    report = Interrupted("Training: seed 0", 2)
    with pytest.raises(KeyboardInterrupt):
        run(values[1], tmp_path / "run", collection=collection(), resume=True, report=report)
    written = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"settings\.json: this training was started with other settings"):
        run(values[2], tmp_path / "run", collection=collection(), resume=True)
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == written
    # What has finished is there still. The log of the training that was begun since is not of it.
    other = {**values[0], "evaluation": {"measures": ["nDCG@10"]}, "guard": {"enabled": False}}
    before = run(other, tmp_path / "run", collection=collection(), resume=True)
    assert torch.equal(weights(before.model), weights(finished.folder / "seed-0" / "model"))
    assert "validation nDCG@10" not in (before.folder / "result" / "report.html").read_text(encoding="utf-8")
    assert (
        run(values[1], tmp_path / "run", collection=collection(), resume=True)
        .values["training"]["0"]["resumed_from"]
        .startswith("checkpoint-")
    )


def test_processes_beside_the_first_one_take_no_checkpoint_of_another_training(tmp_path: Path) -> None:
    """The first one removes the checkpoints of a finished training; others may look before, after, or meanwhile."""
    path = tmp_path / "settings.json"
    assert is_same_training(path, {"rate": 1e-5})
    path.write_text(json.dumps({"rate": 1e-5}))
    assert is_same_training(path, {"rate": 1e-5})
    assert not is_same_training(path, {"rate": 2e-5})


LONG = " ".join(["The bridge was closed."] * 12)


def long_collection() -> Collection:
    """What a document is about stands behind what the window has room for."""
    own = collection()
    splits = {name: own.part(name) for name in own.splits}
    return Collection("long", {name: f"{LONG} {text}" for name, text in own.corpus.items()}, splits)


@pytest.fixture(scope="module")
def long_start(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "start"
    model = CrossEncoder(str(tiny_checkpoint), device="cpu", max_length=40)
    LongDocumentReranker(model, "avg", passage_tokens=25).save_pretrained(str(folder))
    return folder


def test_a_model_that_reads_long_documents_does_so_all_the_way(long_start: Path, tmp_path: Path) -> None:
    values = settings(long_start, ablations=["crop"], sizes=[3, "all"], training={"token_cache": str(tmp_path / "t")})
    results = run(values, tmp_path / "run", collection=long_collection())
    start = load_reranker(long_start, device="cpu")
    assert isinstance(start, LongDocumentReranker)
    for name in ("seed-0", "size-3/seed-0", "guard"):
        kept = load_reranker(results.folder / name / "model", device="cpu")
        assert isinstance(kept, LongDocumentReranker)
        assert kept.settings == start.settings
        assert isinstance(load_reranker(results.folder / "seed-0-training" / "checkpoint-2"), LongDocumentReranker)
    # What the guard measures as the start is the user's model, and the evaluations while it trains are of it.
    candidates, qrels = read_run(results.folder / "first_stage" / "validation.trec"), split(6, 10).qrels
    run_of = {
        name: rerank(model, split(6, 10).queries, long_collection().corpus, candidates, k=6)
        for name, model in (("start", start), ("tuned", load_reranker(results.folder / "seed-0" / "model")))
    }
    assert results.verdict is not None
    rows = {row["name"]: row["mean"] for row in results.verdict["candidates"]}
    for name, found in run_of.items():
        assert rows[name] == pytest.approx(evaluate(found, qrels, "nDCG@10")["nDCG@10"])
    record = results.values["training"]["0"]
    assert record["best"] == pytest.approx(rows["tuned"])
    best = results.folder / "seed-0-training" / f"checkpoint-{record['best_step']}"
    assert torch.equal(weights(results.folder / "seed-0" / "model"), weights(best))
    ranked = rerank(start, split(10, 14).queries, long_collection().corpus, read_run(
        results.folder / "first_stage" / "test.trec"), k=6)  # fmt: skip
    found = read_run(results.folder / "runs" / "start.trec")
    for query, scores in ranked.items():
        assert found[query] == pytest.approx(scores, abs=1e-5)


def test_a_training_of_a_model_that_reads_long_documents_resumes(long_start: Path, tmp_path: Path) -> None:
    values = settings(long_start, guard={"enabled": False})
    whole = run(values, tmp_path / "whole", collection=long_collection())
    report = Interrupted("Training: seed 0", 3)
    with pytest.raises(KeyboardInterrupt):
        run(values, tmp_path / "run", collection=long_collection(), report=report)
    resumed = run(values, tmp_path / "run", collection=long_collection(), resume=True)
    assert resumed.values["training"]["0"]["resumed_from"] == "checkpoint-2"
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_another_way_to_read_long_documents_is_another_model(long_start: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(long_start, tmp_path / "start")
    values = load(settings(folder, negatives={"teacher": str(folder)}))
    digests = set()
    for combine in ("avg", "max", None):
        model = LongDocumentReranker(folder, combine or "max", device="cpu")
        (model.passage_model if combine is None else model).save_pretrained(str(folder))
        stages, _ = prepare(values, tmp_path / "run", collection=long_collection())
        digests.add((stages.weights, stages.sources[str(folder)]))
    assert len({start for start, _ in digests}) == len({teacher for _, teacher in digests}) == 3
    assert (model_digest(folder),) * 2 in digests


def test_the_log_of_a_training_that_diverges_is_drawn_as_far_as_it_is_finite(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    training = {"learning_rate": 1e25, "warmup_steps": 0, "max_grad_norm": 0, "logging_nan_inf_filter": False}
    results = run(settings(tiny_checkpoint, training=training), tmp_path / "run", collection=collection())
    losses = [line["loss"] for line in lines(results.folder / "seed-0-training" / "metrics.jsonl") if "loss" in line]
    assert None in losses  # the canary
    assert results.verdict is not None
    assert results.verdict["outcome"] == "would have hurt"
    page = (results.folder / "result" / "report.html").read_text(encoding="utf-8")
    assert "seed 0 (without 1 not finite)" in page


def test_the_name_of_a_run_may_have_spaces(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "my own.trec", BM25(collection().corpus).search(QUERIES, 6))
    values = settings(tiny_checkpoint, first_stage={"kind": str(tmp_path / "my own.trec")})
    stages, _ = prepare(load(values), tmp_path / "run", collection=collection())
    (line, *_) = (stages.first_stage.folder / "test.trec").read_text().splitlines()
    assert line.split()[-1] == "my_own"


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_without_candidates_is_told_before_training(part: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    first, last = {"train": (0, 6), "validation": (6, 10), "test": (10, 14)}[part]
    missing = split(first, last).queries
    found = BM25(collection().corpus).search(QUERIES, 6)
    own, other = tmp_path / "own.trec", tmp_path / "other.trec"
    write_run(own, {query: docs for query, docs in found.items() if query not in missing})
    write_run(other, found)
    values = settings(tiny_checkpoint, first_stage={"kind": str(own)})
    with pytest.raises(ValueError, match=rf"own.trec' finds no document for the {part} queries; got .*; match"):
        run(values, tmp_path / "run", collection=collection())
    assert not list((tmp_path / "run").glob("seed*"))
    if part == "train":  # which are not searched for, where negatives come from elsewhere
        values["negatives"] |= {"runs": [str(other)]}
        assert prepare(load(values), tmp_path / "other", collection=collection())[0].training_data.folder.exists()
    # Another file for them is gone on with.
    values["first_stage"] |= {"runs": {"dev" if part == "validation" else part: str(other)}}
    stages, _ = prepare(load(values), tmp_path / "run", collection=collection(), resume=True)
    assert set(stages.candidates(part)) == {query for query in missing if found[query]}


def test_sizes_are_of_what_mining_has_left(tiny_checkpoint: Path, tmp_path: Path) -> None:
    own, train = collection(), collection().part("train")
    leaked = dict(zip(train.queries, own.queries("test").values(), strict=False))  # four of six are test queries
    own = own.with_splits(
        {
            "train": Split({**train.queries, **leaked}, train.qrels),
            **{name: own.part(name) for name in ("dev", "test")},
        }
    )
    values = settings(tiny_checkpoint, sizes=[3, "all"])
    with pytest.raises(ValueError, match=r"sizes must have .* of 2 training queries; choose smaller ones"):
        run(values, tmp_path / "run", collection=own)
    assert not list((tmp_path / "run").glob("seed*"))


@pytest.mark.parametrize("had", ["start", "start mixed"])
def test_an_untrained_head_is_not_what_the_user_had(had: str, tmp_path: Path) -> None:
    encoder = save_checkpoint(
        tmp_path / "encoder", bert_config(), wordpiece(), auto=transformers.AutoModel, num_labels=None
    )
    with pytest.raises(ValueError, match=rf"guard.had must be 'best' or 'first stage' .*; got '{had}'; choose"):
        run(settings(encoder, guard={"had": had}), tmp_path / "run", collection=collection())
    assert not (tmp_path / "run").exists()
    prepare(load(settings(encoder, guard={"had": had, "enabled": False})), tmp_path / "run", collection=collection())


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"learning_rate": 1e30, "warmup_steps": 0}},
        {
            "ablations": ["crop"],
            "sizes": [3, "all"],
            "training": {"learning_rate": 1e30, "eval_strategy": "no", "load_best_model_at_end": False},
        },
    ],
    ids=["told by an evaluation", "told by the loss"],
)
def test_of_a_training_that_diverges_the_start_is_kept(
    sections: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    values = settings(tiny_checkpoint, loss="LambdaLoss", **sections)
    results = run(values, tmp_path / "run", collection=collection())
    assert results.verdict is not None
    assert results.verdict["outcome"] == "would have hurt"
    assert "the tuned model gives scores that are not finite, so training has diverged" in results.verdict["sentence"]
    assert torch.equal(weights(results.model), weights(tiny_checkpoint))
    assert results.comparison.systems == ("first stage", "start", "chosen")
    assert results.values["training"]["0"]["diverged"].startswith("at step ")
    assert "the training has diverged and ends at step" in (results.folder / "log.txt").read_text()
    if "sizes" in sections:
        assert results.values["learning_curve"]["sentence"].startswith("There is no learning curve: trainings have")
    before = made_at(results)
    assert made_at(run(values, results.folder, collection=collection(), resume=True)) == before
    # Without the guard nothing keeps such a model from being handed over.
    with pytest.raises(ValueError, match=r"finite|does not decompose"):
        run({**values, "guard": {"enabled": False}}, tmp_path / "unguarded", collection=collection())


def test_of_a_training_that_diverges_the_best_checkpoint_is_taken(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = RerankerTrainer.training_step

    def ruins(self: RerankerTrainer, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(float("nan"))
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(RerankerTrainer, "training_step", ruins)
    results = run(settings(tiny_checkpoint), tmp_path / "run", collection=collection())
    assert results.values["training"]["0"]["diverged"].startswith("at step ")
    assert results.values["training"]["0"]["best_step"] == 2
    best = results.folder / "seed-0-training" / "checkpoint-2"
    assert torch.equal(weights(results.folder / "seed-0" / "model"), weights(best))
    assert "tuned" in results.comparison.systems


def test_an_error_of_a_training_that_has_not_diverged_is_told(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = RerankerTrainer.training_step

    def fails(self: RerankerTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            raise ValueError("the labels are wrong")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(RerankerTrainer, "training_step", fails)
    with pytest.raises(ValueError, match="the labels are wrong"):
        run(settings(tiny_checkpoint), tmp_path / "run", collection=collection())


def test_an_encoder_gets_a_new_head_for_each_seed(tmp_path: Path) -> None:
    encoder = save_checkpoint(
        tmp_path / "encoder", bert_config(), wordpiece(), auto=transformers.AutoModel, num_labels=None
    )
    values = settings(encoder, seeds=[1, 2], training={"max_steps": 1}, evaluation={"patience": 1})
    results = run(values, tmp_path / "run", collection=collection())
    assert results.comparison.systems == ("first stage", "chosen", "tuned")  # untrained, it ranks at random
    assert any("new head" in note for note in results.values["notes"])
    heads = [load_file(results.folder / f"seed-{seed}" / "model" / "model.safetensors") for seed in (1, 2)]
    assert (heads[0]["classifier.weight"] - heads[1]["classifier.weight"]).abs().max() > 1e-3
    config = load(values)
    first, again, other = (start_model(config.model, seed, device="cpu").state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_without_ablations_it_is_plain_training(tiny_checkpoint: Path) -> None:
    model = CrossEncoder(str(tiny_checkpoint), device="cpu")
    plain = loss_of(model, load(settings(tiny_checkpoint)), 0)
    assert type(plain).__name__ == "BinaryCrossEntropyLoss"
    compared = loss_of(model, load(settings(tiny_checkpoint, ablations=["drop"], objective="mean")), 5)
    assert type(compared).__name__ == "ComparativeLoss"
    assert (repr(compared.objective), compared.comparison.seed) == ("MeanOfSteps()", 5)  # type: ignore[operator, union-attr]


def test_without_dropout_the_models_own_dropout_is_off_in_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As with a checkpoint that has none; what comes out keeps its rates."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    short: dict[str, Any] = {"training": {"max_steps": 3, "learning_rate": 1e-2}, "guard": {"enabled": False}}

    def tuned(name: str, **model: Any) -> Path:
        values = settings(tiny_checkpoint, **short)
        values["model"] = {**values["model"], **model}
        return run(values, tmp_path / name, collection=collection()).folder / "seed-0" / "model"

    on, off, none = tuned("on"), tuned("off", dropout=False), tuned("none", options={"config_kwargs": rates})
    assert torch.equal(weights(off), weights(none))
    assert not torch.equal(weights(off), weights(on))
    saved = [off, *(off.parents[1] / "seed-0-training").glob("checkpoint-*")]
    assert len(saved) > 1
    for checkpoint in saved:
        assert json.loads((checkpoint / "config.json").read_text())["hidden_dropout_prob"] == 0.1


def test_a_loss_and_an_ablation_of_the_users(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own.py").write_text(
        "from dataclasses import dataclass\n"
        "from cmp_rerank.ablations import CmpDrop\n"
        "from sentence_transformers.cross_encoder.losses import MSELoss\n"
        "class Half(MSELoss):\n"
        "    '''Half of it.'''\n"
        "    def __init__(self, model, share=1.0):\n"
        "        super().__init__(model)\n"
        "        self.share = share\n"
        "@dataclass(frozen=True)\n"
        "class Gentle(CmpDrop):\n"
        "    p: float = 0.01\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        values = settings(
            tiny_checkpoint,
            loss={"kind": "my_own:Half", "share": 0.5},
            ablations=["my_own:Gentle"],
            training={"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False},
            guard={"enabled": False},
        )
        results = run(values, tmp_path / "run", collection=collection())
        assert (
            json.loads((results.folder / "training_data" / "stage.json").read_text())["settings"]["format"] == "pairs"
        )
        assert lines(results.folder / "seed-0-training" / "metrics.jsonl")[0]["task_loss_step_1"] > 0
    finally:
        sys.modules.pop("my_own", None)


def test_negatives_come_from_where_it_is_said(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "own.trec").write_text("".join(f"q{i} Q0 d3 1 2.0 x\nq{i} Q0 d8 2 1.0 x\n" for i in range(14)))
    values = settings(
        tiny_checkpoint,
        # "dev" and "validation" are one name.
        first_stage={"runs": {name: str(tmp_path / "own.trec") for name in ("train", "validation", "test")}},
        negatives={"negatives": 1, "ranks": [1, 2], "runs": [str(tmp_path / "own.trec")]},
    )
    task_data = collection()
    stages, _ = prepare(load(values), tmp_path / "run", collection=task_data)
    for part, query in (("validation", "q7"), ("test", "q11")):
        assert set(stages.candidates(part)[query]) == {"d3", "d8"}
    rows = datasets.load_from_disk(str(stages.training_data.folder / "rows"))
    documents = set(rows["document"]) - {task_data.corpus[doc] for query in QRELS for doc in QRELS[query]}
    assert documents <= {task_data.corpus["d3"], task_data.corpus["d8"]}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"name": "no/such-model"}}, "no/such-model"),
        ({"data": {"train": "trian"}}, "trian"),
        (
            {"loss": {"kind": "LambdaLoss", "reduction_log": "decimal"}},
            "loss.reduction_log: input should be .natural. or .binary.",
        ),
        (
            {"first_stage": {"runs": {"trian": "mine.trec"}}},
            "split must be one of .*; got 'trian'; did you mean 'train'",
        ),
        ({"model": {"max_length": 161}}, r"model\.max_length must be at most 160, the positions .*; got 161; choose"),
        ({"model": {"options": {"num_labels": 3}}}, "model.name must be .* of a cross-encoder or an encoder; got"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_computed(
    sections: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(settings(tiny_checkpoint, **sections), tmp_path / "run", collection=collection())
    assert not (tmp_path / "run").exists()


def test_a_model_must_give_one_score(tmp_path: Path) -> None:
    classes = save_checkpoint(tmp_path / "classes", bert_config(), wordpiece(), num_labels=3)
    with pytest.raises(ValueError, match=r"gives one score for a pair; got .*, which gives 3"):
        run(settings(classes), tmp_path / "run", collection=collection())


def test_a_folder_that_is_no_run_is_left_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds something else than a run"):
            run(settings(tiny_checkpoint), tmp_path, collection=collection(), resume=resume)
    with pytest.raises(ValueError, match="this is a file"):
        run(settings(tiny_checkpoint), tmp_path / "notes.txt", collection=collection())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_log_is_given_back(whole: Results) -> None:
    for name in ("cmp_rerank", "transformers", "sentence_transformers"):
        files = [getattr(handler, "baseFilename", "") for handler in logging.getLogger(name).handlers]
        assert not [file for file in files if file.startswith(str(whole.folder))]


def test_the_corpus_of_a_task_is_never_listed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Only the texts that are needed are read of a corpus that may be larger than memory."""
    stages: Stages = prepare(load(settings(tiny_checkpoint)), tmp_path / "run", collection=collection())[0]
    assert stages.task.digest("train") == task_of(load(settings(tiny_checkpoint)).data, collection()).digest("train")


def test_other_files_of_negatives_are_noticed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    own, labels = tmp_path / "own.trec", tmp_path / "labels.trec"

    def write(path: Path, docs: str) -> None:
        path.write_text(
            "".join(f"q{i} Q0 d{doc} 1 {9 - place} x\n" for i in range(14) for place, doc in enumerate(docs))
        )

    def mined() -> str:
        values = settings(
            tiny_checkpoint,
            first_stage={"kind": str(own)},
            negatives={"negatives": 1, "runs": [str(own)], "teacher": str(labels), "unscored": "lowest"},
            loss="MSELoss",
        )
        stages, _ = prepare(load(values), tmp_path / "run", collection=collection(), resume=True)
        return stages.training_data.digest

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    write(own, "38")
    write(labels, "01")
    first = mined()
    assert mined() == first
    write(labels, "10")
    second = mined()
    write(own, "83")
    assert len({first, second, mined()}) == 3


def test_grades_as_labels_of_binary_cross_entropy_are_told_before_training(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    train = split(0, 6)
    graded = Split(train.queries, {query: dict.fromkeys(docs, 3) for query, docs in train.qrels.items()})
    known = Collection("graded", CORPUS, {"train": graded, "dev": split(6, 10), "test": split(10, 14)})

    def begun(labels: str, loss: str = "BinaryCrossEntropyLoss", resume: bool = True) -> Stages:
        values = settings(tiny_checkpoint, negatives={"labels": labels}, loss=loss)
        stages: Stages = prepare(load(values), tmp_path / "run", collection=known, resume=resume)[0]
        return stages

    with pytest.raises(ValueError, match="BinaryCrossEntropyLoss needs labels from 0 to 1; got 3; divide grades"):
        begun("grades", resume=False).tuned(0)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["first_stage", "index", "training_data"]
    (tmp_path / "run" / "config.yaml").touch()
    for labels, loss in (("scaled", "BinaryCrossEntropyLoss"), ("grades", "MSELoss")):
        assert begun(labels, loss).training_data.folder.is_dir()


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ({"runs": ["none.trec"]}, "none.trec: no such file"),
        ({"teacher": "none.trec"}, "none.trec: no such checkpoint"),
        ({"filter_model": "none/model", "absolute_margin": 1.0}, "none/model: no such checkpoint"),
    ],
)
def test_sources_of_negatives_are_looked_at_before_anything_is_computed(
    negatives: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(load(settings(tiny_checkpoint, negatives=negatives)), tmp_path / "run", collection=collection())


def test_a_model_with_code_of_its_own_goes_the_whole_way(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tuned is loaded with the arguments of the start; otherwise its code is refused, after training."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "own")
    (folder / "modeling_own.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own-bert'\n"
        "class OwnForSequenceClassification(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    kinds = {"AutoConfig": "OwnConfig", "AutoModelForSequenceClassification": "OwnForSequenceClassification"}
    config |= {"model_type": "own-bert", "architectures": ["OwnForSequenceClassification"]}
    config["auto_map"] = {auto: f"modeling_own.{name}" for auto, name in kinds.items()}
    (folder / "config.json").write_text(json.dumps(config))
    values = settings(folder, model={"options": {"trust_remote_code": True}}, sizes=[3, "all"])
    values["training"] |= {"max_steps": 1, "eval_steps": 1, "save_steps": 1}
    results = run(values, tmp_path / "run", collection=collection())
    model = CrossEncoder(str(results.model), trust_remote_code=True)
    assert type(model.transformers_model).__name__ == "OwnForSequenceClassification"
