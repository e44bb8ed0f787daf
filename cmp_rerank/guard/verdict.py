"""The verdict of the guard: in words, as a table, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmp_rerank.evaluation.comparison import Contrast, p_text
from cmp_rerank.ir.lines import PathLike, replacing

HELPED, NO_DIFFERENCE, HURT = "helped", "no detectable difference", "would have hurt"


@dataclass(frozen=True)
class Row:
    """A candidate on the validation split.

    Attributes:
        name: Short name.
        words: The same for a sentence.
        mean: Mean of the measure.
        gain: Mean difference to what the user had.
        error: Standard error of the gain; None where one query cannot tell.
        tuned: Whether anything of the tuned weights is in it.
        share: Share of the cross-validation's folds in which it is picked.
        seconds: Seconds that its scores took; those of one model are counted at its first candidate.
    """

    name: str
    words: str
    mean: float
    gain: float
    error: float | None
    tuned: bool
    share: float
    seconds: float


@dataclass(frozen=True)
class Test:
    """What was chosen, on queries that had no part in the choice.

    Attributes:
        contrast: The candidate that was chosen against what the user had; where that was kept, the tuned model
            against it (with several, their values averaged for each query).
        mean: Mean of the system of the contrast.
        means: Candidate's name -> mean: what the user had, what was chosen, the tuned models.
        queries: Number of test queries.
        alpha: Level of significance.
    """

    __test__ = False  # no test class, whatever pytest thinks of the name

    contrast: Contrast
    mean: float
    means: Mapping[str, float]
    queries: int
    alpha: float

    @property
    def sentence(self) -> str:
        """The result of the test in words."""
        c = self.contrast
        found = {"better": "significantly better", "worse": "significantly worse"}.get(
            c.verdict, "not significantly different"
        )
        detectable = (
            ""
            if c.significant or c.minimum_detectable_effect is None
            else f"; a difference below {c.minimum_detectable_effect:.3f} would mostly go unnoticed"
        )
        return (
            f"On {_count(self.queries, 'test query', 'test queries')}, {c.system} is {found} than {c.baseline}: "
            f"{self.mean:.3f} against {self.mean - c.difference:.3f} ({c.difference:+.3f}, 95% interval "
            f"{c.low:+.3f} to {c.high:+.3f}, p {_p(c.t_p)}{detectable})."
        ).replace("different than", "different from")


@dataclass(frozen=True)
class Cost:
    """What the guard cost.

    Attributes:
        seconds: Wall-clock seconds.
        pairs: (query, document) pairs that were scored, on both splits.
        models: Models that scored the validation split.
    """

    seconds: float
    pairs: int
    models: int

    @property
    def sentence(self) -> str:
        """The cost in words."""
        return (
            f"The guard took {self.seconds:,.1f} s: {_count(self.pairs, 'pair', 'pairs')} scored, with "
            f"{_count(self.models, 'model', 'models')}."
        )


@dataclass(frozen=True)
class Verdict:
    """Whether fine-tuning helped, and what is handed over.

    Attributes:
        outcome: "helped": something of the tuned model is handed over. "no detectable difference": nothing of it is.
            "would have hurt": nothing of it is, and the tuned model is worse than what the user had by more than the
            stated number of standard errors.
        measure: Name of the measure.
        had: Name of what the user had.
        picked: Name of what was picked before the cross-validation.
        chosen: Name of what is handed over.
        rows: The candidates, the simplest first.
        tuned_gain: Gain of the tuned model over `had`; with several, the mean of their gains; None where training
            diverged.
        tuned_error: Its standard error; None where one query cannot tell.
        cross_validated_gain: Gain of the choice over `had`, measured on queries that it was not made on.
        cross_validated_error: Its standard error; None where one query cannot tell.
        queries: Number of validation queries.
        seeds: Number of tuned models.
        test: The test, or None without a test split.
        cost: Seconds, pairs and models.
        options: The options of the guard.
        notes: What could not be tried, and why.
        per_query: Name of candidate -> query -> value, on the validation split.
        test_per_query: Name of system -> query -> value, on the test split.
        versions: Versions of the packages.

    Example:
        >>> rows = (Row("first stage", "the first stage alone", 0.6, 0.0, 0.0, False, 0.1, 0.0),
        ...         Row("tuned", "the tuned model", 0.7, 0.1, 0.02, True, 0.9, 1.5))
        >>> verdict = Verdict("helped", "nDCG@10", "first stage", "tuned", "tuned", rows, 0.1, 0.02, 0.09,
        ...                   0.02, 80, 1, None, Cost(1.6, 8000, 1), {"standard_errors": 1.0})
        >>> print(verdict.sentence)
        Fine-tuning helped: the tuned model has nDCG@10 0.700 on 80 validation queries, against 0.600 of the first
        stage alone (cross-validated gain +0.090, standard error 0.020).
    """

    outcome: str
    measure: str
    had: str
    picked: str
    chosen: str
    rows: tuple[Row, ...]
    tuned_gain: float | None
    tuned_error: float | None
    cross_validated_gain: float
    cross_validated_error: float | None
    queries: int
    seeds: int
    test: Test | None
    cost: Cost
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    per_query: Mapping[str, Mapping[str, float]] | None = None
    test_per_query: Mapping[str, Mapping[str, float]] | None = None
    versions: Mapping[str, str] | None = None

    def row(self, name: str) -> Row:
        """The candidate of a name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def kept(self) -> bool:
        """Whether the user keeps what they had."""
        return self.chosen == self.had

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        had, chosen = self.row(self.had), self.row(self.chosen)
        queries = _count(self.queries, "validation query", "validation queries")
        held = f"{self.cross_validated_gain:+.3f}, standard error {_error(self.cross_validated_error)}"
        gain = (
            f"{chosen.words} has {self.measure} {chosen.mean:.3f} on {queries}, against {had.mean:.3f} of "
            f"{had.words} (cross-validated gain {held})"
        )
        if self.outcome == HELPED:
            # A sum of scores may be better than each part without any tuning; then tuning has not done it all.
            untuned = max((row for row in self.rows if not row.tuned), key=lambda row: row.mean)
            rest = "" if untuned.mean <= had.mean else f"; without tuning, {untuned.words} has {untuned.mean:.3f}"
            return f"Fine-tuning helped: {gain}{rest}."
        end = f"{had.words} is kept" if self.kept else gain
        if self.tuned_gain is None:
            who = "the tuned model gives" if self.seeds == 1 else "the tuned models give"
            why = f"{who} scores that are not finite, so training has diverged"
            return f"Fine-tuning would have hurt and was not used: {why}; {end}."
        who = "the tuned model changes" if self.seeds == 1 else "the tuned models, on average, change"
        tuned = f"{who} {self.measure} by {self.tuned_gain:+.3f} (standard error {_error(self.tuned_error)})"
        if self.outcome == HURT:
            return f"Fine-tuning would have hurt and was not used: {tuned} on {queries}; {end}."
        if self.picked != self.chosen:
            tuned = f"{self.row(self.picked).words} seems better, but its gain is {held}, when cross-validated"
        return f"No detectable difference by fine-tuning: {tuned} on {queries}; {end}."

    def __str__(self) -> str:
        return " ".join(
            [self.sentence, *([self.test.sentence] if self.test else []), self.cost.sentence, *self.notes]
        )

    def to_dict(self, *, per_query: bool = True) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        result = {
            **{name: getattr(self, name) for name in ("outcome", "sentence", "measure", "had", "picked", "chosen")},
            "queries": self.queries,
            "seeds": self.seeds,
            "candidates": [asdict(row) for row in self.rows],
            "tuned": {"gain": self.tuned_gain, "error": self.tuned_error},
            "cross_validated": {"gain": self.cross_validated_gain, "error": self.cross_validated_error},
            "test": None,
            "cost": {**asdict(self.cost), "sentence": self.cost.sentence},
            "notes": list(self.notes),
            "options": dict(self.options),
            "versions": dict(self.versions or {}),
        }
        if self.test is not None:
            result["test"] = {
                "sentence": self.test.sentence,
                "queries": self.test.queries,
                "means": dict(self.test.means),
                "contrast": {**asdict(self.test.contrast), "verdict": self.test.contrast.verdict},
            }
        if per_query:
            result["per_query"] = {name: dict(values) for name, values in (self.per_query or {}).items()}
            result["test_per_query"] = {name: dict(values) for name, values in (self.test_per_query or {}).items()}
        return result

    def to_json(self, *, per_query: bool = True, indent: int | None = None) -> str:
        """The same as a JSON string."""
        return json.dumps(self.to_dict(per_query=per_query), indent=indent, allow_nan=False)

    def save(self, folder: PathLike) -> Path:
        """Write ``verdict.json``, with the values of each query, into a folder that exists.

        Returns:
            The path of the file.

        Raises:
            ValueError: There is no such folder.
        """
        path = Path(folder) / "verdict.json"
        with replacing(path) as file:
            file.write(self.to_json(indent=1) + "\n")
        return path

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """For rich: the sentences, and a table of the candidates."""
        from rich.text import Text

        style = {HELPED: "bold green", HURT: "bold red"}.get(self.outcome, "bold")
        yield Text(self.sentence, style=style)
        if self.test is not None:
            yield Text(self.test.sentence)
        yield self._table()
        yield Text(
            f"gain: over {self.had}; error: its standard error; picked: share of cross-validation folds. "
            + self.cost.sentence,
            style="dim",
        )
        for note in self.notes:
            yield Text(note, style="yellow")

    def _table(self) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("candidate", overflow="fold", min_width=8)
        for column in (self.measure, "gain", "error", "picked", ""):
            table.add_column(Text(column), justify="right", no_wrap=True)
        for row in self.rows:
            roles = [role for role, name in (("had", self.had), ("handed over", self.chosen)) if name == row.name]
            table.add_row(
                Text(row.name),
                f"{row.mean:.4f}",
                "" if row.name == self.had else f"{row.gain:+.4f}",
                "" if row.name == self.had or row.error is None else f"{row.error:.4f}",
                f"{row.share:.0%}",
                Text(", ".join(roles)),
                style="bold" if row.name == self.chosen else "",
            )
        return table


def _error(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.3f}"


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
