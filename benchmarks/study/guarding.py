"""What fine-tuning does to what the user had, without and with the guard: the start, and the first stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from cmp_rerank.guard.choice import choose, paired

from .arms import ARMS
from .measuring import decode
from .tasks import TASKS


def guarded(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: how often an arm ends below the start, without and with the guard.

    The guard chooses between the start and the tuned model on some rows of validation; below is what is below the
    start on test, and significantly so where a paired t test over the rows says it (5%, two-sided).
    """
    start = next((row for row in rows if row["arm"] == "start"), None)
    if start is None:
        return ["the start has not been measured"]
    lines = [
        "| arm | seeds | minus the start | below it | significantly | with the guard: minus the start | below it "
        "| significantly | start kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    there = _looked_at(rows, size)
    for arm in ARMS:
        mine = list(there.get((arm, "test"), {}).values())
        if not mine:
            continue
        seen = np.stack([decode(row["guard"], TASKS[task]) for row in mine])
        chosen = handed_over(decode(start["guard"], TASKS[task]), seen)
        alone = _minus(start, mine, task)
        handed = [difference * tuned for difference, tuned in zip(alone, chosen, strict=True)]
        kept = int((~chosen).sum())
        cells = [arm, str(len(mine)), *_below(alone), *_below(handed), f"{kept}/{len(mine)}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def guarded_by_wrong_labels(rows: list[dict[str, Any]], task: str, size: int, draws: int = 50) -> str:
    """What the guard does where its rows have as many wrong labels as those of training; of tasks with two classes.

    A wrong label makes right wrong, and wrong right, for both models alike. Which rows have one is drawn anew.
    """
    found, start = TASKS[task], next((row for row in rows if row["arm"] == "start"), None)
    tuned = [row for row in rows if (row["size"], row["part"]) == (size, "test") and "guard" in row]
    if not found.noise or start is None or not tuned:
        return "no runs with wrong labels"
    begin, seen = (decode(start[name], found) for name in ("values", "guard"))
    guards = np.stack([decode(row["guard"], found) for row in tuned])
    gains = [float((decode(row["values"], found) - begin).mean()) for row in tuned]
    draw, chosen = np.random.default_rng(0), []
    for _ in range(draws):
        wrong = np.zeros(len(seen), dtype=bool)
        wrong[draw.permutation(len(seen))[: round(found.noise * len(seen))]] = True
        chosen.append(handed_over(np.where(wrong, 1 - seen, seen), np.where(wrong, 1 - guards, guards)))
    handed = np.array(chosen) * np.array(gains)
    return (
        f"{len(tuned)} runs, {draws} draws of {found.noise:.0%} wrong labels: the start is kept in "
        f"{np.mean(np.array(chosen) == 0):.1%}, and what is handed over is {handed.mean():+.5f} from it on average, "
        f"below it in {np.mean(handed < 0):.1%}"
    )


def halfway_guarded(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: tuned models and those halfway to the start, and the guard that chooses between all.

    Of the seeds that have both. Below is what is below the start on test, and significantly so as in `guarded`.
    """
    start = next((row for row in rows if row["arm"] == "start"), None)
    there = _looked_at(rows, size)
    lines = [
        "| arm | seeds | minus the start | below it | significantly | halfway: minus the start | below it "
        "| significantly | with the guard: minus the start | below it | significantly | start kept | halfway |",
        "|---" * 13 + "|",
    ]
    for arm in ARMS if start is not None else ():
        back, tuned = (there.get((arm, part), {}) for part in ("halfway", "test"))
        seeds = sorted(back.keys() & tuned.keys())
        if start is not None and seeds:
            alone = _below(_minus(start, [tuned[seed] for seed in seeds], task))
            moved = _below(_minus(start, [back[seed] for seed in seeds], task))
            handed, chosen = _handed([start], [[back[seed], tuned[seed]] for seed in seeds], task)
            counts = [f"{chosen.count(model)}/{len(chosen)}" for model in (0, 1)]
            lines.append("| " + " | ".join([arm, str(len(seeds)), *alone, *moved, *handed, *counts]) + " |")
    return lines if len(lines) > 2 else ["no models halfway between the start and the tuned ones"]


def first_stage(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: models against the order in which the first stage gave the documents.

    And what the guard hands over, of the first stage, the start and the model; for a model halfway to the start, the
    tuned one is a candidate, too. What the user had is the better one of the first two, as the package has it.
    """
    common = {row["arm"]: row for row in rows if row["size"] == 0}
    if not {"first stage", "start"} <= common.keys():
        return ["the first stage, or the start, has not been measured"]
    first, start = common["first stage"], common["start"]
    there = _looked_at(rows, size)
    # Models, and the candidates of each beside the first two, the simplest first.
    runs: dict[str, tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]] = {"the start": ([start], [[]])}
    for arm in ARMS:
        back, tuned = (there.get((arm, part), {}) for part in ("halfway", "test"))
        runs[arm] = (list(tuned.values()), [[row] for row in tuned.values()])
        seeds = sorted(back.keys() & tuned.keys())
        runs[f"{arm}, halfway"] = ([back[seed] for seed in seeds], [[back[seed], tuned[seed]] for seed in seeds])
    lines = [
        "| model | runs | mean | minus the first stage | below it | significantly | with the guard: minus the first "
        "stage | below it | significantly | first stage kept |",
        "|---" * 10 + "|",
        "| " + " | ".join(["the first stage", "1", f"{first['mean']:.4f}", *[""] * 7]) + " |",
    ]
    for name, (models, others) in runs.items():
        if models:
            mean = np.mean([model["mean"] for model in models])
            handed, chosen = _handed([first, start], others, task)
            cells = [name, str(len(models)), f"{mean:.4f}", *_below(_minus(first, models, task)), *handed]
            lines.append("| " + " | ".join([*cells, f"{chosen.count(0)}/{len(models)}"]) + " |")
    return lines


def start_and_first_stage(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: the start minus the first stage, where the guard looks and on test.

    The t test is paired over the rows; both are one model each, so that there is no error over seeds.
    """
    common = {row["arm"]: row for row in rows if row["size"] == 0}
    if not {"first stage", "start"} <= common.keys():
        return ["the first stage, or the start, has not been measured"]
    lines = ["| rows of | rows | the start | the first stage | difference | 95% interval | p |", "|---" * 7 + "|"]
    for name, part in (("guard", "validation"), ("values", "test")):
        start, first = (decode(common[arm][name], TASKS[task]) for arm in ("start", "first stage"))
        found = stats.ttest_rel(start, first)
        low, high = found.confidence_interval()
        cells = [
            part,
            str(len(start)),
            f"{start.mean():.4f}",
            f"{first.mean():.4f}",
            f"{(start - first).mean():+.4f}",
        ]
        lines.append("| " + " | ".join([*cells, f"{low:+.4f}..{high:+.4f}", f"{found.pvalue:.3f}"]) + " |")
    return lines


def _looked_at(rows: list[dict[str, Any]], size: int) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Arm and part -> seed -> row, of those whose values on the guard's rows are there."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["size"] == size and "guard" in row:
            found.setdefault((row["arm"], row["part"]), {})[row["seed"]] = row
    return found


def _minus(other: dict[str, Any], models: Sequence[dict[str, Any]], task: str) -> list[np.ndarray]:
    """The values on test of each model minus those of another one."""
    before = decode(other["values"], TASKS[task])
    return [decode(model["values"], TASKS[task]) - before for model in models]


def _handed(
    had: Sequence[dict[str, Any]], others: Sequence[Sequence[dict[str, Any]]], task: str
) -> tuple[list[str], list[int]]:
    """What the guard hands over against the first of what the user had, as `_below` says it; and its choices."""
    handed, chosen = [], []
    for own in others:
        candidates = [*had, *own]
        seen = np.stack([decode(row["guard"], TASKS[task]) for row in candidates])
        chosen.append(choose(seen, range(len(had))).chosen)
        handed += _minus(had[0], [candidates[chosen[-1]]], task)
    return _below(handed), chosen


def handed_over(start: np.ndarray, tuned: np.ndarray, folds: int = 10, repeats: int = 10) -> np.ndarray:
    """Which tuned models the guard hands over, each against the start: what `choose` says of the two, of all at once.

    Args:
        start: (rows,) Values of the start.
        tuned: (models, rows) Values of the tuned models.
        folds: As for `choose`.
        repeats: As for `choose`.
    """
    gains = tuned - start
    folds = min(folds, len(start))
    rng, sums = np.random.default_rng(0), np.zeros_like(gains)
    for _ in range(repeats):
        fold_of = rng.permutation(len(start)) % folds
        for fold in range(folds):
            held_out = fold_of == fold
            picked = _gain(gains[:, ~held_out])
            sums[:, held_out] += np.where(picked[:, None], tuned[:, held_out], start[held_out])
    return _gain(gains) & _gain(sums / repeats - start)


def _gain(differences: np.ndarray) -> np.ndarray:
    means, errors = paired(differences)
    return np.asarray(means > (1 + 1e-9) * errors)  # see `choose`


def _below(differences: list[np.ndarray]) -> list[str]:
    means = [float(each.mean()) for each in differences]
    errors = [float(each.std(ddof=1)) / math.sqrt(len(each)) for each in differences]
    significant = [
        mean < 0 and mean < -float(stats.t.ppf(0.975, len(each) - 1)) * error
        for mean, error, each in zip(means, errors, differences, strict=True)
    ]
    count = len(means)
    return [f"{np.mean(means):+.4f}", f"{sum(m < 0 for m in means)}/{count}", f"{sum(significant)}/{count}"]
