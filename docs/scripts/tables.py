"""Fill the tables of the documentation from the committed results of the benchmarks.

    python docs/scripts/figures.py      # draws the figures, too

A page has marks, ``<!-- name:begin -->`` and ``<!-- name:end -->``; what stands between them is written here.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"

OURS, THEIRS = "plain, RerankerTrainer", "plain, CrossEncoderTrainer"
#: (model, arm, against, at most)
SPARSE_TARGETS = (
    ("minilm", "two drops, HingeRegularized(full)", OURS, 1.8),
    ("modernbert-quarter", "crop + drop, PairwiseHinge", THEIRS, 1.0),
)
LIMIT_TARGET = 0.7


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, after an empty line.

    >>> table(["", "time"], [["plain", "1.00"]])
    ['', '| | time |', '|---|---|', '| plain | 1.00 |']
    """
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in (head, *rows)]
    return ["", lines[0], "|---" * len(head) + "|", *lines[1:]]


def ratio(one: Sequence[float], other: Sequence[float]) -> str:
    """The median of the ratios of rounds, and where there are several the least and the greatest.

    >>> ratio([1.0, 2.2, 3.0], [1.0, 2.0, 2.0])
    '1.10 (1.00 to 1.50)'
    """
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}{spread}"


def heading(run: dict[str, Any]) -> list[str]:
    """What was measured, and on what."""
    machine, (low, high) = run["machine"], run["lengths"]
    load = statistics.median(run["loads"]) if "loads" in run else machine["load"][0]
    return [
        "",
        f"**{run['model']}**, {run['parameters'] / 1e6:.0f} M parameters, {low} to {high} tokens, batches of "
        f"{run['batch']}, rounds: {run['rounds']}; `{run['command']}` on {machine['device']}, threads: "
        f"{machine['threads']}, load average {load:.1f}:",
    ]


def profiles(run: dict[str, Any]) -> list[str]:
    """Where the time of a step goes, by kinds of operations, of the arms that were profiled."""
    profiled = {arm: figures["profile"] for arm, figures in run["arms"].items() if "profile" in figures}
    kinds = list(dict.fromkeys(kind for profile in profiled.values() for kind in profile))
    rows = [[arm, *(f"{profile.get(kind, 0):.0%}" for kind in kinds)] for arm, profile in profiled.items()]
    return table(["share of the time", *kinds], rows) if rows else []


def sparse(result: dict[str, Any]) -> list[str]:
    """What rows without a gradient save."""
    lines = [
        "Process time of a step, as ratios within a round: to the plain `CrossEncoderTrainer`, and to our own plain "
        "loop; the median of the rounds, and the least and the greatest. Weight zero is the share of steps without a "
        "gradient, of the examples that are compared."
    ]
    for run in result["runs"]:
        arms = run["arms"]
        rows = []
        for arm, figures in arms.items():
            rates = figures.get("zero_weight_rates")
            times = [ratio(figures["cpu_s"], arms[plain]["cpu_s"]) for plain in (THEIRS, OURS)]
            rows.append([arm, *times, f"{figures['memory']:.2f}", f"{statistics.mean(rates):.0%}" if rates else ""])
        lines += heading(run) + table(["", "time", "to our plain loop", "memory", "weight zero"], rows)
        targets = [
            [arm, against, f"{target}", ratio(arms[arm]["cpu_s"], arms[against]["cpu_s"])]
            for model, arm, against, target in SPARSE_TARGETS
            if model == run["model"] and arm in arms
        ]
        lines += table(["target", "against", "at most", "reached"], targets) if targets else []
        lines += profiles(run)
    return lines


def limit(result: dict[str, Any]) -> list[str]:
    """The shares of the bare matrix products."""
    lines = [
        "The first column is the time of the bare matrix products of the real tokens, forward and backward, over "
        "that of the step: the median of the rounds, and the least and the greatest. The target is "
        f"{LIMIT_TARGET:.0%}. The second table has shares of a profile of the step, whose products include those of "
        "the padding."
    ]
    for run in result["runs"]:
        rows = [
            [arm, ratio(f["products_s"], f["cpu_s"]), "yes" if f["share_of_products"] >= LIMIT_TARGET else "no"]
            for arm, f in run["arms"].items()
        ]
        lines += heading(run) + table(["", "bare products", "target reached"], rows) + profiles(run)
    return lines


