"""Compare systems: intervals, paired tests with correction, and the minimum detectable effect."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from cmp_rerank.evaluation.comparison import Comparison, Contrast, SystemMean, differences
from cmp_rerank.evaluation.evaluate import QrelsLike, RunLike, evaluate
from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.measures import Measure, Parsed, parse_measures
from cmp_rerank.evaluation.result import Evaluation
from cmp_rerank.evaluation.statistics import (
    bootstrap_means,
    holm,
    interval,
    mean_error,
    minimum_detectable_effect,
    randomisation_test,
    t_test,
)
from cmp_rerank.ir.arguments import check_count, kind
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.version import versions_with

MOST_RESAMPLES = 1_000_000
TESTS = ("t", "randomisation")
SystemLike = RunLike | Evaluation | Sequence[RunLike | Evaluation]


def compare(
    runs: Mapping[str, SystemLike],
    qrels: QrelsLike,
    measures: str | Measure | Iterable[Any],
    *,
    baseline: str | None = None,
    alpha: float = 0.05,
    level: float = 0.95,
    power: float = 0.8,
    test: str = "t",
    resamples: int = 10_000,
    seed: int = 0,
    rank_order: str = "score",
    precision: str = "double",
    missing: str = "zero",
    unjudged: str = "ignore",
    no_relevant: str = "keep",
    duplicates: str = "error",
    nan: str = "error",
    empty: str = "error",
    format: str | None = None,
) -> Comparison:
    """Compare systems with a baseline on the same queries.

    Every system is evaluated over the same judged queries (a query that a run lacks counts 0). The unit of all
    statistics is the query:

    - means and differences get percentile bootstrap intervals over queries;
    - differences are tested by the paired t-test and the paired randomisation test, both corrected by Holm
      over the family of all (system, measure) pairs;
    - `minimum_detectable_effect` is the smallest true difference that these queries can be expected to reveal.

    A system may be a list of runs, one for each training seed. Its value for a query is then the mean over the
    seeds, so that the unit stays the query; the bootstrap draws queries and, within each system, seeds; the
    t-test and the minimum detectable effect add the variance of the seeds' means (Welch-Satterthwaite degrees of
    freedom), so that they hold for another training run, not only for these checkpoints. The randomisation
    test is conditional on the seeds at hand. This is conservative: the variance of the seeds'
    means contains a part of what the queries contribute already.

    Args:
        runs: Name -> run, path of a run file, :class:`Evaluation`, or a list of these (seeds).
        qrels: Query id -> document id -> grade, or the path of a qrels file.
        measures: As for :func:`evaluate`.
        baseline: Name of the system that the others are compared with; None takes the first.
        alpha: Level of significance.
        level: Level of the intervals.
        power: Probability of being found that defines the minimum detectable effect; 0.5 or more.
        test: "t" or "randomisation": whose corrected p value decides what is called significant.
        resamples: Draws of the bootstrap and of the randomisation test.
        seed: Seed of these draws.
        rank_order: As for :func:`evaluate`, for all runs; so, too, the others.
        precision: As there.
        missing: As there, without "skip".
        unjudged: As there.
        no_relevant: As there.
        duplicates: As there.
        nan: As there.
        empty: As there.
        format: As there.

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
    check_systems(runs, baseline)
    _check_options(alpha, level, power, test, resamples)
    if missing == "skip":
        raise ValueError("missing='skip' gives systems different denominators; use 'zero' or 'error' in a comparison")
    policies = {
        "rank_order": rank_order,
        "precision": precision,
        "missing": missing,
        "unjudged": unjudged,
        "no_relevant": no_relevant,
        "duplicates": duplicates,
        "nan": nan,
        "empty": empty,
        "format": format,
    }
    defaults = evaluate.__kwdefaults__ or {}
    options = {name: value for name, value in policies.items() if value != defaults[name]}  # what the result records
    specs = parse_measures(measures)
    judged = qrels if isinstance(qrels, Judgments) else Judgments(qrels, no_relevant, duplicates)
    evaluations = {name: _evaluations(name, runs[name], judged, specs, options) for name in runs}
    return compare_evaluations(
        evaluations,
        tuple(spec.name for spec in specs),
        baseline=baseline,
        alpha=alpha,
        level=level,
        power=power,
        test=test,
        resamples=resamples,
        seed=seed,
        options=options,
    )


