"""The evaluator for training: figures, files, warnings, and a real trainer that chooses its checkpoint by it."""

from __future__ import annotations

import csv
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from optional_libraries import datasets
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

from cmp_rerank.evaluation import Judgments, RunEvaluator, evaluate

QUERIES = {f"q{i}": f"question {i}" for i in range(12)}
CORPUS = {f"d{j}": f"answer number {j}" for j in range(5)}
QRELS = {query: {"d0": 2, "d1": 1} for query in QUERIES}
GOOD = {query: {f"d{j}": float(-j) for j in range(5)} for query in QUERIES}
BAD = {query: {f"d{j}": float(j) for j in range(5)} for query in QUERIES}


class Fixed:
    """A model that prefers low numbers, high numbers, or nothing."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [self.sign * int(text.split()[-1]) for _, text in pairs]


def evaluator(run: dict, **options: object) -> RunEvaluator:
    return RunEvaluator(QUERIES, CORPUS, QRELS, run, **{"measures": "nDCG@10 RR", "name": "dev", **options})


def test_figures_are_those_of_evaluate() -> None:
    qrels = {**QRELS, "unfound": {"d0": 1}}
    part = {query: scores for query, scores in BAD.items() if query != "q3"}
    judge = RunEvaluator({**QUERIES, "unfound": "x"}, CORPUS, qrels, part, measures="nDCG@10 RR", name="dev")
    metrics = judge(Fixed(-1.0))
    expected = evaluate({q: GOOD[q] for q in part}, qrels, "nDCG@10 RR")
    base = evaluate(part, qrels, "nDCG@10 RR")
    assert metrics == {
        "dev_nDCG@10": expected["nDCG@10"],
        "dev_RR": 11 / 13,
        "dev_base_nDCG@10": base["nDCG@10"],
        "dev_base_RR": base["RR"],
    }
    assert judge.last is not None
    assert judge.last.per_query["RR"]["q3"] == 0.0
    assert judge.last.queries == judge.first_stage.queries == tuple(qrels)
    assert judge.primary_metric == "dev_nDCG@10"
    assert judge.greater_is_better


def test_an_identity_reranker_is_the_first_stage() -> None:
    judge = evaluator(BAD)
    metrics = judge(Fixed(1.0))
    assert metrics["dev_nDCG@10"] == metrics["dev_base_nDCG@10"]
    assert all(c.difference == 0.0 for c in judge.contrasts())


def test_each_call_reports_its_progress() -> None:
    calls: list[list[tuple[int, int]]] = []

    @contextmanager
    def report() -> Iterator[Any]:
        calls.append([])
        yield lambda done, pairs: calls[-1].append((done, pairs))

    judge = evaluator(BAD, report=report)
    judge(Fixed(-1.0))
    judge(Fixed(1.0))
    assert [call[-1] for call in calls] == [(60, 60)] * 2


def test_files(tmp_path: Path) -> None:
    judge = evaluator(BAD)
    judge(Fixed(-1.0), str(tmp_path / "eval"), epoch=0.5, steps=10)
    judge(Fixed(1.0), str(tmp_path / "eval"), epoch=1.0, steps=20)
    rows = list(csv.DictReader((tmp_path / "eval/RunEvaluator_dev_results.csv").open()))
    assert [(row["epoch"], row["steps"]) for row in rows] == [("0.5", "10"), ("1.0", "20")]
    assert float(rows[0]["RR"]) == 1.0
    lines = (tmp_path / "eval/RunEvaluator_dev_per_query.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [10, 20]
    assert json.loads(lines[0])["values"]["RR"] == dict.fromkeys(QUERIES, 1.0)
    assert [entry[1] for entry in judge.history] == [10, 20]
    evaluator(BAD, write_csv=False)(Fixed(1.0), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_warns_when_worse_than_the_first_stage(caplog: pytest.LogCaptureFixture) -> None:
    judge = evaluator(GOOD)
    with caplog.at_level(logging.WARNING):
        judge(Fixed(-1.0), steps=5, epoch=0.1)
        assert not caplog.records  # canary: the same is not worse
        judge(Fixed(1.0), steps=10, epoch=0.2)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(
        "dev: the model at epoch 0.20, step 10 is significantly worse than the first stage: nDCG@10"
    )
    assert "12 queries worse, 0 better" in message


def test_warns_when_worse_than_the_start(caplog: pytest.LogCaptureFixture) -> None:
    judge = evaluator(BAD)
    with caplog.at_level(logging.WARNING):
        judge(Fixed(-1.0), steps=0, epoch=0)
        judge(Fixed(1.0), steps=10, epoch=1.0)  # no worse than the first stage, but than the start
    assert [r.getMessage().split(":")[1] for r in caplog.records] == [
        " the model at epoch 1.00, step 10 is significantly worse than the model that training started from"
    ]
    assert {(c.baseline, c.measure, c.verdict) for c in judge.contrasts()} == {
        ("first stage", "nDCG@10", "not significant"),
        ("first stage", "RR", "not significant"),
        ("start", "nDCG@10", "worse"),
        ("start", "RR", "worse"),
    }


def test_only_a_call_before_training_is_the_start() -> None:
    judge = evaluator(BAD)
    judge(Fixed(1.0), steps=10, epoch=1.0)
    judge(Fixed(1.0))
    assert judge.start is None


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="no candidate for any judged query"):
        evaluator({"q99": {"d0": 1.0}})
    with pytest.raises(ValueError, match="no text for document 'd7', which the run needs"):
        evaluator({"q0": {"d7": 1.0}})
    with pytest.raises(ValueError, match="must be one of the measures: nDCG@10, RR; got 'AP'; add it"):
        evaluator(GOOD, primary="AP")
    with pytest.raises(ValueError, match="no evaluation to compare yet; call the evaluator"):
        evaluator(GOOD).contrasts()
    assert evaluator({"q0": {"d0": 1.0, "d7": 0.0}}, k=1).corpus == {"d0": CORPUS["d0"]}  # d7 is not reranked


def test_arguments_of_another_shape_are_refused() -> None:
    for arguments, message in (
        ((QUERIES, CORPUS, GOOD, QRELS), "swapped; got only small integers as scores, and the grade "),
        ((QUERIES, CORPUS, QRELS, Judgments(QRELS)), "qrels and run seem to be swapped; got Judgments as the run"),
        ((QUERIES, list(CORPUS), QRELS, GOOD), "corpus must map ids to texts; got a list of 5"),
        (((q for q in QUERIES), CORPUS, QRELS, GOOD), "queries must map ids to texts; got a generator"),
        ((QUERIES, CORPUS, QRELS, (q for q in GOOD)), "run must map query ids to .*; got a generator"),
        (
            (QUERIES, CORPUS, QRELS, "run.trec"),
            "got the string 'run.trec'; read the file with cmp_rerank.ir.read_run",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            RunEvaluator(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha must be a number between 0 and 1; got 5"):
        evaluator(GOOD, alpha=5)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1; got 0"):
        evaluator(GOOD, batch_size=0)
    # Measures may be a generator: they are read once.
    assert evaluator(GOOD, measures=(name for name in ["RR", "AP"]))(Fixed(-1.0)).keys() == {
        *("dev_RR", "dev_AP", "dev_base_RR", "dev_base_AP")
    }


def test_its_name_is_none_of_sentence_transformers() -> None:
    modules = [module for name, module in sys.modules.items() if name.startswith("sentence_transformers")]
    assert len(modules) > 10  # canary
    assert not [module for module in modules if hasattr(module, RunEvaluator.__name__)]


def training(model: CrossEncoder, judge: RunEvaluator, folder: Path, **options: object) -> CrossEncoderTrainer:
    texts = tiny_models.TEXTS
    rows = [(q, p, float(q == p)) for q in texts for p in texts]
    columns = dict(zip(("query", "passage", "label"), map(list, zip(*rows, strict=True)), strict=True))
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        logging_steps=2,
        eval_on_start=True,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{judge.primary_metric}",
        report_to="none",
        seed=1,
        use_cpu=True,
        **options,  # type: ignore[arg-type]
    )
    return CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        loss=BinaryCrossEntropyLoss(model),
        evaluator=judge,
    )


def collection() -> tuple[dict, dict, dict, dict]:
    queries = {f"q{i}": text for i, text in enumerate(tiny_models.TEXTS)}
    corpus = {f"d{i}": text for i, text in enumerate(tiny_models.TEXTS)}
    qrels = {f"q{i}": {f"d{i}": 1, f"d{(i + 1) % len(corpus)}": 1} for i in range(len(queries))}
    run = {query: {doc: float(-j) for j, doc in enumerate(corpus)} for query in queries}
    return queries, corpus, qrels, run


@pytest.mark.parametrize("primary", ["nDCG@3", "RR"])
def test_a_real_trainer_keeps_the_best_checkpoint(tiny_model: CrossEncoder, tmp_path: Path, primary: str) -> None:
    judge = RunEvaluator(*collection(), measures="nDCG@3 RR", primary=primary, name="dev")
    trainer = training(tiny_model, judge, tmp_path)
    trainer.train()
    assert [steps for _, steps, _ in judge.history] == [0, 2, 4, 6, 8, 10, 12]
    assert judge.start is not None
    by_step = {steps: means[primary] for _, steps, means in judge.history if steps}
    best = max(by_step.values())
    assert len(set(by_step.values())) > 1  # canary: there was something to choose
    first_best = min(steps for steps, value in by_step.items() if value == best)
    assert trainer.state.best_metric == pytest.approx(best)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{first_best}")
    assert judge(trainer.model)[f"dev_{primary}"] == pytest.approx(best)  # and it was loaded
    logged = {
        entry["step"]: entry[f"eval_dev_{primary}"]
        for entry in trainer.state.log_history
        if f"eval_dev_{primary}" in entry
    }
    assert logged == pytest.approx({0: judge.start[primary], **by_step})
    assert (tmp_path / "eval" / judge.csv_file).exists()
    trainer.model.save_pretrained(str(tmp_path / "saved"))
    assert "dev_" in (tmp_path / "saved/README.md").read_text()


DISTRIBUTED = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_evaluator as t
from cmp_rerank.evaluation import RunEvaluator
from sentence_transformers import CrossEncoder
torch.set_num_threads(1)
rank = os.environ["RANK"]
class Counting(RunEvaluator):
    calls = 0
    def __call__(self, *args, **kwargs):
        Counting.calls += 1
        return super().__call__(*args, **kwargs)
judge = Counting(*t.collection(), measures="nDCG@3", name="dev")
model = CrossEncoder(sys.argv[1], device="cpu")
options = {"ddp_backend": "gloo", "ddp_find_unused_parameters": False}
trainer = t.training(model, judge, Path(sys.argv[2]), **options)
trainer.train()
Path(sys.argv[2], f"rank{rank}").write_text(f"{Counting.calls} {trainer.state.best_metric}")
"""


@pytest.mark.slow
def test_a_distributed_job_evaluates_on_its_main_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(DISTRIBUTED)
    here = Path(__file__).parent
    path = os.pathsep.join(filter(None, (str(here), str(here.parent), os.environ.get("PYTHONPATH"))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    job = subprocess.run(
        [*launch, str(script), str(tiny_checkpoint), str(tmp_path), str(here)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert job.returncode == 0, job.stderr[-4000:]
    main, other = ((tmp_path / f"rank{rank}").read_text().split() for rank in (0, 1))
    assert (main[0], other[0]) == ("7", "0")
    assert main[1] == other[1] != "None"  # both processes know the best value
    rows = (tmp_path / "eval/RunEvaluator_dev_results.csv").read_text().splitlines()
    assert len(rows) == 1 + 7  # written once
