"""`cmp-rerank train`: a file, flags, or both; what it prints; a kill in the middle; two processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from optional_libraries import datasets
from pipeline_data import collection, settings
from processes import Program, distributed, free_port, succeeded
from safetensors.torch import load_file
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.pipeline import load
from cmp_rerank.pipeline.document import dump
from cmp_rerank.training.complete import last_checkpoint


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def weights(folder: Path) -> torch.Tensor:
    state = load_file(folder / "model.safetensors")
    return torch.cat([state[name].flatten().double() for name in sorted(state)])


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collection().write_beir(tmp_path_factory.mktemp("beir") / "tiny")


@pytest.fixture
def config(beir: Path, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A file for a training of seconds."""
    path = tmp_path / "train.yaml"
    path.write_text(dump(settings(tiny_checkpoint, data={"collection": f"beir:{beir}"})))
    return path


def test_from_a_file_with_flags_to_a_reranker(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call(
        config, "-o", out, "--set", "training.max_steps=2", "--ablations", "drop", "--seeds", "1,2", "-m", "RR"
    )
    assert result.exit_code == 0, result.output
    used = load(out / "config.yaml")
    assert (used.training["max_steps"], used.ablations, used.seeds) == (2, ({"kind": "drop"},), (1, 2))
    assert used.training["learning_rate"] == 1e-3  # of the file
    verdict = json.loads((out / "guard" / "model" / "verdict.json").read_text())
    words = " ".join(result.output.split())
    assert verdict["sentence"] in words
    assert verdict["test"]["sentence"] in words
    assert f"The model to use: {out / 'guard' / 'model'}" in result.output
    assert (out / "result" / "report.html").exists()

    again = call(config, "-o", out)
    assert again.exit_code == 2
    assert "go on with it by --resume" in again.output
    resumed = call(
        config, "-o", out, "--set", "training.max_steps=2", "--ablations", "drop", "--seed", "1,2", "-m", "RR",
        "--resume", "--json",
    )  # fmt: skip
    assert resumed.exit_code == 0, resumed.output
    values = json.loads(resumed.stdout)
    assert values["guard"]["sentence"] == verdict["sentence"]
    assert values["config"]["seeds"] == [1, 2]


def test_a_configuration_is_printed_whole(config: Path, tmp_path: Path) -> None:
    result = call(config, "--print-config", "--epochs", "3", "--loss", "LambdaLoss")
    assert result.exit_code == 0, result.output
    (tmp_path / "printed.yaml").write_text(result.stdout)
    expected = load(config, {"training.num_train_epochs": 3.0, "loss": "LambdaLoss"})
    assert load(tmp_path / "printed.yaml") == expected
    assert "# Passes" not in result.stdout
    assert result.stdout.count("\n  # ") > 50
    empty = call("--print-config")  # with examples in place of what is needed
    assert empty.exit_code == 0
    assert "collection: 'beir:PATH'" in empty.stdout
    files = call(
        "--print-config", "--corpus", "c", "--queries", "q", "--qrels", "train=t.tsv", "--qrels", "dev=d.tsv"
    )
    assert "collection: null" in files.stdout
    (tmp_path / "printed.yaml").write_text(files.stdout)
    assert load(tmp_path / "printed.yaml").data.qrels == {"train": "t.tsv", "dev": "d.tsv"}


def test_sizes_are_numbers_or_all(config: Path, tmp_path: Path) -> None:
    printed = call(config, "--print-config", "--sizes", "2, 4,all")
    (tmp_path / "printed.yaml").write_text(printed.stdout)
    assert load(tmp_path / "printed.yaml").sizes == (2, 4, "all")
    for sizes in ("2,some", "2,²"):
        wrong = call(config, "--print-config", "--sizes", sizes)
        assert wrong.exit_code == 2
        assert "--sizes, sizes.1" in wrong.output


def test_flags_alone_are_enough(beir: Path, tiny_checkpoint: Path) -> None:
    result = call(
        "--collection", f"beir:{beir}", "--model", tiny_checkpoint, "--print-config", "--split", "dev",
        "--validation", "0.3", "--test-split", "test", "--max-length", "64", "--first-stage", "anserini",
        "--run", "test=own.trec", "--depth", "20", "--negatives", "3", "--ablations", "none",
        "--learning-rate", "1e-4", "--batch-size", "8", "--seed", "5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for line in (
        "train: dev", "validation: 0.3", "test: test", "max_length: 64", "kind: anserini", "runs: {test: own.trec}",
        "depth: 20", "negatives: 3", "ablations: []", "learning_rate: 0.0001", "per_device_train_batch_size: 8",
        "seeds: [5]",
    ):  # fmt: skip
        assert line in result.stdout


def test_a_dry_run_checks_everything_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    result = call(config, "-o", tmp_path / "run", "--dry-run", "--ablations", "crop drop")
    assert result.exit_code == 0, result.output
    for part in ("train: 6 queries of 'train'", "comparatively, with 2 ablations", "nDCG@10 decides", "batches of 4"):
        assert part in result.stdout
    assert not (tmp_path / "run").exists()
    refused = call(config, "-o", tmp_path / "run", "--dry-run", "--model", "no/such")
    assert refused.exit_code == 2
    assert "no/such" in refused.output


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["CONFIG"], ["the results need a folder; got no --out"]),
        (["none.yaml", "-o", "OUT"], ["none.yaml: no such file"]),
        (["-o", "OUT"], ["the command line: 2 errors", "data: is needed", "model: is needed"]),
        (
            ["CONFIG", "-o", "OUT", "--loss", "LamdaLoss", "--epochs", "2", "--set", "training.lr=3", "--seed", "x"],
            ["3 errors", "--loss, loss: there is no loss 'LamdaLoss'; did you mean 'LambdaLoss'?",
             "--set, training.lr: there is no training argument 'lr'", "--seed, seeds.0: "],
        ),
        (["CONFIG", "-o", "OUT", "--set", "ablations.0.p=1"], ["ablations.0 does not exist"]),
        (["CONFIG", "-o", "OUT", "--qrels", "qrels.tsv"], ["--qrels takes SPLIT=FILE; got 'qrels.tsv'"]),
        (["CONFIG", "-o", "OUT", "--ablations", ""], ["--ablations must name a step"]),
        (["CONFIG", "-o", "OUT", "--collection", "bier:x"], ["beir"]),
        (["CONFIG", "-o", "CONFIG"], ["there is such a file already"]),
        (["CONFIG", "-o", "HERE"], ["holds something else than a run"]),
    ],
)  # fmt: skip
def test_what_is_refused(config: Path, tmp_path: Path, arguments: list[str], messages: list[str]) -> None:
    names = {"CONFIG": config, "OUT": tmp_path / "run", "HERE": tmp_path}
    result = call(*[names.get(argument, argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    for message in messages:
        assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def start(config: Path, out: Path, *arguments: str, processes: int = 1, launcher: str = "") -> list[Program]:
    datasets.Dataset  # noqa: B018 - the test is skipped where they are not
    command = ["-m", "cmp_rerank", "train", config, "-o", out, *arguments]
    if launcher == "accelerate":
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
        launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
        return [Program(*launch, *command)]
    if launcher == "torchrun":
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
        return [Program(*launch, *command)]
    return distributed(processes, *command)


def test_a_kill_in_the_middle_and_a_resume_end_as_one_run(config: Path, tmp_path: Path) -> None:
    long = [f"--set=training.{setting}" for setting in ("max_steps=8", "save_steps=1", "eval_steps=8")]
    long += ["--set=training.load_best_model_at_end=false", "--set=guard.enabled=false"]
    (killed,) = start(config, tmp_path / "killed", *long)
    while last_checkpoint(tmp_path / "killed" / "seed-0-training") is None:
        assert killed.poll() is None, killed.finished().stderr
        time.sleep(0.02)
    killed.kill()
    found = last_checkpoint(tmp_path / "killed" / "seed-0-training")
    assert found is not None
    assert not (tmp_path / "killed" / "seed-0").exists()
    for out, arguments in [("killed", ["--resume"]), ("whole", [])]:
        result = call(config, "-o", tmp_path / out, *long, *arguments)
        assert result.exit_code == 0, result.output
    one, other = (weights(tmp_path / out / "seed-0" / "model") for out in ("killed", "whole"))
    assert torch.equal(one, other)
    values = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("killed", "whole")]
    assert values[0]["training"]["0"]["resumed_from"].startswith("checkpoint-")
    assert values[0]["comparison"]["means"] == values[1]["comparison"]["means"]


@pytest.mark.parametrize(
    "launcher", ["", *(pytest.param(launcher, marks=pytest.mark.slow) for launcher in ("torchrun", "accelerate"))]
)
def test_two_processes_train_what_one_does(launcher: str, config: Path, tmp_path: Path) -> None:
    """With the batches of one process, halved, and without dropout, which draws other masks in each process."""
    common = [
        "--set", "model.options={config_kwargs: {hidden_dropout_prob: 0, attention_probs_dropout_prob: 0}}",
        "--set", "training.length_bucketing=false", "--set", "training.dataloader_drop_last=true",
        "--set", "training.optim=sgd", "--set", "training.learning_rate=0.1", "--loss", "LambdaLoss",
        "--set", "training.load_best_model_at_end=false", "--set", "training.eval_steps=4", "--seeds", "0,1",
        "--set", "guard.enabled=false",
    ]  # fmt: skip

    def trained(*more: str) -> tuple[str, dict[int, Any]]:
        """Train both, and compare; what two processes say, and by seed the weights of one."""
        options, found = (*common, *more), {}
        two = start(config, tmp_path / "two", *options, "--batch-size", "2", processes=2, launcher=launcher)
        one = call(config, "-o", tmp_path / "one", *options, "--batch-size", "4")
        ended = succeeded(two)
        assert one.exit_code == 0, one.output
        for seed in (0, 1):
            found[seed] = weights(tmp_path / "one" / f"seed-{seed}" / "model")
            assert (found[seed] - weights(tmp_path / "two" / f"seed-{seed}" / "model")).abs().max() < 1e-5
        return "".join(each.stdout for each in ended), found

    output, found = trained()
    for seed in (0, 1):
        start_weights = weights(Path(load(config).model.name))
        assert (found[seed] - start_weights).abs().max() > 1e-3  # there was something to learn
        record = json.loads((tmp_path / "two" / f"seed-{seed}" / "training.json").read_text())
        assert record["processes"] == 2
        metrics = (tmp_path / "two" / f"seed-{seed}-training" / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in metrics if '"loss"' in line]
        assert steps == [1, 2, 3, 4]  # each once: one process writes
    assert output.count("The model to use") == 1
    assert len(json.loads((tmp_path / "two" / "environment.json").read_text())) == 1
    # With other settings both begin again, whichever sees the old checkpoints while the first one removes them.
    _, again = trained("--resume", "--set", "training.weight_decay=0.5")
    for seed in (0, 1):
        assert not torch.equal(again[seed], found[seed])
        record = json.loads((tmp_path / "two" / f"seed-{seed}" / "training.json").read_text())
        assert (record["resumed_from"], record["steps"]) == (None, 4)
