"""Arms against each other: paired by seed and by query, with Holm's correction over a family."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from .arms import ARMS
from .tasks import TASKS
from .training import decode


def tested(rows: list[dict[str, Any]], task: str, size: int) -> dict[str, dict[int, np.ndarray]]:
    """Arm -> seed -> value of each test row."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for row in rows:
        if (row["task"], row["size"], row["part"]) == (task, size, "test") and "values" in row:
            found.setdefault(row["arm"], {})[row["seed"]] = decode(row["values"], TASKS[task])
    return found


def contrast(arm: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> dict[str, float]:
    """The mean difference over the seeds that both have, and its t test over seeds.

    A seed is the unit: it draws the training rows, their order and the ablations, and what differs between seeds is
    what would differ for another user. The standard error over queries is given beside it; the larger one decides.
    """
    seeds = sorted(arm.keys() & other.keys())
    if len(seeds) < 2:
        return {"seeds": len(seeds)}
    differences = np.stack([arm[seed] - other[seed] for seed in seeds])  # (seeds, queries)
    by_seed, by_query = differences.mean(axis=1), differences.mean(axis=0)
    over_seeds = float(by_seed.std(ddof=1)) / math.sqrt(len(seeds))
    over_queries = float(by_query.std(ddof=1)) / math.sqrt(len(by_query))
    mean = float(by_seed.mean())
    error = max(over_seeds, over_queries)
    t = mean / error if error else 0.0
    freedom = len(seeds) - 1
    return {
        "seeds": len(seeds),
        "difference": mean,
        "error_seeds": over_seeds,
        "error_queries": over_queries,
        "t": t,
        "p": float(2 * stats.t.sf(abs(t), freedom)),
        "low": mean - float(stats.t.ppf(0.975, freedom)) * error,
        "high": mean + float(stats.t.ppf(0.975, freedom)) * error,
        "wins": int((by_seed > 0).sum()),
    }


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction."""
    corrected, running = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = running
    return corrected


def summary(rows: list[dict[str, Any]], task: str, size: int, against: str) -> list[str]:
    """Lines of a Markdown table."""
    found = tested(rows, task, size)
    if against not in found:
        return [f"no test run of {against!r} with {size} rows"]
    contrasts = {arm: contrast(seeds, found[against]) for arm, seeds in found.items() if arm != against}
    corrected = holm({arm: c["p"] for arm, c in contrasts.items() if "p" in c})
    rates = {row["arm"]: row["rate"] for row in rows if row["part"] == "test" and row["size"] == size}
    lines = [
        f"| arm | rate | passes | seeds | mean | sd over seeds | minus {against} | 95% interval | p (Holm) | wins |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = list(ARMS)
    for arm in sorted(found, key=order.index):
        means = [values.mean() for values in found[arm].values()]
        deviation = f"{np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
        row = [arm, f"{rates[arm]:g}", str(ARMS[arm].passes * ARMS[arm].epochs), str(len(means))]
        row += [f"{np.mean(means):.4f}", deviation]
        c = contrasts.get(arm, {})
        if "p" in c:
            row += [f"{c['difference']:+.4f}", f"{c['low']:+.4f}..{c['high']:+.4f}", f"{corrected[arm]:.3f}"]
            row += [f"{c['wins']}/{c['seeds']}"]
        else:
            row += ["", "", "", ""]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def tuning(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: each arm at the rate that is best on validation."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if (row["task"], row["size"], row["part"]) == (task, size, "validation") and "mean" in row:
            found.setdefault(row["arm"], {}).setdefault(row["rate"], []).append(row["mean"])
    lines = ["| arm | passes | best rate | seeds | mean | sd over seeds |", "|---|---|---|---|---|---|"]
    best = {arm: max(rates.items(), key=lambda item: np.mean(item[1])) for arm, rates in found.items()}
    for arm, (rate, means) in sorted(best.items(), key=lambda item: -np.mean(item[1][1])):
        passes = ARMS[arm].passes * ARMS[arm].epochs
        deviation = f"{np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
        lines.append(f"| {arm} | {passes} | {rate:g} | {len(means)} | {np.mean(means):.4f} | {deviation} |")
    return lines
