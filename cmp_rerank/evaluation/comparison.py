"""The result of a comparison of systems: means, contrasts with a baseline, and how they are presented."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        family = f"{len(self.contrasts)} comparison{'s' * (len(self.contrasts) > 1)}"
        text = (
            f"{len(self.queries)} queries. Intervals: {config['level']:.0%} percentile bootstrap over queries"
            f"{' and seeds' if seeds > 1 else ''}, {config['resamples']:,} resamples. p: paired t-test and paired "
            f"randomisation test, two-sided, after Holm's correction over {family}; the "
            f"{config['test']} test decides at {config['alpha']:g}. d: mean difference / its standard deviation over "
            f"queries. MDE: minimum detectable effect, the smallest true difference that a test at "
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

    def __rich__(self) -> Any:
        """A table for each measure, for rich."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = []
        for measure in self.measures:
            table = Table(title=measure, title_justify="left", title_style="bold")
            table.add_column("system")
            for column in (
                "mean",
                "interval",
                "difference",
                "interval",
                "p t",
                "p rand.",
                "d",
                "+/=/-",
                "MDE",
            ):
                table.add_column(column, justify="right")
            for system in self.systems:
                mean = self.mean(system, measure)
                seeds = f" ({mean.seeds} seeds)" if mean.seeds > 1 else ""
                row = [system + seeds, f"{mean.mean:.4f}", f"{mean.low:.4f}..{mean.high:.4f}"]
                if system == self.baseline:
                    table.add_row(*row, "baseline", style="dim")
                    continue
                c = self.contrast(system, measure)
                style = {"better": "green", "worse": "red"}.get(c.verdict, "")
                table.add_row(
                    *row,
                    Text(f"{c.difference:+.4f}{'*' if c.significant else ''}", style=style),
                    f"{c.low:+.4f}..{c.high:+.4f}",
                    p_text(c.t_p_holm),
                    p_text(c.randomisation_p_holm),
                    "" if c.effect_size is None else f"{c.effect_size:+.2f}",
                    f"{c.wins}/{c.ties}/{c.losses}",
                    "" if c.minimum_detectable_effect is None else f"{c.minimum_detectable_effect:.4f}",
                )
            parts.append(table)
        parts.append(Text("* significant. " + self.method(), style="dim"))
        parts.extend(Text(note, style="yellow") for note in self.notes())
        return Group(*parts)


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
