"""The tasks: rows of a query, its documents and their labels, in four parts that share no text.

A task is prepared once, from the collections, and kept as one JSON file: `start` trains what all arms begin with,
`train` is drawn from, `validation` chooses learning rates, and `test` is measured at the end.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmp_rerank.ir.bm25 import BM25
from cmp_rerank.ir.lines import replacing

from .distilled import distilled_start
from .real import DOCS, Row, beir, reranker_start, share_of

PARTS = ("start", "train", "validation", "test")


@dataclass(frozen=True)
class Task:
    """How a task is trained, alike for all arms.

    Attributes:
        measure: "RR" or "nDCG@10" of the documents of a query, trained by ListNet; "accuracy" of rows of one pair
            each, trained by binary cross-entropy; or "F1" of the answers of a reader.
        sizes: Size of the training set -> epochs.
        batch: Rows in a batch.
        rates: The learning rates that are tried for every arm.
        max_length: Tokens of a pair.
        start: Rows and epochs of the common start.
        start_rate: Its learning rate.
        tuning_seeds: Seeds of the runs on validation that choose the rate, but for the sizes in `tuning_seeds_of`.
        test_seeds: Seeds of the runs on test, but for the sizes in `test_seeds_of`.
        layers: How many layers of the encoder are kept.
        start_of: The task whose start it has; empty: its own.
        noise: Share of the training rows whose label is wrong, see `training_rows`.
        test_rows: How many rows of the part `test` are measured, drawn once; 0: all.
        validation_rows: And of the part `validation`.
        docs: The most documents of a training row, the first ones, of which the relevant one is one; 0: all.
        exact: Sizes that are trained in 32 bits, by the trainers: those that had been run before there was bfloat16.
            The products of all other ones are in bfloat16, which `steps` does.
        tuning_seeds_of: Size -> seeds on validation, where they are others.
        test_seeds_of: Size -> seeds on test, where they are others.
        start_dropout: The encoder's own dropout while the start is trained.
        start_constant: Whether the learning rate of the start stays as it is after the warm-up; else it falls.
    """

    name: str
    measure: str
    sizes: dict[int, int]
    batch: int
    rates: tuple[float, ...]
    max_length: int
    start: tuple[int, int]
    start_rate: float
    tuning_seeds: range = range(3)
    test_seeds: range = range(100, 110)
    layers: int = 3
    start_of: str = ""
    noise: float = 0.0
    test_rows: int = 0
    validation_rows: int = 0
    docs: int = 0
    exact: tuple[int, ...] = ()
    tuning_seeds_of: dict[int, range] = field(default_factory=dict)
    test_seeds_of: dict[int, range] = field(default_factory=dict)
    start_dropout: float = 0.1
    start_constant: bool = True

    @property
    def listwise(self) -> bool:
        """Whether a row is a query with its documents."""
        return self.measure in ("RR", "nDCG@10")

    @property
    def retrieved(self) -> bool:
        """Whether the documents are those of a first stage, in its order, and the measure is that of a collection."""
        return self.measure == "nDCG@10"

    def tuned_with(self, size: int) -> range:
        """The seeds of the runs on validation that choose the rate."""
        return self.tuning_seeds_of.get(size, self.tuning_seeds)

    def tested_with(self, size: int) -> range:
        """The seeds of the runs on test."""
        return self.test_seeds_of.get(size, self.test_seeds)

    def half(self, size: int) -> bool:
        """Whether the products of training are in bfloat16."""
        return size not in self.exact

    @property
    def reads(self) -> bool:
        """Whether the model is a reader."""
        return self.measure == "F1"


TASKS = {
    task.name: task
    for task in (
        Task(
            "sentence-selection", "RR", {100: 10, 500: 4, 2000: 2}, 16, (5e-5, 1e-4, 2e-4), 96, (500, 1), 1e-4,
            exact=(500,),
        ),
        Task(
            "sst2", "accuracy", {100: 10, 500: 6, 2500: 3}, 16, (2e-5, 5e-5, 1e-4), 64, (2000, 1), 1e-4, exact=(100,),
        ),
        Task(
            "sst2-noise", "accuracy", {100: 10, 500: 6}, 16, (2e-5, 5e-5, 1e-4), 64, (0, 0), 0, start_of="sst2",
            noise=0.2, exact=(100,),
        ),
        Task("rte", "accuracy", {500: 6}, 16, (2e-5, 5e-5, 1e-4), 160, (350, 1), 5e-5),
        # Where the support of a label is known.
        Task(
            "passages", "RR", {200: 4, 1000: 1}, 8, (3e-5, 1e-4, 2e-4), 256, (1000, 1), 1e-4,
            range(3), range(100, 105), test_rows=800, validation_rows=400, docs=4,
        ),
        Task(
            "reading", "F1", {400: 10, 2500: 2, 8000: 1}, 16, (5e-5, 1e-4, 2e-4), 256, (500, 1), 1e-4,
            range(1), range(100, 105), layers=6, test_rows=1000, tuning_seeds_of={400: range(3)},
            test_seeds_of={400: range(100, 110)}, start_dropout=0.0,
        ),
        # Real collections, on the whole encoder; all begin with one reranker, trained on SQuAD's paragraphs.
        Task("reranker", "RR", {}, 16, (), 256, (4000, 1), 1e-4, layers=6, docs=4),
        Task(
            "scifact", "nDCG@10", {50: 8}, 8, (1e-5, 3e-5, 1e-4), 256, (0, 0), 0,
            range(1), range(100, 105), layers=6, start_of="reranker", docs=4, tuning_seeds_of={50: range(3)},
        ),
        Task(
            "cranfield", "nDCG@10", {50: 8}, 8, (1e-5, 3e-5, 1e-4), 256, (0, 0), 0,
            range(1), range(100, 105), layers=6, start_of="reranker", docs=4,
        ),
        # The same with another start, one that learned from scores of BM25 and of the encoder.
        Task("distilled", "RR", {}, 4, (), 256, (4000, 1), 1e-4, layers=6, start_dropout=0.0, start_constant=False),
        Task(
            "scifact-distilled", "nDCG@10", {50: 8, 200: 3, 500: 1}, 8, (1e-5, 3e-5, 1e-4), 256, (0, 0), 0,
            range(1), range(100, 105), layers=6, start_of="distilled", docs=4, tuning_seeds_of={50: range(3)},
        ),
        Task(
            "cranfield-distilled", "nDCG@10", {50: 8, 100: 4}, 8, (1e-5, 3e-5, 1e-4), 256, (0, 0), 0,
            range(1), range(100, 105), layers=6, start_of="distilled", docs=4, tuning_seeds_of={50: range(3)},
        ),
        # Made up, to see that everything runs.
        Task("smoke", "RR", {16: 1}, 8, (1e-5, 1e-4), 32, (16, 1), 1e-4, range(1), range(100, 102), exact=(16,)),
    )
}  # fmt: skip


def prepare(task: str, data: Path, cache: Path) -> Path:
    """Write a task's rows; `data` is the folder of the collections."""
    path = cache / f"{task}.json.gz"
    if not path.exists():
        parts = _MAKERS[task](data)
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            json.dump(parts, file, ensure_ascii=False)
    return path


