"""Arms against each other: paired by seed and by query, with Holm's correction over a family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from .arms import ARMS
from .cells import SCREENED_AT, chosen_rate
from .measuring import decode
from .plan import VARIANTS
from .tasks import TASKS

Key = TypeVar("Key")

#: The control of comparing: the same passes, averaged.
CONTROL = "mean, c=2"

#: Arms and what isolates one thing in them: the comparison, or that the support is known.
VERDICTS = (
    ("compared, c=2", CONTROL),
    ("compared, c=2, full", CONTROL),
    ("full + hinges, c=2", CONTROL),
    ("compared, crop", "mean, crop"),
    ("compared, crop", "compared, crop, support guessed"),
)

#: The family of the replication: what was found with other seeds, see the protocol.
REPLICATION = (
    ("mean, crop", "plain, dropout 0.1"),
    ("compared, crop", "plain, dropout 0.1"),
    ("compared, crop", "mean, crop"),
)

#: Whether a crop needs a pass of its own, or one pass that is cropped half of the time does as well.
ONE_PASS = (
    ("half cropped", "plain, dropout 0.1"),
    ("half cropped", "plain"),
    ("mean, crop", "half cropped"),
)

#: What of comparing is the comparison, and what the weight of the full model.
WEIGHTING = (
    ("compared, c=2", "weighted mean, c=2"),
    ("weighted mean, c=2", CONTROL),
    ("compared, crop", "weighted mean, crop"),
    ("weighted mean, crop", "mean, crop"),
)


def tested(rows: list[dict[str, Any]], task: str, size: int) -> dict[str, dict[int, np.ndarray]]:
    """Arm -> seed -> value of each test row."""
    return measured(rows, task, size, "test")


def measured(rows: list[dict[str, Any]], task: str, size: int, part: str) -> dict[str, dict[int, np.ndarray]]:
    """Arm -> seed -> value of each row of the part."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for row in rows:
        if (row["task"], row["size"], row["part"]) == (task, size, part) and "values" in row:
            found.setdefault(row["arm"], {})[row["seed"]] = decode(row["values"], TASKS[task])
    return found


