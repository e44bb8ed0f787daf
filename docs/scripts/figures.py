"""Bring the committed results of the benchmarks into the documentation: its figures, and the tables of `tables`.

    python docs/scripts/figures.py

What is drawn is read from ``benchmarks/results``, so that a figure shows what the tables show. Figures are SVG files
in ``docs/images``: equal bytes for equal results and one version of matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import tables

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # of the benchmarks
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"


class Dot(NamedTuple):
    """One line of a figure: a value with its interval."""

    name: str
    value: float
    low: float
    high: float


def study(path: Path = RESULTS / "study" / "sentence-selection.jsonl") -> list[Dot]:
    """Each arm of the study at its best rate on validation: mean over seeds, and standard deviation."""
    cells: dict[tuple[str, float], list[float]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run["part"] == "validation":
            cells[run["arm"], run["rate"]].append(run["mean"])
    best: dict[str, list[float]] = {}
    for (arm, _), values in cells.items():
        if arm not in best or mean(values) > mean(best[arm]):
            best[arm] = values
    dots = [Dot(arm, mean(v), mean(v) - stdev(v), mean(v) + stdev(v)) for arm, v in best.items()]
    return sorted(dots, key=lambda dot: -dot.value)


def differences(folder: Path = RESULTS / "study") -> dict[str, list[Dot]]:
    """What is subtracted from what -> its value for each task and kind of ablated passes, with the 95% interval."""
    from benchmarks.study.tables import kinds_of

    found: dict[str, list[Dot]] = {}
    for kind in kinds_of(folder):
        for names, c in kind.differences.items():
            dot = Dot(f"{kind.task} {kind.size:,}, {kind.passes}", c["difference"], c["low"], c["high"])
            found.setdefault(" minus ".join(names), []).append(dot)
    return found


def systems(path: Path, part: str, measure: str = "nDCG@10") -> list[Dot]:
    """The means of a comparison with their 95% intervals, in its order."""
    means = json.loads(path.read_text(encoding="utf-8"))[part]["means"]
    return [Dot(one["system"], one["mean"], one["low"], one["high"]) for one in means if one["measure"] == measure]


def costs(path: Path = RESULTS / "engine.json", run: int = 0) -> list[tuple[str, float, float]]:
    """Each arm of the engine's benchmark: process time and memory, as shares of those of plain training."""
    arms: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["runs"][run]["arms"]
    return [(name, arm["cpu_time"], arm["memory"]) for name, arm in arms.items()]


def simulated(path: Path = RESULTS / "guard.json") -> dict[int, list[tuple[float, float]]]:
    """What the guard does to simulated users: queries -> (true gain of the tuned model, how often it is used)."""
    curves: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in json.loads(path.read_text(encoding="utf-8"))["simulate"]["rows"]:
        gain = row["true gain of the last candidate, in standard errors"]
        curves[row["queries"]].append((gain, row["new one handed over"]))
    return {queries: sorted(points) for queries, points in curves.items()}


def draw(folder: Path = IMAGES) -> list[Path]:
    """Draw all figures.

    Args:
        folder: where they go.

    Returns:
        The paths of the figures.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "cmp-rerank", "svg.fonttype": "none", "font.size": 9})
    made: list[Path] = []

    def save(figure: Any, name: str) -> None:
        path = folder / name
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
        made.append(path)

    def dots(rows: list[Dot], name: str, label: str) -> None:
        figure, axes = plt.subplots(figsize=(6, 0.3 * len(rows) + 0.6))
        places = range(len(rows))[::-1]
        widths = [[row.value - row.low for row in rows], [row.high - row.value for row in rows]]
        axes.errorbar(
            [row.value for row in rows], places, xerr=widths, fmt="o", color="#37474f", capsize=2, markersize=4
        )
        axes.set_yticks(list(places), [row.name for row in rows])
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        save(figure, name)

    found = differences()
    names = list(dict.fromkeys(dot.name for dots_of in found.values() for dot in dots_of))
    figure, axes = plt.subplots(figsize=(6.5, 0.5 * len(names) + 0.9))
    axes.axvline(0, color="black", linewidth=0.8)
    marks = zip(found.items(), ("o", "s", "D"), ("#c62828", "#ef6c00", "#37474f"), strict=True)
    for number, ((label, rows), mark, colour) in enumerate(marks):
        places = [len(names) - names.index(row.name) - 0.22 * (number - 1) for row in rows]
        widths = [[row.value - row.low for row in rows], [row.high - row.value for row in rows]]
        axes.errorbar(
            [row.value for row in rows],
            places,
            xerr=widths,
            fmt=mark,
            color=colour,
            capsize=2,
            markersize=4,
            label=label,
        )
    axes.set_yticks([len(names) - place for place in range(len(names))], names)
    axes.set_xlabel("difference of the task's measure on test, 95% interval over seeds")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    save(figure, "study_differences.svg")
    dots(study(), "study.svg", "reciprocal rank on validation, mean and standard deviation over 3 seeds")
    dots(systems(RESULTS / "demo.json", "against_first_stage"), "demo.svg", "nDCG@10 with 95% interval")
    long = systems(RESULTS / "long_documents.json", "comparison")
    dots(long, "long_documents.svg", "nDCG@10 with 95% interval")

    figure, axes = plt.subplots(figsize=(5, 3))
    for queries, points in simulated().items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{queries} queries")
    axes.set_xlabel("true gain of the tuned model, in standard errors")
    axes.set_ylabel("share in which something new is used")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, "guard.svg")

    arms = costs()
    figure, axes = plt.subplots(figsize=(6, 4.5))
    places = range(len(arms))[::-1]
    axes.barh(
        [place + 0.2 for place in places], [time for _, time, _ in arms], 0.38, label="process time", color="#37474f"
    )
    axes.barh(
        [place - 0.2 for place in places], [memory for *_, memory in arms], 0.38, label="memory", color="#90a4ae"
    )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(list(places), [name for name, *_ in arms])
    axes.set_xlabel("MiniLM, 20 to 256 tokens: times plain training with CrossEncoderTrainer")
    axes.legend()
    save(figure, "engine.svg")
    return made


if __name__ == "__main__":
    for written in (*draw(), *tables.fill()):
        print(written.relative_to(ROOT))