def where(result: dict[str, Any]) -> list[str]:
    """Where a step goes."""
    lines = ["Shares of the time of one step, by kinds of operations; what is in none of them is python's."]
    for run in result["runs"]:
        lines += heading(run) + profiles(run)
    return lines


def engine(result: dict[str, Any]) -> list[str]:
    """Time and memory of every strategy."""
    lines = [
        "Time and memory are ratios to plain training with `CrossEncoderTrainer`: time of an epoch in the same "
        "round, median over rounds; process time likewise; memory as the greatest number of bytes that autograd "
        "keeps. Where other programs share the machine, process time says more: targets on a CPU are judged by it."
    ]
    for run in result["runs"]:
        rows = [
            [arm, f"{f['time']:.2f}", f"{f['cpu_time']:.2f}", f"{f['memory']:.2f}", f"{f['padding']:.1%}"]
            for arm, f in run["arms"].items()
        ]
        lines += heading(run) + table(["", "time", "process time", "memory", "padding"], rows)
        head = ["target", "against", "best", f"{run['clock']} (target)", "memory (target)"]
        lines += table(head, map(_target, run["targets"]))
        if any(map(_missed, run["targets"])) and all("shares" in f for f in run["arms"].values()):
            lines += [
                "",
                "Shares of the process time of a step (rows that run again do so in the backward pass; dropout and "
                "attention are part of forward and backward: masks both ways, the others forward only; the dropout "
                "of attention is in attention):",
            ]
            parts = list(next(iter(run["arms"].values()))["shares"])
            rows = [[arm, *(f"{f['shares'][part]:.1%}" for part in parts)] for arm, f in run["arms"].items()]
            lines += table(["", *parts], rows)
    return lines


def _target(target: dict[str, Any]) -> list[str]:
    if "against" in target:
        memory = "" if target["memory_target"] is None else f"{target['memory']:.2f} ({target['memory_target']})"
        time = f"{target['time']:.2f} ({target['time_target']})"
        return [target["what"], target["against"], target["best"], time, memory]
    value = f"{target['worst']:.1%} (5%)" if "worst" in target else f"{target['all']} ({target['target']})"
    return [target["what"], "", "", value, ""]


def _missed(target: dict[str, Any]) -> bool:
    if "against" not in target:
        return False
    by_memory = target["memory_target"] is not None and target["memory"] > target["memory_target"]
    return bool(by_memory or target["time"] > target["time_target"])


def objectives(result: dict[str, Any]) -> list[str]:
    """What each objective costs."""
    lines = [
        "A step of training against one of plain training with `CrossEncoderTrainer`, by `benchmarks/engine.py "
        "--objectives`: steps of all take turns, and the median over rounds counts. Process time is the measure, "
        "since others used the machine. Memory is the greatest number of bytes that autograd keeps, with "
        "all activations kept that fit. What an objective costs are its passes: its own arithmetic is not seen.",
    ]
    for run in result["runs"]:
        machine, (low, high) = run["machine"], run["lengths"]
        lines += [
            "",
            f"**{run['model']}**, {low} to {high} tokens, batches of {run['batch']}, {run['rounds']} rounds, on "
            f"{machine['device']} with {machine['threads']} thread:",
        ]
        rows = [[arm, f"{f['cpu_time']:.2f}", f"{f['memory']:.2f}"] for arm, f in run["arms"].items()]
        lines += table(["objective and ablation", "process time", "memory"], rows)
    return lines


