"""The tables of docs/compatibility.md: what each loss takes is read, and how it splits is measured.

PYTHONPATH=tests python docs/scripts/compatibility.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES, cross_encoder

from cmp_rerank.losses import LOSSES
from cmp_rerank.losses.decompose import Decomposition, decompose
from cmp_rerank.losses.replay import Replay, addressed
from cmp_rerank.mining import format_of
from cmp_rerank.mining.formats import inputs_of

PAGE = Path(__file__).parents[1] / "compatibility.md"
MARKS = ("<!-- compatibility:begin -->", "<!-- compatibility:end -->")
SPLIT = ("loss", "an example is", "weights of examples", "split by", "`format=` of `mine`")
TAKES = ("loss", "columns", "labels")

#: Lists of unequal lengths, whose shares of pairs and of documents differ.
DOCS = [[PASSAGES[0], OTHERS[0], OTHERS[1]], PASSAGES[1:3], PASSAGES[2:4], [OTHERS[1], OTHERS[0]]]
WEIGHTS = {
    "equal": torch.full((4,), 1 / 4),
    "share of the pairs": torch.tensor([3.0, 1.0, 1.0, 1.0]) / 6,
    "share of the documents": torch.tensor([3.0, 2.0, 2.0, 2.0]) / 9,
}


def batch(name: str) -> tuple[list[Any], Any]:
    """Columns and labels for a loss, in the format that it says."""
    cls: Any = LOSSES[name]
    kind = format_of(cls)
    if kind == "pairs":
        return [QUERIES, PASSAGES], torch.tensor([1, 0, 1, 0]) if name == "CrossEntropyLoss" else torch.rand(4)
    if kind == "tuples":
        return [QUERIES, PASSAGES, OTHERS], torch.rand(4, 2) if name == "MarginMSELoss" else None
    ranks = [torch.arange(1.0, 1 + len(docs)) for docs in DOCS]
    if getattr(cls, "label_columns", 1) == 2:
        return [QUERIES, DOCS], [torch.stack([-rank + len(rank), -rank], dim=1) for rank in ranks]
    meaning = getattr(getattr(cls, "kind", None), "name", "")
    return [QUERIES, DOCS], ranks if meaning == "ranks" else [len(rank) - rank for rank in ranks]


def measured(name: str, model: CrossEncoder) -> Decomposition:
    """How the loss of a batch splits, by `decompose`."""
    columns, labels = batch(name)
    cls: Any = LOSSES[name]
    # A loss around another one splits as that does.
    loss = cls(model, LOSSES["ListNetLoss"](model)) if name == "TeacherOrderLoss" else cls(model)
    replay = Replay(loss, model, addressed(columns), labels)
    generator = torch.Generator().manual_seed(0)
    outputs = 2 if name == "CrossEntropyLoss" else 1
    # Close to each other: a margin that is kept would leave a query without a gradient.
    return decompose(replay, 0.1 * torch.randn(len(replay.recording.pairs), outputs, generator=generator))


def row(name: str, model: CrossEncoder) -> tuple[str, ...]:
    """The cells of how one loss splits."""
    split = measured(name, model)
    near = [what for what, weights in WEIGHTS.items() if torch.allclose(split.weights, weights, rtol=1e-3, atol=1e-5)]
    if len(near) != 1:
        raise ValueError(f"the weights of {name} are none of {list(WEIGHTS)}; got {split.weights.tolist()}")
    return (
        f"`{name}`",
        "a pair" if format_of(LOSSES[name]) == "pairs" else "a query",
        "as those of the loss in it" if name == "TeacherOrderLoss" else near[0],
        "its criterion" if split.method == "unreduced" else "one example at a time",
        f'`"{format_of(LOSSES[name])}"`',
    )


def inputs(name: str) -> list[tuple[str, ...]]:
    """The cells of what one loss takes: columns, and the labels that they have."""
    cls: Any = LOSSES[name]
    meaning = getattr(getattr(cls, "kind", None), "name", "")
    rows = []
    for columns, labels in dict.fromkeys((columns, labels.replace("`", "")) for columns, labels in inputs_of(cls)):
        if labels == "none, with by_position":  # what the base of this package's losses says of those with it
            if not cls.by_position:
                continue
            told = "none: the first document is the positive"
        else:
            told = "none" if labels == "none" else f"{meaning} `{labels}`".strip()
        rows.append((f"`{name}`", f"`{columns}`", told))
    return rows


def table() -> str:
    """Both tables: first the losses of this package, then those of sentence-transformers."""
    torch.manual_seed(0)
    order = sorted(LOSSES, key=lambda name: (hasattr(upstream, name), name))
    with tempfile.TemporaryDirectory() as folder:
        models = {labels: cross_encoder(Path(folder) / str(labels), num_labels=labels) for labels in (1, 2)}
        rows = [row(name, models[2 if name == "CrossEntropyLoss" else 1]) for name in order]
    return "\n".join(
        [
            *("## How each splits", "", *lines(SPLIT, rows), ""),
            *("## What each takes", "", *lines(TAKES, [cells for name in order for cells in inputs(name)])),
        ]
    )


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]


def main() -> None:
    """Write the tables into their page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
