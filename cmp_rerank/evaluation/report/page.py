"""Build the page: the summary is plain HTML, the plots and the browser of queries are drawn by its script."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from cmp_rerank.evaluation.compare import SystemLike, check_systems, compare
from cmp_rerank.evaluation.comparison import Comparison, Contrast, p_text
from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.measures import Measure, parse_measures, relevance_level
from cmp_rerank.evaluation.report.curve_files import Curves, check_curves
from cmp_rerank.evaluation.report.payload import details, payload, rankings, written
from cmp_rerank.evaluation.result import Evaluation
from cmp_rerank.ir import Qrels, read_qrels
from cmp_rerank.ir.arguments import check_count
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.lines import replacing


def write_report(path: str | os.PathLike[str], *arguments: Any, **options: Any) -> Comparison:
    """Build the page, as :func:`build_report` does, and write it to a file.

    Returns:
        The comparison that the page shows.
    """
    html, comparison = build_report(*arguments, **options)
    with replacing(path) as file:
        file.write(html)
    return comparison


def build_report(
    runs: Mapping[str, SystemLike],
    qrels: Qrels | str | os.PathLike[str],
    measures: str | Measure | Iterable[Any],
    *,
    queries: Mapping[str, str] | None = None,
    corpus: Mapping[str, str] | None = None,
    baseline: str | None = None,
    curves: Curves | None = None,
    about_curves: str = "",
    title: str = "Comparison of rankings",
    depth: int = 10,
    text_chars: int = 500,
    max_bytes: int = 20_000_000,
    **options: Any,
) -> tuple[str, Comparison]:
    """Compare systems and show the result as one HTML page.

    Args:
        runs: As for :func:`cmp_rerank.evaluation.compare`, runs or paths. Of a system with several seeds the
            rankings of the first are shown, the values are means over all.
        qrels: Query id -> document id -> grade, or the path of a qrels file.
        measures: As for :func:`cmp_rerank.evaluation.evaluate`; the first is what the page opens with.
        queries: Query id -> text; None shows ids only.
        corpus: Document id -> text; None shows ids only.
        baseline: Name of the system to compare with; None takes the first.
        curves: Chart -> series -> (x, y) points, for example from :func:`~cmp_rerank.evaluation.report.read_curves`.
        about_curves: What the page says above the curves.
        title: Heading of the page.
        depth: How many documents of each ranking are shown.
        text_chars: Longest text of a document that is kept.
        max_bytes: Texts are cut shorter, down to nothing, until the page is no larger than this.
        options: Options of :func:`compare`.

    Returns:
        The page, and the comparison that it shows.

    Raises:
        ImportError: jinja2 is missing.
        ValueError: As for :func:`compare`; also for runs that are given as evaluations, which hold no ranking,
            and when the page is too large even without texts.
    """
    environment = _environment()
    queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
    check_count("depth", depth)
    check_curves(curves or {})
    check_systems(runs, baseline)
    if isinstance(qrels, str | os.PathLike):
        qrels = read_qrels(qrels, duplicates=options.get("duplicates", "error"))
    judged = Judgments(qrels, options.get("no_relevant", "keep"))
    parsed = parse_measures(measures)  # once: what is given may be an iterator
    first = {name: _first_run(name, system) for name, system in runs.items()}
    comparison = compare(runs, judged, parsed, baseline=baseline, **options)
    levels = [relevance_level(measure) for measure in parsed]
    shown = details(first, judged, qrels, depth, options)
    while True:
        texts = (corpus or {}) if text_chars else {}
        data = payload(
            comparison,
            shown,
            qrels,
            queries or {},
            texts,
            depth=depth,
            text_chars=text_chars,
            levels=levels,
        )
        html = environment.get_template("report.html").render(
            title=title,
            comparison=comparison,
            measures=[_measure(comparison, measure) for measure in comparison.measures],
            headlines=[_headline(comparison, name) for name in comparison.systems if name != comparison.baseline],
            notes=comparison.notes() + _seed_notes(comparison),
            method=comparison.method(),
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            versions=comparison.config["versions"],
            css=_asset("report.css"),
            js=_asset("report.js"),
            data=_embed(data),
            curves=_embed(curves or {}),
            has_curves=bool(curves),
            about_curves=about_curves,
        )
        html = written(html)
        if len(html.encode()) <= max_bytes:
            return html, comparison
        if not text_chars:
            raise ValueError(
                f"the page must have at most max_bytes={max_bytes:,}; got {len(html.encode()):,} bytes without any "
                "text; lower depth or raise max_bytes"
            )
        text_chars = text_chars * 2 // 3 if text_chars > 40 else 0


def shown_documents(
    runs: Mapping[str, SystemLike], qrels: Qrels | str | os.PathLike[str], depth: int = 10, **options: Any
) -> set[str]:
    """Ids of the documents whose texts a report shows, so that no more of a corpus needs to be read.

    Args:
        runs: As for :func:`build_report`.
        qrels: As for :func:`build_report`.
        depth: As for :func:`build_report`.
        options: Options of :func:`cmp_rerank.evaluation.evaluate`.
    """
    judged = Judgments(qrels, options.get("no_relevant", "keep"), options.get("duplicates", "error"))
    return {
        doc
        for name, system in runs.items()
        for _, docs, _ in rankings(_first_run(name, system), judged, options)
        for doc in docs[:depth]
    }


def _first_run(name: str, system: Any) -> Any:
    run = system[0] if isinstance(system, list | tuple) and system else system
    if isinstance(run, Evaluation):
        raise ValueError(f"the report shows rankings: give the run of {name!r}, not its evaluation")
    return run


@cache
def _environment() -> Any:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("the report needs jinja2: pip install 'cmp-rerank[report]'") from error
    environment = Environment(loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined)
    environment.filters["p"] = p_text
    return environment


@cache
def _asset(name: str) -> str:
    return files("cmp_rerank.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _embed(data: Any) -> str:
    """JSON that may stand inside a script element: no text of a document can end it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _measure(comparison: Comparison, measure: str) -> dict[str, Any]:
    """One block of the summary table, with the scale of its interval plots."""
    rows = []
    contrasts = [c for c in comparison.contrasts if c.measure == measure]
    reach = (
        max([abs(x) for c in contrasts for x in (c.low, c.high, c.minimum_detectable_effect or 0.0)] + [1e-9]) * 1.05
    )

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    for system in comparison.systems:
        mean = comparison.mean(system, measure)
        contrast = None if system == comparison.baseline else comparison.contrast(system, measure)
        row: dict[str, Any] = {"system": system, "mean": mean, "contrast": contrast}
        if contrast is not None:
            effect = contrast.minimum_detectable_effect or 0.0
            row["plot"] = {
                "low": place(contrast.low),
                "high": place(contrast.high),
                "middle": place(contrast.difference),
                "mde_low": place(-effect),
                "mde_high": place(effect),
            }
        rows.append(row)
    return {"name": measure, "rows": rows}


def _headline(comparison: Comparison, system: str) -> dict[str, Any]:
    """What the page says first about a system, in words; about the first measure."""
    c: Contrast = comparison.contrast(system, comparison.measures[0])
    p = c.t_p_holm if comparison.config["test"] == "t" else c.randomisation_p_holm
    return {"contrast": c, "p": p, "level": f"{comparison.config['level']:.0%}"}


def _seed_notes(comparison: Comparison) -> list[str]:
    several = [name for name, values in comparison.values.items() if len(values) > 1]
    return [f"{', '.join(several)}: values are means over seeds, rankings are those of the first"] if several else []
