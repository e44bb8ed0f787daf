"""Every command with good input, so that tests can make one part of it bad at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import tiny_models
from optional_libraries import datasets
from pipeline_data import CORPUS, QRELS, QUERIES, collection, settings
from transformers import AutoModel, AutoModelForQuestionAnswering

from cmp_rerank.ir import write_qrels, write_run
from cmp_rerank.pipeline.document import dump


def overlap(query: str, weight: float) -> dict[str, float]:
    """All documents, those with words of the query first."""
    return {
        doc: weight * sum(word in text.lower() for word in QUERIES[query].split()) - place / 100
        for place, (doc, text) in enumerate(CORPUS.items())
    }


def make_world(folder: Path) -> dict[str, Path]:
    """Files of every kind that commands read, by the name that usages have for them."""
    beir = collection().write_beir(folder / "beir")
    world = {"beir": beir, "corpus": beir / "corpus.jsonl", "queries": beir / "queries.jsonl"}
    world |= {f"{split}_qrels": beir / "qrels" / f"{split}.tsv" for split in ("train", "dev", "test")}
    world |= {name: folder / f"{name}.trec" for name in ("qrels", "run", "second")}
    write_qrels(world["qrels"], QRELS)
    write_run(world["run"], {query: overlap(query, 1.0) for query in QUERIES})
    write_run(world["second"], {query: overlap(query, -1.0) for query in QUERIES})
    bert, words = tiny_models.bert_config, tiny_models.wordpiece
    world["model"] = tiny_models.save_checkpoint(folder / "model", bert(), words())
    world["tuned"] = tiny_models.save_checkpoint(folder / "tuned", bert(), words(), seed=1)
    world["encoder"] = tiny_models.save_checkpoint(folder / "encoder", bert(), words(), AutoModel, num_labels=None)
    world["reader"] = tiny_models.save_checkpoint(
        folder / "reader", bert(), words(), AutoModelForQuestionAnswering, num_labels=2
    )
    rows = [
        {"id": f"q{i}", "question": question, "context": passage, "answers": [passage.split()[0]]}
        for i, (question, passage) in enumerate(zip(tiny_models.QUERIES, tiny_models.PASSAGES, strict=True))
    ]
    world["questions"] = folder / "questions.json"
    world["questions"].write_text(json.dumps(rows))
    for name, answer in (("predictions", "honey"), ("answers", "bees")):
        world[name] = folder / f"{name}.json"
        world[name].write_text(json.dumps({row["id"]: answer for row in rows}))
    world["passage"] = folder / "passage.txt"
    world["passage"].write_text(tiny_models.TEXTS[0])
    world["curves"] = folder / "curves.json"
    world["curves"].write_text(json.dumps({"nDCG@10": {"a": [[1, 0.5], [2, 0.6]]}}))
    world["config"] = folder / "train.yaml"
    training = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    world["config"].write_text(dump(settings(world["model"], data={"collection": f"beir:{beir}"}, training=training)))
    return world


#: What writes rows of training data, trains on them, or looks whether all is installed.
NEEDING_DATASETS = ("mine", "train", "demo", "doctor")


@dataclass(frozen=True)
class Usage:
    """A command with its arguments.

    Attributes:
        command: Its name.
        arguments: The arguments, with the names of files in braces; ``{out}`` is what it writes.
        out: What stands for ``{out}``, below a new folder; empty where nothing is written.
        again: More arguments, with which it goes on after an interruption.
    """

    command: str
    arguments: str
    out: str = ""
    again: str = ""

    def call(self, files: Mapping[str, object], out: Path) -> list[str]:
        """The arguments for these files."""
        if self.command in NEEDING_DATASETS:
            datasets.Dataset  # noqa: B018 - the test is skipped where they are not
        return [
            self.command,
            *(one.format(**files, out=out) for one in self.arguments.split()),
        ]

    def names(self) -> list[str]:
        """The names of the files that it reads, in the order of the arguments."""
        fields = (field for _, field, _, _ in Formatter().parse(self.arguments) if field not in (None, "out"))
        return list(dict.fromkeys(field for field in fields if field))

    def files(self, world: Mapping[str, object]) -> list[str]:
        """The same, in the order of the world."""
        return [name for name in world if name in self.names()]


TEXTS = "--queries {queries} --corpus {corpus}"
OPTIONS = {"max_steps": "1", "use_cpu": "true", "save_strategy": "no", "eval_strategy": "no"}
QUICK = " ".join(f"--set training.{name}={value}" for name, value in OPTIONS.items())
SPLITS = "--qrels train={train_qrels} --qrels dev={dev_qrels} --qrels test={test_qrels}"

#: The ways to call each command that read or write different files.
USAGES = {
    "retrieve": [
        Usage("retrieve", f"{TEXTS} --qrels {{qrels}} -m RR@10 -o {{out}}", "found.trec"),
        Usage("retrieve", "beir:{beir} -o {out}", "found.trec"),
        Usage("retrieve", f"{TEXTS} -o {{out}} --first-stage {{run}}", "found.tsv"),
    ],
    "fuse": [Usage("fuse", "{run} {second} -o {out}", "fused.trec")],
    "mine": [
        Usage("mine", "beir:{beir} --run {run} --negatives 2 -o {out}", "train.jsonl"),
        Usage("mine", "beir:{beir} --run {run} --negatives 2 --teacher {model} -o {out}", "train.parquet"),
        Usage("mine", "beir:{beir} --run {run} --negatives 2 --filter-model {model} --margin 0 -o {out}", "rows"),
    ],
    "train": [
        Usage("train", "{config} -o {out}", "run", "--resume"),
        Usage("train", f"{TEXTS} {SPLITS} --run train={{run}} --run dev={{run}} --run test={{run}} --model {{model}} "
              f"--negatives 2 {QUICK} -o {{out}}", "run", "--resume"),
    ],
    "guard": [
        Usage("guard", f"{{model}} {{tuned}} {TEXTS} --qrels {{dev_qrels}} --run {{run}} --interpolation 0.5 "
              "--device cpu -o {out}", "guarded"),
        Usage("guard", "none {tuned} --collection beir:{beir} --run {run} --device cpu"),
    ],
    "rerank": [
        Usage("rerank", f"{TEXTS} --run {{run}} --model {{model}} --depth 3 --device cpu -o {{out}}", "new.trec"),
        Usage("rerank", "beir:{beir} --run {run} --model {model} --depth 3 --device cpu"),
    ],
    "serve": [Usage("serve", "{model} --device cpu --check")],
    "evaluate": [Usage("evaluate", "{qrels} {run}")],
    "compare": [Usage("compare", "{qrels} {run} {second}")],
    "report": [Usage("report", f"{{qrels}} {{run}} {{second}} {TEXTS} --curves {{curves}} -o {{out}}", "page.html")],
    "curves": [
        Usage("curves", f"{{qrels}} {{run}} --model {{model}} {TEXTS} --depth 2 --segments 1 --levels 1 --plot none "
              "-o {out}", "curves.json"),
    ],
    "views": [Usage("views", "--query honey --doc Bees. --model {model}")],
    "train-reader": [
        Usage("train-reader", "{questions} --dev {questions} --model {encoder} --max-steps 1 --batch 2 -o {out}",
              "reader", "--resume"),
    ],
    "answer": [
        Usage("answer", f"{{reader}} {TEXTS} --run {{run}} --device cpu --predictions {{out}}", "answers.json"),
        Usage("answer", "{reader} --questions {questions} --device cpu"),
        Usage("answer", "{reader} -q honey -f {passage} --device cpu"),
    ],
    "evaluate-answers": [
        Usage("evaluate-answers", "{questions} {predictions}"),
        Usage("evaluate-answers", "{questions} first={predictions} second={answers}"),
    ],
    "demo": [Usage("demo", "--fast --model {encoder} --out {out} --cache {out}", "demo")],
    "doctor": [Usage("doctor", "--no-measure --json")],
}  # fmt: skip
