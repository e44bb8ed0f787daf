"""Compare systems: intervals, paired tests with correction, and what the queries could have shown at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from cmp_rerank.evaluation.evaluate import Evaluation, Judgments, QrelsLike, RunLike, evaluate
from cmp_rerank.evaluation.measures import parse_measures
from cmp_rerank.evaluation.statistics import (
    bootstrap_means,
    detectable,
    holm,
    interval,
    mean_error,
    randomisation_test,
    t_test,
)
from cmp_rerank.runs.ranking import check_choice

TESTS = ("t", "randomisation")
SystemLike = RunLike | Evaluation | Sequence[RunLike | Evaluation]


@dataclass(frozen=True)
class SystemMean:
    """The mean of a system in one measure.

    Attributes:
        system: Name of the system.
        measure: Name of the measure.
        mean: Mean over queries and seeds.
        low: Lower end of the bootstrap interval.
        high: Upper end of the bootstrap interval.
        seeds: Number of runs of the system.
        seed_deviation: Standard deviation of the means of its runs; None for a single run.
    """

    system: str
    measure: str
    mean: float
    low: float
    high: float
    seeds: int
    seed_deviation: float | None


@dataclass(frozen=True)
class Contrast:
    """A system against the baseline in one measure.

    Attributes:
        system: Name of the system.
        baseline: Name of the baseline.
        measure: Name of the measure.
        difference: Mean of the system minus mean of the baseline.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end of the bootstrap interval of the difference.
        t_p: p value of the paired t-test.
        t_p_holm: The same, corrected for the family.
        randomisation_p: p value of the paired randomisation test.
        randomisation_p_holm: The same, corrected for the family.
        effect_size: Mean difference / standard deviation of the differences over queries (Cohen's d_z); None
            where they do not vary.
        wins: Queries where the system is better.
        ties: Queries where both are equal.
        losses: Queries where the baseline is better.
        detectable: Smallest true difference that would have been found; None where it cannot be estimated.
        significant: Whether the corrected p value of the chosen test is below alpha.
    """

    system: str
    baseline: str
    measure: str
    difference: float
    low: float
    high: float
    t_p: float
    t_p_holm: float
    randomisation_p: float
    randomisation_p_holm: float
    effect_size: float | None
    wins: int
    ties: int
    losses: int
    detectable: float | None
    significant: bool

    @property
    def verdict(self) -> str:
        """One of "better", "worse", and "not shown" when the difference is not significant."""
        if not self.significant:
            return "not shown"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of :func:`compare`.

    Attributes:
        baseline: Name of the baseline.
        systems: Names of all systems, the baseline among them, in the order given.
        measures: Names of the measures.
        queries: Query ids.
        values: System -> (seeds, queries, measures) values.
        means: One entry for each system and measure.
        contrasts: One entry for each other system and measure.
        evaluations: System -> what was evaluated, one for each seed; holds missing queries and ties.
        config: Alpha, level, power, resamples, seed, test and the options of the evaluation.
    """

    baseline: str
    systems: tuple[str, ...]
    measures: tuple[str, ...]
    queries: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    means: tuple[SystemMean, ...]
    contrasts: tuple[Contrast, ...]
    evaluations: Mapping[str, tuple[Evaluation, ...]]
    config: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"<Comparison of {', '.join(self.systems)} with {self.baseline} in {', '.join(self.measures)} over "
            f"{len(self.queries)} queries>"
        )

    def mean(self, system: str, measure: str) -> SystemMean:
        """The mean of one system in one measure."""
        return next(entry for entry in self.means if (entry.system, entry.measure) == (system, measure))

    def contrast(self, system: str, measure: str) -> Contrast:
        """One system against the baseline in one measure."""
        return next(entry for entry in self.contrasts if (entry.system, entry.measure) == (system, measure))

    def differences(self, system: str, measure: str) -> dict[str, float]:
        """Query -> value of the system minus value of the baseline, averaged over seeds."""
        column = self.measures.index(measure)
        difference = _differences(self.values[system], self.values[self.baseline])[:, column]
        return dict(zip(self.queries, difference.tolist(), strict=True))

    def method(self) -> str:
        """How the figures were made, in a few sentences for a caption."""
        config = self.config
        seeds = max(len(values) for values in self.values.values())
        family = f"{len(self.contrasts)} comparison{'s' * (len(self.contrasts) > 1)}"
        text = (
            f"{len(self.queries)} queries. Intervals: {config['level']:.0%} percentile bootstrap over queries"
            f"{' and seeds' if seeds > 1 else ''}, {config['resamples']:,} resamples. p: paired t-test and paired "
            f"randomisation test, two-sided, after Holm's correction over {family}; the "
            f"{config['test']} test decides at {config['alpha']:g}. d: mean difference / its standard deviation over "
            f"queries. Detectable: the smallest true difference that a test at {config['alpha']:g} would find in "
            f"{config['power']:.0%} of samples."
        )
        if seeds > 1:
            text += (
                " Values are averaged over the seeds of a system before they are paired by query; the t-test and the "
                "detectable difference add the variance of the seeds' means, the randomisation test holds for these "
                "seeds only."
            )
        return text

    def notes(self) -> list[str]:
        """Missing queries, unjudged queries and ties at a cut-off, by system."""
        return [
            f"{system}: {note}"
            for system, evaluations in self.evaluations.items()
            for note in dict.fromkeys(note for evaluation in evaluations for note in evaluation.notes())
        ]

    def to_dict(self, *, per_query: bool = True) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        result: dict[str, Any] = {
            "baseline": self.baseline,
            "systems": list(self.systems),
            "measures": list(self.measures),
            "queries": len(self.queries),
            "means": [asdict(entry) for entry in self.means],
            "contrasts": [{**asdict(entry), "verdict": entry.verdict} for entry in self.contrasts],
            "method": self.method(),
            "notes": self.notes(),
            "config": dict(self.config),
        }
        if per_query:
            result["per_query"] = {
                system: {
                    measure: dict(zip(self.queries, values[:, i].tolist(), strict=True))
                    for i, measure in enumerate(self.measures)
                }
                for system, values in ((name, array.mean(axis=0)) for name, array in self.values.items())
            }
        return result

    def to_json(self, *, per_query: bool = True, indent: int | None = None) -> str:
        """The same as a JSON string."""
        return json.dumps(self.to_dict(per_query=per_query), indent=indent, allow_nan=False)

    def __rich__(self) -> Any:
        """A table for each measure, for rich."""
        from cmp_rerank.evaluation.tables import comparison_tables

        return comparison_tables(self)


