"""`cmp-rerank evaluate-answers`: predictions of readers against the answers of a file of questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.compare import Alpha, Baseline, Level, Resamples, Seed, Test

if TYPE_CHECKING:
    from cmp_rerank.reader.files import Questions
    from cmp_rerank.reader.measures import AnswerEvaluation


def evaluate_answers(
    questions: Annotated[Path, typer.Argument(help="Questions with their answers: SQuAD, HotpotQA or a table.")],
    predictions: Annotated[
        list[str],
        typer.Argument(
            help="Predictions as the scripts of SQuAD or HotpotQA take them: paths, or NAME=PATH; several are "
            "compared, and a name given twice is one system with several training seeds."
        ),
    ],
    rules: Annotated[
        str, typer.Option(help="Of 'squad', 'squad2' or 'hotpotqa'; 'auto': those of the questions.")
    ] = "auto",
    missing: Annotated[
        str, typer.Option(help="A question without a prediction: 'zero' counts 0, or 'error'.")
    ] = "zero",
    per_question: Annotated[
        bool, typer.Option("--per-question", "-q", help="Also the values of every question.")
    ] = False,
    as_json: options.Json = False,
    places: Annotated[int, typer.Option("--places", "-p", min=0, max=17, help="Digits after the point.")] = 4,
    baseline: Baseline = None,
    alpha: Alpha = 0.05,
    level: Level = 0.95,
    test: Test = "t",
    resamples: Resamples = 10_000,
    seed: Seed = 0,
) -> None:
    """Evaluate predicted answers: exact match and F1, from 0 to 1, by the rules of the official scripts.

    \b
    Examples:
      cmp-rerank evaluate-answers squad/dev.json predictions.json
      cmp-rerank evaluate-answers hotpot_dev.json predictions.json -q | sort -k3 -n
      cmp-rerank evaluate-answers dev.json plain=a.json tuned=b.json

    Prints MEASURE<TAB>VALUE<TAB>INTERVAL, and where some questions have no answer
    also HasAns-EM, NoAns-EM and so on; with -q QUESTION<TAB>MEASURE<TAB>VALUE,
    too. Several predictions are compared as `cmp-rerank compare` does.
    """
    from cmp_rerank.evaluation.compare import compare_evaluations
    from cmp_rerank.ir.ranking import check_choice
    from cmp_rerank.reader.files import read_questions
    from cmp_rerank.reader.measures import RULES, check_gold, rules_of
    from cmp_rerank.reader.measures import evaluate_answers as evaluate
    from cmp_rerank.reader.prediction_files import read_predictions

    check_choice("--rules", rules, ("auto", *RULES))
    systems = options.systems(predictions)
    asked = read_questions(questions)
    try:
        check_gold(asked)
    except ValueError as error:
        raise ValueError(f"{questions}: {error}") from None
    chosen = rules_of(asked) if rules == "auto" else rules
    evaluations = {
        name: [
            evaluate(asked, read_predictions(path), rules=chosen, missing=missing)
            for path in (paths if isinstance(paths, list) else [paths])
        ]
        for name, paths in systems.items()
    }
    several = [evaluation for parts in evaluations.values() for evaluation in parts]
    if len(several) == 1:
        _show(asked, several[0], chosen, per_question, as_json, places, level, resamples, seed)
        return
    comparison = compare_evaluations(
        evaluations, baseline=baseline, alpha=alpha, level=level, test=test, resamples=resamples, seed=seed
    )
    if as_json:
        content = comparison.to_dict(per_query=per_question)
        _print_json({"rules": chosen, "questions": content.pop("queries"), **content})
        return
    if per_question:
        for name, parts in evaluations.items():
            for evaluation in parts:
                typer.echo("\n".join(f"{name}\t{line}" for line in _lines(evaluation, places)))
    options.wide_console().print(comparison)


def _show(
    questions: Questions,
    evaluation: AnswerEvaluation,
    rules: str,
    per_question: bool,
    as_json: bool,
    places: int,
    level: float,
    resamples: int,
    seed: int,
) -> None:
    """Print the values of one file of predictions."""
    from cmp_rerank.reader.measures import summary

    parts = summary(questions, evaluation, level=level, resamples=resamples, seed=seed)
    if as_json:
        content: dict[str, Any] = {
            "rules": rules,
            "questions": len(evaluation.queries),
            "missing": list(evaluation.missing),
            "unknown": evaluation.unjudged,
            "measures": parts,
        }
        _print_json(content | ({"per_question": evaluation.per_query} if per_question else {}))
        return
    if per_question:
        typer.echo("\n".join(_lines(evaluation, places)))
    typer.echo("\n".join(summary_lines(parts, evaluation.measures, places)))
    options.warn(evaluation.notes())


def summary_lines(parts: Mapping[str, Mapping[str, Any]], measures: tuple[str, ...], places: int = 4) -> list[str]:
    """A line for each part of the questions and each measure, as :func:`cmp_rerank.reader.measures.summary` has them.

    Example:
        >>> summary_lines({"NoAns": {"EM": {"mean": 0.5, "low": 0.25, "high": 0.75}}}, ("EM",), 2)
        ['NoAns-EM\\t0.50\\t[0.25, 0.75]']
    """
    return [
        f"{measure if part == 'all' else f'{part}-{measure}'}\t{value['mean']:.{places}f}\t"
        f"[{value['low']:.{places}f}, {value['high']:.{places}f}]"
        for part, values in parts.items()
        for measure in measures
        for value in [values[measure]]
    ]


def _lines(evaluation: AnswerEvaluation, places: int) -> list[str]:
    rows = zip(evaluation.queries, evaluation.values.tolist(), strict=True)
    return [
        f"{question}\t{measure}\t{value:.{places}f}"
        for question, row in rows
        for measure, value in zip(evaluation.measures, row, strict=True)
    ]


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, ensure_ascii=False, allow_nan=False))
