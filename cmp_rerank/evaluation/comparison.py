"""The result of a comparison of systems: means, contrasts with a baseline, and how they are presented."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cmp_rerank.evaluation.result import Evaluation


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

    Example:
        >>> from cmp_rerank import compare
        >>> qrels = {str(i): {"a": 1} for i in range(30)}
        >>> good, bad = {i: {"a": 2.0, "b": 1.0} for i in qrels}, {i: {"a": 1.0, "b": 2.0} for i in qrels}
        >>> mixed = {i: (bad if int(i) % 3 else good)[i] for i in qrels}
        >>> comparison = compare({"first stage": bad, "tuned": mixed}, qrels, "RR@10", baseline="first stage")
        >>> mean = comparison.means[1]
        >>> mean.system, round(mean.mean, 3), mean.low < mean.mean < mean.high
        ('tuned', 0.667, True)
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
        minimum_detectable_effect: Smallest true difference that these queries can be expected to reveal; None where
            it cannot be estimated.
        significant: Whether the corrected p value of the chosen test is below alpha.

    Example:
        >>> from cmp_rerank import compare
        >>> qrels = {str(i): {"a": 1} for i in range(30)}
        >>> good, bad = {i: {"a": 2.0, "b": 1.0} for i in qrels}, {i: {"a": 1.0, "b": 2.0} for i in qrels}
        >>> mixed = {i: (bad if int(i) % 3 else good)[i] for i in qrels}
        >>> comparison = compare({"first stage": bad, "tuned": mixed}, qrels, "RR@10", baseline="first stage")
        >>> contrast = comparison.contrast("tuned", "RR@10")
        >>> round(contrast.difference, 3), (contrast.wins, contrast.ties, contrast.losses), contrast.verdict
        (0.167, (10, 20, 0), 'better')
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
    minimum_detectable_effect: float | None
    significant: bool

    @property
    def verdict(self) -> str:
        """One of "better", "worse" and "not significant"."""
        if not self.significant:
            return "not significant"
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

    Example:
        >>> from cmp_rerank import compare
        >>> qrels = {str(i): {"a": 1} for i in range(30)}
        >>> good, bad = {i: {"a": 2.0, "b": 1.0} for i in qrels}, {i: {"a": 1.0, "b": 2.0} for i in qrels}
        >>> mixed = {i: (bad if int(i) % 3 else good)[i] for i in qrels}
        >>> comparison = compare({"first stage": bad, "tuned": mixed}, qrels, "RR@10", baseline="first stage")
        >>> comparison.systems, comparison.baseline, comparison.values["tuned"].shape
        (('first stage', 'tuned'), 'first stage', (1, 30, 1))
        >>> comparison.contrast("tuned", "RR@10").verdict
        'better'
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
        difference = differences(self.values[system], self.values[self.baseline])[:, column]
        return dict(zip(self.queries, difference.tolist(), strict=True))

    def method(self) -> str:
        """How the figures were made, in a few sentences for a caption."""
        config = self.config
        seeds = max(len(values) for values in self.values.values())
        unit = next(iter(self.evaluations.values()))[0].unit
        family = f"{len(self.contrasts)} comparison{'s' * (len(self.contrasts) > 1)}"
        text = (
            f"{len(self.queries)} {unit}. Intervals: {config['level']:.0%} percentile bootstrap over {unit}"
            f"{' and seeds' if seeds > 1 else ''}, {config['resamples']:,} resamples. p: paired t-test and paired "
            f"randomisation test, two-sided, after Holm's correction over {family}; the "
            f"{config['test']} test decides at {config['alpha']:g}. d: mean difference / its standard deviation over "
            f"{unit}. MDE: minimum detectable effect, the smallest true difference that a test at "
            f"{config['alpha']:g} finds in {config['power']:.0%} of samples."
        )
        if seeds > 1:
            text += (
                " Values are averaged over the seeds of a system before they are paired by query; the t-test and the "
                "minimum detectable effect add the variance of the seeds' means, the randomisation test holds for "
                "these seeds only."
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

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """For rich: a table for each measure; two where the terminal is too narrow for all columns."""
        from rich.text import Text

        for measure in self.measures:
            rows = [self._row(system, measure) for system in self.systems]
            whole = _table(measure, rows, [*_VALUES, *_TESTS])
            if console.measure(whole, options=options.update(max_width=10_000)).maximum <= options.max_width:
                yield whole
            else:
                yield _table(measure, rows, _VALUES)
                yield _table("", [row for row in rows if "p t" in row], _TESTS)
        yield Text("* significant. " + self.method(), style="dim")
        for note in self.notes():
            yield Text(note, style="yellow")

    def _row(self, system: str, measure: str) -> dict[str, tuple[str, str]]:
        """Column -> text and style."""
        mean = self.mean(system, measure)
        seeds = f" ({mean.seeds} seeds)" if mean.seeds > 1 else ""
        baseline = system == self.baseline
        row = {"system": system + seeds, "mean": f"{mean.mean:.4f}", "interval": f"{mean.low:.4f}..{mean.high:.4f}"}
        if baseline:
            row["difference"] = "baseline"
            return {column: (text, "dim") for column, text in row.items()}
        c = self.contrast(system, measure)
        row |= {
            "difference": f"{c.difference:+.4f}{'*' if c.significant else ''}",
            "its interval": f"{c.low:+.4f}..{c.high:+.4f}",
            "p t": p_text(c.t_p_holm),
            "p rand.": p_text(c.randomisation_p_holm),
            "d": "" if c.effect_size is None else f"{c.effect_size:+.2f}",
            "+/=/-": f"{c.wins}/{c.ties}/{c.losses}",
            "MDE": "" if c.minimum_detectable_effect is None else f"{c.minimum_detectable_effect:.4f}",
        }
        style = {"better": "green", "worse": "red"}.get(c.verdict, "")
        return {column: (text, style if column == "difference" else "") for column, text in row.items()}


_VALUES = ("mean", "interval", "difference", "its interval")
_TESTS = ("p t", "p rand.", "d", "+/=/-", "MDE")


def _table(title: str, rows: Sequence[Mapping[str, tuple[str, str]]], columns: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    # Only a name may be broken; a figure that is cut says something else.
    table.add_column("system", overflow="fold", min_width=8)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        # Names may hold brackets, which rich would read as its markup.
        table.add_row(*(Text(*row.get(column, ("", ""))) for column in ("system", *columns)))
    return table


def differences(system: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(queries, measures) Differences of the means over seeds; rounding errors of these means are removed."""
    difference = system.mean(axis=0) - baseline.mean(axis=0)
    scale = np.maximum(np.abs(system).max(initial=0.0), np.abs(baseline).max(initial=0.0))
    return np.where(np.abs(difference) <= 1e-12 * scale, 0.0, difference)


def p_text(p: float) -> str:
    """A p value for a table.

    Example:
        >>> p_text(0.0421), p_text(0.00004)
        ('0.042', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"