#: How many rows of validation the guard decides on: a user has few.
GUARD_ROWS = 200


def load(task: str, cache: Path) -> dict[str, list[Row]]:
    """The rows of a task by part; ``guard`` has some of ``validation``."""
    path = cache / f"{task}.json.gz"
    if not path.exists():
        raise ValueError(f"{path}: no such file; run `python -m benchmarks.study prepare` first")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        parts: dict[str, list[Row]] = json.load(file)
    if TASKS[task].test_rows:
        parts["test"] = sample(parts["test"], TASKS[task].test_rows)
    parts["guard"] = sample(parts.get("validation", []), GUARD_ROWS)
    if TASKS[task].validation_rows:
        parts["validation"] = sample(parts["validation"], TASKS[task].validation_rows)
    return parts


def sample(rows: list[Row], size: int) -> list[Row]:
    """The same rows each time, in their order."""
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), min(size, len(rows))))]


def training_rows(task: Task, rows: list[Row], size: int, seed: int) -> list[Row]:
    """The rows of one seed: a sample of the part `train`, the same for every arm, with the documents of the task.

    Of a task with noise, that share of them has a wrong label: the other class, or another document as the relevant
    one.
    """
    if size > len(rows):
        raise ValueError(f"size must be at most {len(rows)}; got {size}")
    draw = random.Random(f"study {seed}")
    drawn = draw.sample(rows, size)
    if task.docs:
        drawn = [row | {"docs": row["docs"][: task.docs], "labels": row["labels"][: task.docs]} for row in drawn]
    for place in draw.sample(range(size), round(task.noise * size)):
        labels = drawn[place]["labels"]
        if len(labels) == 1:
            wrong = [1.0 - labels[0]]
        else:
            other = draw.choice([i for i, label in enumerate(labels) if not label])
            wrong = [float(i == other) for i in range(len(labels))]
        drawn[place] = drawn[place] | {"labels": wrong}
    return drawn


def _sentence_selection(data: Path) -> dict[str, list[Row]]:
    """SQuAD: which sentence of the paragraph does the answer begin in? Paragraphs of 3 to 8 sentences."""
    from cmp_rerank.text.segmenters import Sentences

    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    segmenter = Sentences()
    for file in ("train", "dev"):
        for text, question in _squad(data, file):
            spans = [(start, end) for start, end in segmenter(text) if text[start:end].strip()]
            begin = question["answers"][0]["answer_start"]
            labels = [float(start <= begin < end) for start, end in spans]
            if 3 <= len(spans) <= 8 and sum(labels) == 1:
                docs = [text[start:end].strip() for start, end in spans]
                row = {"query": question["question"], "docs": docs, "labels": labels}
                parts[_part(file, text, validation=0.25)].append(row)
    return parts