def compare(
    runs: Mapping[str, SystemLike],
    qrels: QrelsLike,
    measures: str | Iterable[Any],
    *,
    baseline: str | None = None,
    alpha: float = 0.05,
    level: float = 0.95,
    power: float = 0.8,
    test: str = "t",
    resamples: int = 10_000,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Compare systems with a baseline on the same queries.

    Every system is evaluated over the same judged queries (a query that a run lacks counts 0). The unit of all
    statistics is the query:

    - means and differences get percentile bootstrap intervals over queries;
    - differences are tested by the paired t-test and the paired randomisation test, both corrected by Holm
      over the family of all (system, measure) pairs;
    - `detectable` says how large a true difference had to be to be found with these queries.

    A system may be a list of runs, one for each training seed. Its value for a query is then the mean over the
    seeds, so that the unit stays the query; the bootstrap draws queries and, within each system, seeds; the
    t-test and the detectable difference add the variance of the seeds' means (Welch-Satterthwaite degrees of
    freedom), so that they speak about training again and not only about these checkpoints. The randomisation
    test is conditional on the seeds at hand. This errs on the side of caution: the variance of the seeds'
    means contains a part of what the queries contribute already.

    Args:
        runs: Name -> run, path of a run file, :class:`Evaluation`, or a list of these (seeds).
        qrels: Query id -> document id -> grade, or the path of a qrels file.
        measures: As for :func:`evaluate`.
        baseline: Name of the system that the others are compared with; None takes the first.
        alpha: Level of significance.
        level: Level of the intervals.
        power: Probability of being found that defines the detectable difference; 0.5 or more.
        test: "t" or "randomisation": whose corrected p value decides what is called significant.
        resamples: Draws of the bootstrap and of the randomisation test.
        seed: Seed of these draws.
        options: Options of :func:`evaluate`, such as ``rank_order`` or ``nan``, for all runs.

    Returns:
        Means, contrasts and the values per query.

    Raises:
        ValueError: Fewer than two systems, an unknown baseline, an option out of range, evaluations over
            other queries or measures, and whatever :func:`evaluate` refuses.

    Example:
        >>> qrels = {f"q{i}": {"d1": 1} for i in range(8)}
        >>> first = {f"q{i}": {"d1": 0.1, "d2": 0.2} for i in range(8)}
        >>> better = {f"q{i}": {"d1": 0.3, "d2": 0.2 + 0.2 * (i == 0)} for i in range(8)}
        >>> contrast = compare({"first": first, "better": better}, qrels, "RR").contrast("better", "RR")
        >>> contrast.wins, contrast.ties, contrast.losses, contrast.difference, contrast.verdict
        (7, 1, 0, 0.4375, 'better')
        >>> contrast.randomisation_p  # two of the 2^7 ways to choose the signs are as extreme
        0.015625
    """
    _check(runs, baseline, alpha, level, power, test, resamples, options)
    names, specs = tuple(runs), parse_measures(measures)
    baseline = names[0] if baseline is None else baseline
    judged = qrels if isinstance(qrels, Judgments) else Judgments(qrels, options.get("no_relevant", "keep"))
    evaluations = {name: _evaluations(runs[name], judged, specs, options) for name in names}
    queries = evaluations[names[0]][0].queries
    measure_names = tuple(spec.name for spec in specs)
    for name, parts in evaluations.items():
        for part in parts:
            if part.queries != queries or not set(measure_names) <= set(part.measures):
                raise ValueError(f"the evaluation of {name!r} has other queries or measures than was asked for")
    values = {
        name: np.stack([np.stack([part.column(m) for m in measure_names], axis=1) for part in parts])
        for name, parts in evaluations.items()
    }  # (seeds, queries, measures)
    boot = dict(zip(names, bootstrap_means(list(values.values()), resamples=resamples, seed=seed), strict=True))
    means = [
        SystemMean(
            name,
            measure,
            float(values[name][:, :, i].mean()),
            *interval(boot[name][:, i], level),
            len(values[name]),
            float(values[name][:, :, i].mean(axis=1).std(ddof=1)) if len(values[name]) > 1 else None,
        )
        for i, measure in enumerate(measure_names)
        for name in names
    ]
    contrasts = _contrasts(names, baseline, measure_names, values, boot, alpha, level, power, test, resamples, seed)
    config = {
        "alpha": alpha,
        "level": level,
        "power": power,
        "test": test,
        "resamples": resamples,
        "seed": seed,
        "options": dict(options),
        "versions": dict(_versions()),
    }
    return Comparison(baseline, names, measure_names, queries, values, tuple(means), contrasts, evaluations, config)


def _check(
    runs: Mapping[str, SystemLike],
    baseline: str | None,
    alpha: float,
    level: float,
    power: float,
    test: str,
    resamples: int,
    options: Mapping[str, Any],
) -> None:
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two systems, got {len(runs)}: {', '.join(runs) or 'none'}")
    if baseline is not None and baseline not in runs:
        raise ValueError(f"the baseline {baseline!r} is none of the systems: {', '.join(runs)}")
    for name, value, low in (("alpha", alpha, 0.0), ("level", level, 0.0), ("power", power, 0.5)):
        if not low < value < 1 and not (name == "power" and value == low):
            raise ValueError(f"{name} must be between {low:g} and 1, got {value!r}")
    check_choice("test", test, TESTS)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples!r}")
    if options.get("missing") == "skip":
        raise ValueError("missing='skip' gives systems different denominators; use 'zero' or 'error' in a comparison")


def _evaluations(
    system: SystemLike, judged: Judgments, measures: Sequence[Any], options: Mapping[str, Any]
) -> tuple[Evaluation, ...]:
    parts: Sequence[Any] = system if isinstance(system, list | tuple) else [system]
    if not parts:
        raise ValueError("a system with several seeds needs at least one run, got an empty list")
    return tuple(
        part if isinstance(part, Evaluation) else evaluate(part, judged, measures, **options) for part in parts
    )


def _differences(system: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(queries, measures) Differences of the means over seeds; rounding errors of these means are removed."""
    difference = system.mean(axis=0) - baseline.mean(axis=0)
    scale = np.maximum(np.abs(system).max(initial=0.0), np.abs(baseline).max(initial=0.0))
    return np.where(np.abs(difference) <= 1e-12 * scale, 0.0, difference)