def contrast(arm: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> dict[str, float]:
    """The mean difference over the seeds that both have, and its t test over seeds.

    A seed is the unit: it draws the training rows, their order and the ablations, and what differs between seeds is
    what would differ for another user. The standard error over queries is given beside it; the larger one decides.
    Seeds and queries both vary, so that the larger one is the least that the error can be: ``error_both`` adds the
    two variances, less the part that both of them have.
    """
    seeds = sorted(arm.keys() & other.keys())
    if len(seeds) < 2:
        return {"seeds": len(seeds)}
    differences = np.stack([arm[seed] - other[seed] for seed in seeds])  # (seeds, queries)
    by_seed, by_query = differences.mean(axis=1), differences.mean(axis=0)
    over_seeds = float(by_seed.std(ddof=1)) / math.sqrt(len(seeds))
    over_queries = float(by_query.std(ddof=1)) / math.sqrt(len(by_query))
    mean = float(by_seed.mean())
    # Each has its own part and that of seed and query together, which is what is left of the table.
    left = differences - by_seed[:, None] - by_query[None, :] + mean
    common = float(np.square(left).sum()) / ((len(seeds) - 1) * (len(by_query) - 1)) / differences.size
    both = math.sqrt(max(over_seeds**2 + over_queries**2 - common, over_seeds**2, over_queries**2))
    error = max(over_seeds, over_queries)
    t = mean / error if error else 0.0
    freedom = len(seeds) - 1
    quantile = float(stats.t.ppf(0.975, freedom))
    return {
        "seeds": len(seeds),
        "difference": mean,
        "error_seeds": over_seeds,
        "error_queries": over_queries,
        "error_both": both,
        "t": t,
        "p": float(2 * stats.t.sf(abs(t), freedom)),
        "low": mean - quantile * error,
        "high": mean + quantile * error,
        "low_both": mean - quantile * both,
        "high_both": mean + quantile * both,
        "wins": int((by_seed > 0).sum()),
    }


def holm(p_values: dict[Key, float]) -> dict[Key, float]:
    """Holm's step-down correction."""
    corrected: dict[Key, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = running
    return corrected


def summary(rows: list[dict[str, Any]], task: str, size: int, against: str = "plain") -> list[str]:
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
        row = [arm, f"{rates[arm]:g}", f"{ARMS[arm].cost:g}", str(len(means))]
        row += [f"{np.mean(means):.4f}", deviation]
        c = contrasts.get(arm, {})
        if "p" in c:
            row += [f"{c['difference']:+.4f}", f"{c['low']:+.4f}..{c['high']:+.4f}", f"{corrected[arm]:.3f}"]
            row += [f"{c['wins']}/{c['seeds']}"]
        else:
            row += ["", "", "", ""]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def costs(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: what a point of gain over plain training costs in passes added to each epoch's one.

    A point is a hundredth of the measure. What a point costs is the passes added by the gain; at best, by the upper
    end of its interval. Where the interval has 0, no gain is shown.
    """
    found = tested(rows, task, size)
    lines = [
        "| arm | passes | seeds | gain in points | 95% interval | passes for a point | at best |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in sorted(found, key=list(ARMS).index):
        passes = ARMS[arm].cost
        c = contrast(found[arm], found.get("plain", {}))
        if arm != "plain" and "p" in c:
            added, gain, low, high = passes - 1, *(100 * c[name] for name in ("difference", "low", "high"))
            cells = [arm, f"{passes:g}", str(c["seeds"]), f"{gain:+.1f}", f"{low:+.1f}..{high:+.1f}"]
            cells += [f"{added / gain:.2f}" if low > 0 else "no gain is shown"]
            cells += [f"{added / high:.2f}" if high > 0 else "no gain"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines if len(lines) > 2 else [f"no test run of 'plain' and another arm with {size} rows"]


def tuning(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: each arm at the rate that is best on validation."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if (row["task"], row["size"], row["part"]) == (task, size, "validation"):
            # A failed run counts 0, as where the rate is chosen.
            found.setdefault(row["arm"], {}).setdefault(row["rate"], []).append(row.get("mean", 0.0))
    lines = ["| arm | passes | best rate | seeds | mean | sd over seeds |", "|---|---|---|---|---|---|"]
    best = {
        arm: max(rates.items(), key=lambda item: np.mean(item[1]))
        for arm, rates in found.items()
        if len(rates) > 1  # not only screened
    }
    for arm, (rate, means) in sorted(best.items(), key=lambda item: -np.mean(item[1][1])):
        passes = ARMS[arm].cost
        deviation = f"{np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
        lines.append(f"| {arm} | {passes:g} | {rate:g} | {len(means)} | {np.mean(means):.4f} | {deviation} |")
    return lines


def screening(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: variants of comparing on validation, at the rate of `SCREENED_AT`, untuned.

    Each minus that arm, minus the average of its own passes, and minus plain training at that rate.
    """
    rate = chosen_rate(rows, task, size, SCREENED_AT)
    if rate is None:
        return [f"{SCREENED_AT!r} is not tuned with {size} rows"]
    found = measured([row for row in rows if row["rate"] == rate], task, size, "validation")
    lines = [
        f"| arm | passes | seeds | mean | minus {SCREENED_AT} | 95% interval | minus averaging | 95% interval "
        "| minus plain | 95% interval |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, average in VARIANTS.items():
        if arm not in found:
            continue
        mean = np.mean([values.mean() for values in found[arm].values()])
        cells = [arm, f"{ARMS[arm].cost:g}", str(len(found[arm])), f"{mean:.4f}"]
        for other in (SCREENED_AT, average, "plain"):
            c = contrast(found[arm], found.get(other, {})) if other != arm else {}
            cells += [f"{c['difference']:+.4f}", f"{c['low']:+.4f}..{c['high']:+.4f}"] if "p" in c else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def best_plain(rows: list[dict[str, Any]], task: str, size: int, passes: float = 3) -> str | None:
    """The plain arm of at most so many passes that is best on validation, of those that are tested."""
    there = tested(rows, task, size)
    plain = [arm for arm in there if arm.startswith("plain") and ARMS[arm].cost <= passes]
    means = {
        arm: max(
            float(np.mean([row.get("mean", 0.0) for row in tuned]))
            for rate in TASKS[task].rates
            if (tuned := [row for row in _validation(rows, task, size, arm) if row["rate"] == rate])
        )
        for arm in plain
    }
    return max(means, key=lambda arm: means[arm]) if means else None


def _validation(rows: list[dict[str, Any]], task: str, size: int, arm: str) -> list[dict[str, Any]]:
    wanted = (task, size, arm, "validation")
    return [row for row in rows if (row["task"], row["size"], row["arm"], row["part"]) == wanted]


def verdicts(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: what is compared against averaging, and the best plain arm of its compute."""
    return contrasts(rows, task, size, verdict_pairs(rows, task, size))


def verdict_pairs(rows: list[dict[str, Any]], task: str, size: int) -> list[tuple[str, str]]:
    """The pairs of `verdicts`, whether or not they are there."""
    arms = dict.fromkeys(arm for arm, _ in VERDICTS) | dict.fromkeys((CONTROL, "mean, crop"))
    plain = [(arm, best_plain(rows, task, size, ARMS[arm].cost)) for arm in arms]
    return [*VERDICTS, *((arm, other) for arm, other in plain if other)]


def replication(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: the crops against plain training with dropout, and against each other."""
    return contrasts(rows, task, size, REPLICATION)


@dataclass(frozen=True)
class Kind:
    """Ablated passes of one kind on one task and size, against their controls.

    Attributes:
        task: Its name.
        size: Rows of the training set.
        passes: "c=2", two steps of CmpDrop, or "crop".
        plain: The plain arm of at most as many passes that is best on validation.
        differences: Those of `DIFFERENCES` that are tested -> contrast, with "p_holm", as `verdicts` corrects it.
    """

    task: str
    size: int
    passes: str
    plain: str
    differences: dict[tuple[str, str], dict[str, float]]


#: What is subtracted from what.
DIFFERENCES = (("comparing", "averaging"), ("comparing", "tuned plain"), ("averaging", "tuned plain"))


def kinds(rows: list[dict[str, Any]], task: str, size: int) -> list[Kind]:
    """What `verdicts` says of two steps of CmpDrop, and of one crop."""
    found = corrected_contrasts(tested(rows, task, size), verdict_pairs(rows, task, size))
    made = []
    for passes in ("c=2", "crop"):
        arms = {"comparing": f"compared, {passes}", "averaging": f"mean, {passes}"}
        plain = best_plain(rows, task, size, ARMS[arms["comparing"]].cost)
        if plain is None:
            continue
        arms["tuned plain"] = plain
        pairs = {names: found[pair] for names in DIFFERENCES if (pair := (arms[names[0]], arms[names[1]])) in found}
        if pairs:
            made.append(Kind(task, size, passes, plain, pairs))
    return made


def overview(found: Sequence[Kind]) -> list[str]:
    """Lines of a Markdown table: a line for each kind of ablated passes, task and size.

    Bold is what is significant after Holm's correction over the verdicts of its task and size.
    """
    titles = " | ".join(map(" minus ".join, DIFFERENCES))
    lines = [f"| task | ablated passes | seeds | {titles} | tuned plain |", "|---|---|---|---|---|---|---|"]
    for kind in found:
        cells = [f"{kind.task}, {kind.size:,}", kind.passes]
        cells.append("/".join(dict.fromkeys(f"{c['seeds']:g}" for c in kind.differences.values())))
        for names in DIFFERENCES:
            c = kind.differences.get(names)
            text = f"{c['difference']:+.3f} ({c['low']:+.3f}..{c['high']:+.3f})" if c else ""
            cells.append(f"**{text}**" if c and c["p_holm"] < 0.05 else text)
        lines.append("| " + " | ".join([*cells, kind.plain]) + " |")
    return lines


def combined(found: Sequence[Kind]) -> list[str]:
    """Lines of a Markdown table: a difference of all tasks and sizes together, by Stouffer's method.

    Measures differ between tasks, so that t, and not differences, is combined; each task and size counts alike.
    """
    lines = [
        "| ablated passes | difference | tasks and sizes | above 0 | seeds above 0 | z | p | p (Holm) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    z: dict[tuple[str, tuple[str, str]], float] = {}
    counts: dict[tuple[str, tuple[str, str]], list[str]] = {}
    for passes in dict.fromkeys(kind.passes for kind in found):
        for names in DIFFERENCES:
            own = [kind.differences[names] for kind in found if kind.passes == passes and names in kind.differences]
            if own:
                # The normal deviate of each t's tail.
                deviates = [stats.norm.ppf(stats.t.cdf(c["t"], c["seeds"] - 1)) for c in own]
                z[passes, names] = float(np.sum(deviates)) / math.sqrt(len(own))
                above, wins = sum(c["difference"] > 0 for c in own), sum(c["wins"] for c in own)
                counts[passes, names] = [
                    str(len(own)), f"{above}/{len(own)}", f"{wins}/{sum(c['seeds'] for c in own)}"
                ]  # fmt: skip
    p_values = {key: float(2 * stats.norm.sf(abs(value))) for key, value in z.items()}
    corrected = holm(p_values)
    for key, value in z.items():
        passes, names = key
        cells = [passes, " minus ".join(names), *counts[key], f"{value:+.2f}"]
        cells += [f"{p:.4f}" if p >= 5e-5 else "<0.0001" for p in (p_values[key], corrected[key])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def one_pass(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: one pass, whole or cropped, against plain training and against two passes."""
    return contrasts(rows, task, size, ONE_PASS)


def weighting(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: comparing against its weights alone, and these against averaging."""
    return contrasts(rows, task, size, WEIGHTING)


def contrasts(rows: list[dict[str, Any]], task: str, size: int, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a Markdown table of the pairs that are tested. Holm's correction goes over all of them."""
    return _contrasts(tested(rows, task, size), pairs)


def _contrasts(found: dict[str, dict[int, np.ndarray]], pairs: Sequence[tuple[str, str]]) -> list[str]:
    lines = [
        "| arm | against | seeds | difference | 95% interval | p | p (Holm) | wins |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pair, c in corrected_contrasts(found, pairs).items():
        cells = [*pair, str(c["seeds"]), f"{c['difference']:+.4f}", f"{c['low']:+.4f}..{c['high']:+.4f}"]
        cells += [f"{c['p']:.3f}", f"{c['p_holm']:.3f}", f"{c['wins']}/{c['seeds']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def corrected_contrasts(
    found: dict[str, dict[int, np.ndarray]], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, float]]:
    """The contrasts of the pairs that are tested, with "p_holm", corrected over all of them."""
    there = {
        (arm, other): contrast(found[arm], found[other]) for arm, other in pairs if arm in found and other in found
    }
    there = {pair: c for pair, c in there.items() if "p" in c}
    corrected = holm({pair: c["p"] for pair, c in there.items()})
    return {pair: c | {"p_holm": corrected[pair]} for pair, c in there.items()}


def halfway(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: models halfway between the start and the tuned ones, against both of them."""
    start = next((row for row in rows if row["arm"] == "start"), None)
    moved, tuned = measured(rows, task, size, "halfway"), tested(rows, task, size)
    if start is None or not moved.keys() & tuned.keys():
        return ["no models halfway between the start and the tuned ones"]
    seeds = {seed for own in (*moved.values(), *tuned.values()) for seed in own}
    found = tuned | {"the start": dict.fromkeys(seeds, decode(start["values"], TASKS[task]))}
    pairs = []
    for arm in [arm for arm in ARMS if arm in moved and arm in tuned]:
        back = f"{arm}, halfway"
        found[back] = moved[arm]
        pairs += [(back, arm), (back, "the start"), (arm, "the start")]
    return _contrasts(found, pairs)


def robustness(
    rows: list[dict[str, Any]], task: str, size: int, control: str = "plain", arms: Sequence[str] = tuple(ARMS)
) -> list[str]:
    """Lines of a Markdown table: what models of arms lose by damage, and how that differs from a control's loss."""
    losses: dict[str, dict[str, dict[int, np.ndarray]]] = {}  # arm, damage, seed
    whole: dict[str, list[float]] = {}
    for row in rows:
        if (row["task"], row["size"], row["part"]) == (task, size, "robust") and "robust" in row:
            values = {name: decode(each, TASKS[task]) for name, each in row["robust"].items()}
            whole.setdefault(row["arm"], []).append(float(values["whole"].mean()))
            for name in values.keys() - {"whole"}:
                losses.setdefault(row["arm"], {}).setdefault(name, {})[row["seed"]] = values[name] - values["whole"]
    if control not in losses:
        return ["no damaged models"]
    lines = [
        f"| damage | arm | seeds | whole | damaged | difference | minus that of {control} | 95% interval | p (Holm) |"
    ]
    lines.append("|---" * 9 + "|")
    arms = [arm for arm in arms if arm in losses and arm != control]
    names = [name for name in next(row["robust"] for row in rows if "robust" in row) if name != "whole"]
    pairs = [(name, arm) for name in names for arm in arms]
    found = {(name, arm): contrast(losses[arm][name], losses[control][name]) for name, arm in pairs}
    corrected = holm({pair: each["p"] for pair, each in found.items() if "p" in each})
    for name, arm in [(name, arm) for name in names for arm in (control, *arms) if name in losses[arm]]:
        own, before = losses[arm][name], np.mean(whole[arm])
        lost = np.mean([loss.mean() for loss in own.values()])
        cells = [name, arm, str(len(own)), f"{before:.4f}", f"{before + lost:.4f}", f"{lost:+.4f}"]
        each = found.get((name, arm), {})
        if "p" in each:
            cells += [f"{each['difference']:+.4f}", f"{each['low']:+.4f}..{each['high']:+.4f}"]
            cells.append(f"{corrected[name, arm]:.3f}")
        lines.append("| " + " | ".join([*cells, *[""] * (9 - len(cells))]) + " |")
    return lines


def robustness_to_averaging(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """The same, of the arms that compare, against averaging the same passes."""
    return robustness(rows, task, size, CONTROL, [arm for arm, other in VERDICTS if other == CONTROL])


def violations(rows: list[dict[str, Any]], task: str, size: int, arm: str = "compared, c=2") -> list[str]:
    """Lines of a Markdown table: the rates of violations by tenths of the training, over the test seeds."""
    wanted = (task, size, arm, "test")
    logs = [
        row["log"]
        for row in rows
        if (row["task"], row["size"], row["arm"], row["part"]) == wanted and "violation_rate" in row.get("log", {})
    ]
    if not logs:
        return [f"no test run of {arm!r} with {size} rows"]
    names = [name for name in ("loss", "violation_rate", "beaten_rate") if all(name in log for log in logs)]
    lines = ["| tenth of training | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for tenth in range(min(len(log["loss"]) for log in logs)):
        cells = [f"{np.mean([log[name][tenth] for log in logs]):.3f}" for name in names]
        lines.append("| " + " | ".join([str(tenth + 1), *cells]) + " |")
    return lines


def violations_of_crops(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """The same, of comparing with a crop."""
    return violations(rows, task, size, "compared, crop")


def losses(rows: list[dict[str, Any]], task: str, size: int) -> list[str]:
    """Lines of a Markdown table: what each arm minimises in the first and the last tenth of training.

    And how many of its models do on test just what the start does, or on every row the opposite. Where the start
    gives all pairs one of two classes, these are the models that give all pairs one.
    """
    lines = ["| arm | seeds | first tenth | last tenth | as the start, or its opposite |", "|---|---|---|---|---|"]
    start = next((row["values"] for row in rows if row["arm"] == "start"), "")
    alike = {str(start), str(start).translate(str.maketrans("01", "10"))}
    for arm in ARMS:
        wanted = (task, size, arm, "test")
        own = [row for row in rows if (row["task"], row["size"], row["arm"], row["part"]) == wanted]
        logs = [row["log"]["loss"] for row in own if row.get("log", {}).get("loss")]
        if logs:
            first, last = (float(np.mean([log[place] for log in logs])) for place in (0, -1))
            same = sum(str(row.get("values")) in alike for row in own)
            lines.append(f"| {arm} | {len(logs)} | {first:.3f} | {last:.3f} | {same}/{len(own)} |")
    return lines if len(lines) > 2 else [f"no test runs with {size} rows"]


def gain_by_violations(rows: list[dict[str, Any]], task: str, size: int, arm: str = "compared, c=2") -> str:
    """Whether the mean rate of violations of a seed goes with its gain over the control: a rank correlation."""
    arms = tested(rows, task, size)
    rates = {
        row["seed"]: float(np.mean(row["log"]["violation_rate"]))
        for row in rows
        if (row["task"], row["size"], row["arm"], row["part"]) == (task, size, arm, "test") and "values" in row
    }
    seeds = sorted(rates.keys() & arms.get(CONTROL, {}).keys())
    if len(seeds) < 4:
        return f"{len(seeds)} seeds are too few"
    gains = [float((arms[arm][seed] - arms[CONTROL][seed]).mean()) for seed in seeds]
    found = stats.spearmanr([rates[seed] for seed in seeds], gains)
    return f"Spearman's correlation {found.statistic:+.2f} over {len(seeds)} seeds (p {found.pvalue:.2f})"