def compare_evaluations(
    systems: Mapping[str, Evaluation | Sequence[Evaluation]],
    measures: Sequence[str] | None = None,
    *,
    baseline: str | None = None,
    alpha: float = 0.05,
    level: float = 0.95,
    power: float = 0.8,
    test: str = "t",
    resamples: int = 10_000,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare systems that are evaluated already, whatever the task; see :func:`compare`.

    Args:
        systems: Name -> evaluation, or a list of them (seeds); all over the same queries, or questions.
        measures: Names of the measures; None takes those of the first evaluation.
        baseline: As for :func:`compare`, and so are the following ones.
        alpha: Level of significance.
        level: Level of the intervals.
        power: Probability of being found that defines the minimum detectable effect.
        test: "t" or "randomisation".
        resamples: Draws of the bootstrap and of the randomisation test.
        seed: Seed of these draws.
        options: How the systems were evaluated, for the record.

    Raises:
        ValueError: As :func:`compare`.

    Example:
        >>> values = np.array([[0.0], [1.0], [1.0]])
        >>> one, other = (Evaluation(("EM",), ("q1", "q2", "q3"), v) for v in (values, values * 0.5))
        >>> compare_evaluations({"one": one, "other": other}).contrast("other", "EM").difference
        -0.3333333333333333
    """
    check_systems(systems, baseline)
    _check_options(alpha, level, power, test, resamples)
    names = tuple(systems)
    baseline = names[0] if baseline is None else baseline
    evaluations = {name: _as_evaluations(name, system) for name, system in systems.items()}
    queries = evaluations[names[0]][0].queries
    measure_names = evaluations[names[0]][0].measures if measures is None else tuple(measures)
    for name, parts in evaluations.items():
        for part in parts:
            if part.queries != queries:
                raise ValueError(
                    f"the evaluation of {name!r} has other queries than that of {names[0]!r}; got "
                    f"{len(part.queries)} and {len(queries)}; evaluate both with the same qrels and policies"
                )
            if lacking := [measure for measure in measure_names if measure not in part.measures]:
                raise ValueError(
                    f"the evaluation of {name!r} lacks {lacking[0]!r}; got {', '.join(part.measures)}; evaluate it "
                    "with this measure"
                )
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
        "options": dict(options or {}),
        "versions": dict(versions_with("ir-measures", "pytrec-eval-terrier", "numpy", "scipy")),
    }
    return Comparison(baseline, names, measure_names, queries, values, tuple(means), contrasts, evaluations, config)


def check_systems(systems: Mapping[str, Any], baseline: str | None) -> None:
    """Refuse systems without names, generators, and a run or qrels in place of named runs.

    Raises:
        ValueError: Also for fewer than two systems, and for a baseline that is none of them.
    """
    if not isinstance(systems, Mapping):
        raise ValueError(
            f"the systems must be named, {{name: run}}; got {kind(systems)}; give each run a name, for example "
            '{"first stage": run, "tuned": other}'
        )
    for name, system in systems.items():
        if isinstance(system, Iterator):
            raise ValueError(
                f"the system {name!r} must be a run, or a list of them; got {kind(system)}; make it a list"
            )
        if isinstance(system, Mapping) and any(isinstance(value, Real) for value in system.values()):
            raise ValueError(
                f"the system {name!r} must be a run, query id -> document id -> score; got document ids -> numbers; "
                "were runs and qrels swapped? compare(runs, qrels, measures), where runs is {name: run}"
            )
    if len(systems) < 2:
        raise ValueError(
            f"a comparison needs at least two systems; got {len(systems)}: {', '.join(systems) or 'none'}"
        )
    if baseline is not None and baseline not in systems:
        raise ValueError(f"the baseline {baseline!r} is none of the systems: {', '.join(systems)}")


def _as_evaluations(name: str, system: Evaluation | Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    parts = tuple(system) if isinstance(system, list | tuple) else (system,)
    if not parts:
        raise ValueError(f"a system with several seeds needs at least one evaluation; got an empty list for {name!r}")
    for part in parts:
        if not isinstance(part, Evaluation):
            raise ValueError(
                f"the system {name!r} must be an Evaluation or a list of them; got {kind(part)}; use compare for runs"
            )
    return parts


def check_intervals(level: float, resamples: int) -> None:
    """Refuse a level of intervals that is no share, and numbers of bootstrap samples that give none.

    Raises:
        ValueError: With the value and what it must be.

    Example:
        >>> check_intervals(95, 1000)
        Traceback (most recent call last):
        ValueError: level must be between 0 and 1; got 95
    """
    _check_share("level", level)
    check_count("resamples", resamples)
    if resamples > MOST_RESAMPLES:
        raise ValueError(
            f"resamples must be at most {MOST_RESAMPLES:,}, more of which change no figure that is shown; got "
            f"{resamples:,}"
        )


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value!r}")


def _check_options(alpha: float, level: float, power: float, test: str, resamples: int) -> None:
    _check_share("alpha", alpha)
    if not 0.5 <= power < 1:
        raise ValueError(f"power must be between 0.5 and 1; got {power!r}")
    check_choice("test", test, TESTS)
    check_intervals(level, resamples)


def _evaluations(
    name: str, system: SystemLike, judged: Judgments, measures: Sequence[Parsed], options: Mapping[str, Any]
) -> tuple[Evaluation, ...]:
    parts: Sequence[Any] = system if isinstance(system, list | tuple) else [system]
    if not parts:
        raise ValueError(f"a system with several seeds needs at least one run; got an empty list for {name!r}")
    return tuple(
        part if isinstance(part, Evaluation) else evaluate(part, judged, measures, **options) for part in parts
    )


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
    by_pair = np.stack([differences(values[name], base)[:, i] for name, i in pairs], axis=1)
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
                minimum_detectable_effect(error, alpha=alpha, power=power),
                decisive[k] < alpha,
            )
        )
    return tuple(contrasts)


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