def _contrasts(
    names: Sequence[str],
    baseline: str,
    measures: Sequence[str],
    values: Mapping[str, np.ndarray],
    boot: Mapping[str, np.ndarray],
    alpha: float,
    level: float,
    power: float,
    test: str,
    resamples: int,
    seed: int,
) -> tuple[Contrast, ...]:
    pairs = [(name, i) for i in range(len(measures)) for name in names if name != baseline]
    base = values[baseline]
    by_pair = np.stack([_differences(values[name], base)[:, i] for name, i in pairs], axis=1)
    errors = [
        mean_error(by_pair[:, k], [part[:, :, i].mean(axis=1) for part in (values[name], base) if len(part) > 1])
        for k, (name, i) in enumerate(pairs)
    ]
    t_p = [t_test(float(by_pair[:, k].mean()), error) for k, error in enumerate(errors)]
    random_p = randomisation_test(by_pair, resamples=resamples, seed=seed).tolist()
    t_holm, random_holm = holm(t_p), holm(random_p)
    decisive = t_holm if test == "t" else random_holm
    contrasts = []
    for k, (name, i) in enumerate(pairs):
        difference, error = by_pair[:, k], errors[k]
        # The spread over queries alone, so that the effect size does not depend on the number of seeds.
        over_queries = mean_error(difference)
        deviation = over_queries.standard_error * len(difference) ** 0.5 if over_queries else 0.0
        mean = float(difference.mean())
        contrasts.append(
            Contrast(
                name,
                baseline,
                measures[i],
                mean,
                *interval(boot[name][:, i] - boot[baseline][:, i], level),
                t_p[k],
                t_holm[k],
                random_p[k],
                random_holm[k],
                mean / deviation if deviation else None,
                int((difference > 0).sum()),
                int((difference == 0).sum()),
                int((difference < 0).sum()),
                detectable(error, alpha=alpha, power=power),
                decisive[k] < alpha,
            )
        )
    return tuple(contrasts)


@cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("cmp-rerank", "ir-measures", "pytrec-eval-terrier", "numpy", "scipy")}


def system_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Short distinct names for run files: the file name without suffixes, with its folder where that is needed.

    Example:
        >>> system_names(["runs/bm25.trec", "runs/tuned.trec.gz"])
        ['bm25', 'tuned']
        >>> system_names(["seed1/tuned.trec", "seed2/tuned.trec"])
        ['seed1/tuned', 'seed2/tuned']
    """
    split = [os.fspath(path).replace(os.sep, "/").split("/") for path in paths]
    names = []
    for parts in split:
        stem = parts[-1].removesuffix(".gz")
        stem = stem[: stem.rfind(".")] if "." in stem[1:] else stem
        names.append([*parts[:-1], stem])
    depth = 1
    while len({tuple(name[-depth:]) for name in names}) < len(names) and depth < max(map(len, names)):
        depth += 1
    return ["/".join(name[-depth:]) for name in names]