def _squad(data: Path, file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions of SQuAD 1.1, each with its paragraph."""
    articles = json.loads((data / "squad" / f"{file}.json").read_text(encoding="utf-8"))["data"]
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield paragraph["context"], question


def _part(file: str, paragraph: str, validation: float = 0.2) -> str:
    """The part that the questions of a paragraph belong to; up to ``validation`` of its share it is not train."""
    share = share_of(paragraph)
    return "test" if file == "dev" else "start" if share < 0.1 else "validation" if share < validation else "train"


def _passages(data: Path) -> dict[str, list[Row]]:
    """SQuAD: which paragraph answers the question? Its own, or one of BM25's first 7 others of the same part.

    The support of the label is known: the answer.
    """
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for file in ("train", "dev"):
        of_part: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for paragraph, question in _squad(data, file):
            of_part.setdefault(_part(file, paragraph), []).append((paragraph, question))
        for part, questions in of_part.items():
            texts = sorted({paragraph for paragraph, _ in questions})
            asked = {str(i): question["question"] for i, (_, question) in enumerate(questions)}
            found = BM25({str(i): text for i, text in enumerate(texts)}).search(asked, DOCS)
            for i, (paragraph, question) in enumerate(questions):
                ranked = sorted(found[str(i)], key=lambda doc, run=found[str(i)]: -run[doc])
                others = [texts[int(doc)] for doc in ranked if texts[int(doc)] != paragraph][: DOCS - 1]
                answer = question["answers"][0]
                begin = answer["answer_start"]
                docs = [paragraph, *others]
                parts[part].append(
                    {
                        "query": question["question"],
                        "docs": docs,
                        "labels": [1.0, *[0.0] * len(others)],
                        "support": [[begin, begin + len(answer["text"])]],
                    }
                )
    return parts


def _reading(data: Path) -> dict[str, list[Row]]:
    """SQuAD 1.1: the answer to a question is a span of its paragraph."""
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for file in ("train", "dev"):
        for paragraph, question in _squad(data, file):
            answer = question["answers"][0]
            parts[_part(file, paragraph)].append(
                {
                    "id": question["id"],
                    "query": question["question"],
                    "docs": [paragraph],
                    "answer": answer["text"],
                    "begin": answer["answer_start"],
                    "answers": sorted({each["text"] for each in question["answers"]}),
                }
            )
    return parts


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _sst2(data: Path) -> dict[str, list[Row]]:
    """SST-2 as pairs of a fixed query and a sentence; the training part holds phrases of sentences, too."""
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for file in ("train", "dev", "test"):
        for record in _json_lines(data / "sst2" / f"{file}.jsonl"):
            text = record["text"].strip()
            if file == "train" and len(text.split()) < 6:
                continue  # phrases of a few words tell little of sentences
            share = share_of(text)
            part = "start" if share < 0.1 else "train"
            part = part if file == "train" else "validation" if file == "dev" else "test"
            parts[part].append({"query": "a good review", "docs": [text], "labels": [float(record["label"])]})
    return parts


def _rte(data: Path) -> dict[str, list[Row]]:
    """RTE: does the premise entail the hypothesis? A fifth of the training pairs are test, with dev."""
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for file in ("train", "dev"):
        for record in _json_lines(data / "rte" / f"{file}.jsonl"):
            share = share_of(record["premise"])
            part = "start" if share < 0.15 else "validation" if share < 0.3 else "test" if share < 0.4 else "train"
            part = part if file == "train" else "test"
            row = {"query": record["hypothesis"], "docs": [record["premise"]], "labels": [float(record["label"])]}
            parts[part].append(row)
    return parts


def _smoke(data: Path) -> dict[str, list[Row]]:
    """Which document has the query's word?"""
    words = ["bear", "honey", "river", "bridge", "torch", "panda", "rain", "flower"]
    draw = random.Random(0)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for part in PARTS:
        for _ in range(16):
            chosen = draw.sample(words, 3)
            labels = [1.0, 0.0, 0.0]
            draw.shuffle(labels)
            docs = [f"the {word} and the {draw.choice(words)}" for word in chosen]
            parts[part].append({"query": chosen[labels.index(1.0)], "docs": docs, "labels": labels})
    return parts


_MAKERS: dict[str, Callable[[Path], dict[str, list[Row]]]] = {
    "sentence-selection": _sentence_selection,
    "sst2": _sst2,
    "sst2-noise": _sst2,
    "rte": _rte,
    "passages": _passages,
    "reading": _reading,
    "reranker": lambda data: {"start": reranker_start(data)},
    "scifact": lambda data: beir(data / "scifact", validation=0.25),
    "cranfield": lambda data: beir(data / "cranfield", validation=0.2, test=0.3),
    "distilled": lambda data: {"start": distilled_start(data)},
    "scifact-distilled": lambda data: beir(data / "scifact", validation=0.25, first=False),
    "cranfield-distilled": lambda data: beir(data / "cranfield", validation=0.2, test=0.3, first=False),
    "smoke": _smoke,
}


def describe(parts: dict[str, Iterable[Row]]) -> str:
    """How many rows each part has."""
    return ", ".join(f"{name} {len(list(rows)):,}" for name, rows in parts.items())
