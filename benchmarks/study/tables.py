"""The tables of a task by name, and pages of Markdown that have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import analysis, guarding
from .cells import at_chosen_rates, read
from .plan import ENDED, PLAN

#: Name -> what makes its lines from the rows of a task, the task and the size; in the order in which they are shown.
TABLES: dict[str, Callable[[list[dict[str, Any]], str, int], list[str] | str]] = {
    made.__name__: made
    for made in (
        analysis.summary,
        analysis.verdicts,
        analysis.replication,
        analysis.one_pass,
        analysis.weighting,
        guarding.guarded,
        guarding.guarded_by_wrong_labels,
        analysis.halfway,
        guarding.halfway_guarded,
        guarding.first_stage,
        guarding.start_and_first_stage,
        analysis.robustness,
        analysis.robustness_to_averaging,
        analysis.losses,
        analysis.violations,
        analysis.violations_of_crops,
        analysis.gain_by_violations,
        analysis.costs,
        analysis.tuning,
        analysis.screening,
    )
}

#: Name -> what makes the lines of a table of all tasks.
OF_ALL: dict[str, Callable[[Sequence[analysis.Kind]], list[str]]] = {
    "overview": analysis.overview,
    "combined": analysis.combined,
}


def with_tables(text: str, results: Path) -> str:
    """A page with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        begin, of_all, name, task, size, chosen_by, first, last, end = match.groups()
        if of_all:
            lines = lines_of_all(of_all, results)
        else:
            tested = range(int(first), int(last) + 1) if first else None
            lines = lines_of(name, task, int(size), int(chosen_by) if chosen_by else None, tested, results=results)
        return "\n".join([begin, *lines, end])

    one = r"(\w+) (\S+) (\d+)(?: (\d+))?(?: (\d+)-(\d+))?"
    table = rf"(<!-- study: (?:({'|'.join(OF_ALL)})|{one}) -->)\n.*?(<!-- study: end -->)"
    return re.sub(table, made, text, flags=re.DOTALL)


def kinds_of(results: Path) -> list[analysis.Kind]:
    """Ablated passes of each kind against their controls, for the tasks and sizes that are tested."""
    return [
        kind
        for task, size in (*PLAN, *ENDED)
        for kind in analysis.kinds(at_chosen_rates(read(task, results), task, size), task, size)
    ]


def lines_of_all(name: str, results: Path) -> list[str]:
    """The lines of a table of all tasks: "overview" or "combined"."""
    return OF_ALL[name](kinds_of(results))


def lines_of(
    name: str, task: str, size: int, chosen_by: int | None = None, tested: range | None = None, *, results: Path
) -> list[str]:
    """The lines of a table.

    Args:
        name: One of `TABLES`.
        task: Its name.
        size: Rows of the training set.
        chosen_by: Learning rates are chosen by the first so many seeds on validation; None: by all.
        tested: The seeds on test that the table is of; None: all.
        results: The folder of the results.
    """
    if name not in TABLES:
        raise ValueError(f"a table must be one of {', '.join(TABLES)}; got {name!r}")
    rows = at_chosen_rates(read(task, results), task, size, chosen_by)
    if tested is not None:
        rows = [row for row in rows if row["part"] != "test" or row["size"] == 0 or row["seed"] in tested]
    found = TABLES[name](rows, task, size)
    return [found] if isinstance(found, str) else found
