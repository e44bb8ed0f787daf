"""The training rows of a cell as examples, pairs or windows: tokenised once, drawn for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cmp_rerank.ablations import Example, Plan
from cmp_rerank.models.pairs import example_seed, tokenise

from .real import Row
from .tasks import Task


@dataclass(frozen=True)
class Examples:
    """The examples of a cell's rows.

    Attributes:
        examples: One for each pair, or for each window of a reader.
        names: The texts that the seed of each derives from, see `example_seed`.
        starts: (rows + 1,) where the examples of each row begin.
        labels: (examples, 1 or 2) the label of a pair; the first and the last token of a window's answer.
    """

    examples: list[Example]
    names: list[tuple[str, str]]
    starts: np.ndarray
    labels: np.ndarray

    def lengths(self) -> list[int]:
        """Tokens of each row, over all of its examples."""
        tokens = np.concatenate([[0], np.cumsum([len(example) for example in self.examples])])
        return np.diff(tokens[self.starts]).tolist()

    def tokens(self) -> np.ndarray:
        """The ids of all tokens, in any order."""
        return np.concatenate([example.features["input_ids"] for example in self.examples])

    def of(self, rows: Sequence[int]) -> list[int]:
        """The numbers of the examples of rows."""
        return [number for row in rows for number in range(self.starts[row], self.starts[row + 1])]

    def drawn(self, numbers: Sequence[int], draw: str) -> list[Example]:
        """Examples with the seeds of a draw."""
        return [replace(self.examples[i], seed=example_seed(*self.names[i], draw)) for i in numbers]


def of_pairs(model: Any, plan: Plan, rows: Sequence[Row]) -> Examples:
    """The pairs of a reranker; support that the rows give is known to the plan already."""
    pairs = [(row["query"], doc) for row in rows for doc in row["docs"]]
    labels = np.array([label for row in rows for label in row["labels"]])
    relevant = [bool(label > 0) for label in labels]
    examples = tokenise(model, pairs, plan, relevant=relevant)
    starts = np.concatenate([[0], np.cumsum([len(row["docs"]) for row in rows])])
    return Examples(examples, pairs, starts, labels[:, None])


def of_windows(model: Any, plan: Plan, rows: Sequence[Row], task: Task) -> Examples:
    """The windows of a reader; each is a row."""
    from cmp_rerank.models.span_reader import SpanReaderAdapter

    from . import readers

    adapter = SpanReaderAdapter.of(model.model, model.tokenizer)
    windows = readers.training_windows(model, task, rows, crops=plan.preparing is not None)
    examples = [adapter.example(window) for window in windows]
    names = [(str(example.seed), "") for example in examples]
    labels = np.array([[window.start, window.end] for window in windows])
    return Examples(examples, names, np.arange(len(windows) + 1), labels)