def first_step(result: dict[str, Any]) -> list[str]:
    """The first step and the loader, by the size of the data."""
    sizes: dict[str, Any] = result["sizes"]

    def row(name: str, of: Callable[[dict[str, Any]], str], part: str) -> list[str]:
        return [name, *(of(found[part]) if part in found else "not measured" for found in sizes.values())]

    lines = table(
        ["pairs", *(f"{int(size):,}" for size in sizes)],
        [
            row("time to the first step", lambda f: f"{f['first_step_s']:.1f} s", "after"),
            row("the same when all pairs were tokenised first", lambda f: f"{f['first_step_s']:.1f} s", "before"),
            row("time of a step, against tokenising first", lambda f: f"{f['step_s']:.2f}x", "after / before"),
            row("memory of the training process", lambda f: f"{f['own_memory_mb'] / 1000:.2f} GB", "after"),
        ],
    )
    epochs = {size: found["epoch"] for size, found in sizes.items() if "epoch" in found}
    if not epochs:
        return lines[1:]
    lines += [
        "",
        "The loader alone, without a model, over a whole epoch that begins without a cache: the least and the "
        "greatest of its tenths, and memory by tenths.",
    ]
    return lines[1:] + table(
        ["pairs", *(f"{int(size):,}" for size in epochs)],
        [
            ["pairs/s of processor time, whole epoch", *(f"{_whole(f):,.0f}" for f in epochs.values())],
            ["of a tenth", *(_span(f["pairs_per_cpu_s"], "{:,.0f}") for f in epochs.values())],
            ["memory of all processes, MB", *(_span(f["memory_mb"], "{:,.0f}") for f in epochs.values())],
            ["the same in the first and the last tenth", *(_ends(f["memory_mb"]) for f in epochs.values())],
            ["files mapped, which the system can take back, MB", *(_ends(f["mapped_mb"]) for f in epochs.values())],
            ["disk, MB", *(_ends(f["cache_mb"]) for f in epochs.values())],
            ["load average", *(f"{f['load'][0]:.1f}" for f in epochs.values())],
        ],
    )


def versions(results: Sequence[dict[str, Any]]) -> list[str]:
    """What the tests said with other versions of what the package stands on."""
    names = {"python": "Python", "torch": "torch", "transformers": "transformers"}
    names |= {"sentence-transformers": "sentence-transformers", "datasets": "datasets", "numpy": "NumPy"}
    rows = [
        [
            found["environment"],
            *(found["versions"].get(name, "none") for name in names),
            *(f"{count:,}" for count in (found["passed"], found["skipped"], len(found["failed"]))),
        ]
        for found in results
    ]
    return table(["", *names.values(), "passed", "skipped", "failed"], rows)[1:]


def _whole(epoch: dict[str, Any]) -> float:
    return statistics.harmonic_mean(epoch["pairs_per_cpu_s"])


def _span(values: Sequence[float], form: str) -> str:
    return " to ".join(form.format(value) for value in (min(values), max(values)))


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:,.0f}, {values[-1]:,.0f}"


#: Mark: its page, the result file, and what makes its lines.
TABLES: dict[str, tuple[str, str, Callable[[Any], list[str]]]] = {
    "engine": ("measurements.md", "engine.json", engine),
    "sparse": ("measurements.md", "sparse.json", sparse),
    "limit": ("measurements.md", "limit.json", limit),
    "where": ("measurements.md", "where.json", where),
    "objectives": ("objectives.md", "objectives.json", objectives),
    "first_step": ("engine.md", "first_step.json", first_step),
    "versions": ("compatibility.md", "versions.json", versions),
}


def filled(page: str, text: str) -> str:
    """A page with the tables of the results."""
    for name, (where, result, lines) in TABLES.items():
        if where == page:
            begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
            before, rest = text.split(begin)
            found = json.loads((RESULTS / result).read_text(encoding="utf-8"))
            text = "\n".join([before + begin.rstrip(), *lines(found), end + rest.split(end)[1]])
    return text


def fill() -> list[Path]:
    """Write the pages whose tables are others now.

    Returns:
        Their paths.
    """
    written = []
    for page in dict.fromkeys(where for where, *_ in TABLES.values()):
        path = DOCS / page
        before = path.read_text(encoding="utf-8")
        if (after := filled(page, before)) != before:
            path.write_text(after, encoding="utf-8")
            written.append(path)
    return written
