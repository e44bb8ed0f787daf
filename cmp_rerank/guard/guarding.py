"""The guard: score all candidates, choose by the rule, test the choice, save it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from cmp_rerank.evaluation.compare import compare_evaluations
from cmp_rerank.evaluation.measures import Measure, Parsed, parse_measures
from cmp_rerank.guard.candidates import Candidate, candidates, had_by_user
from cmp_rerank.guard.choice import Choice, choose, paired
from cmp_rerank.guard.contestants import Contestants, ModelLike, contestants, has_new_head, load, share_weights
from cmp_rerank.guard.interpolation import restored, same_mode
from cmp_rerank.guard.measured import Measured, measure_candidates
from cmp_rerank.guard.options import DEFAULTS, GuardOptions
from cmp_rerank.guard.save import check_free, free_folder, save
from cmp_rerank.guard.split import Split
from cmp_rerank.guard.verdict import HELPED, HURT, NO_DIFFERENCE, Cost, Row, Test, Verdict
from cmp_rerank.ir import Qrels, Run
from cmp_rerank.ir.arguments import Progress, kind
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.version import versions_with


def guard(
    start: ModelLike | None,
    tuned: ModelLike | Sequence[ModelLike],
    *,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: Qrels | str | os.PathLike[str],
    first_stage: Run | str | os.PathLike[str],
    measure: str | Measure = "nDCG@10",
    options: GuardOptions = DEFAULTS,
    test: Split | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    device: str | None = None,
) -> Verdict:
    """Compare a tuned reranker with what the user had, and hand over what is not worse.

    Candidates are the first stage alone, the starting model, the tuned one, interpolations of their weights, and each
    of these with a share of the score while the first stage has the rest. One of them is chosen on the validation
    split by the rule of :func:`cmp_rerank.guard.choose`: what the user had, unless a gain is larger than its standard
    error, also cross-validated.

    The models are left as they were. Memory: the models that are given, and one more copy of the weights.

    Args:
        start: The model before fine-tuning: a CrossEncoder, its folder or its name; None where there was no reranker,
            such as for an encoder that got a new head.
        tuned: The model after fine-tuning, or a list with one for each training seed.
        queries: Query id -> text, of the validation split.
        corpus: Document id -> text; only texts of candidates are read.
        qrels: Judgments of the validation split; its queries are the unit of all statistics.
        first_stage: The candidates of the validation queries, with the scores of the first stage.
        measure: One measure, as :func:`cmp_rerank.evaluation.evaluate` takes it.
        options: What is tried, and how large a gain must be.
        test: Queries that have no part in the choice, to test it on.
        out: Folder for the checkpoint of what is handed over, with ``guard.json`` and ``verdict.json``; new or empty.
        progress: Called with the number of pairs that are done and of all pairs of the validation split.
        device: Where models that are given by name are loaded.

    Returns:
        The verdict.

    Raises:
        ValueError: An argument of another shape, a text is missing, no candidate of a judged query, ``start`` and
            ``tuned`` are the same weights in memory, or another process is writing ``out``.

    Source: Wortsman et al., Robust fine-tuning of zero-shot models (arXiv 2109.01903), for what lies between.

    Example:
        ::

            verdict = guard("cross-encoder/ms-marco-MiniLM-L6-v2", "tuned/final", queries=queries, corpus=corpus,
                            qrels=qrels, first_stage=bm25.search(queries, 100), out="tuned/guarded")
            print(verdict)
    """
    if not isinstance(options, GuardOptions):
        raise ValueError(f"options must be GuardOptions; got {kind(options)}; write GuardOptions(depth=50)")
    if test is not None and not isinstance(test, Split):
        raise ValueError(f"test must be a Split; got {kind(test)}; write Split(queries, qrels, first_stage)")
    if out is not None:
        check_free(out)
    begin = time.perf_counter()
    corpus = as_texts("corpus", corpus)
    validation = Split(queries, qrels, first_stage)
    validation.read(corpus)  # wrong input is told before any model is loaded
    given: Sequence[Any] = tuned if isinstance(tuned, list | tuple) else [tuned]
    if not given:
        raise ValueError("tuned must be a model or a list of them; got an empty list; give one at least")
    models = [load(model, "tuned", device) for model in given]
    started = None if start is None else load(start, "start", device, new_head=True)
    several = models if started is None else [started, *models]
    if any(share_weights(one, other) for one, other in combinations(several, 2)):
        raise ValueError(
            "start and tuned must be models of their own; got the same weights in memory, which training has "
            "changed; give the folder or name that training started from, or use GuardCallback"
        )
    # What is drawn at random once more has nothing to do with the head that training started from.
    new_head = started is not None and has_new_head(started)
    drawn_again = new_head and not isinstance(start, CrossEncoder)
    with free_folder(out), restored(models[0]) as own, same_mode(started):
        found = contestants(
            models[0],
            [own, *(model.state_dict() for model in models[1:])],
            options,
            start=started,
            start_weights=None if started is None or drawn_again else started.state_dict(),
            new_head=new_head,
        )
        verdict, chosen = decide(
            found, validation, corpus, measure, options, test=test, progress=progress, begin=begin
        )
        if out is not None:
            save(out, found.model(chosen.blend), chosen.mix, verdict)
    return verdict


def decide(
    models: Contestants,
    validation: Split,
    corpus: Mapping[str, str],
    measure: str | Measure,
    options: GuardOptions,
    *,
    test: Split | None = None,
    progress: Progress | None = None,
    begin: float | None = None,
) -> tuple[Verdict, Candidate]:
    """Score the models, choose, and test; the working model is left with any of the weights.

    Args:
        models: The models.
        validation: The split on which is chosen.
        corpus: Document id -> text.
        measure: As for :func:`guard`, and so are the following ones.
        options: What is tried, and how large a gain must be.
        test: The split on which is tested.
        progress: Called with the number of pairs that are done and of all.
        begin: Since when the seconds are counted; None: since now.

    Returns:
        The verdict, and the candidate that is handed over.

    Raises:
        ValueError: As :func:`guard`.
    """
    begin = time.perf_counter() if begin is None else begin
    parsed = one_measure(measure)
    found = candidates(models.blends, options)
    had_by_user(found, options)
    read = validation.read(corpus)
    read_test = None if test is None else test.read(corpus)  # wrong input is told before the work
    measured = measure_candidates(found, models.model, read, corpus, parsed, options, progress)
    found = _finite_scores(found, measured)
    names = [candidate.name for candidate in found]
    values = measured.values(names)
    choice = choose(
        values,
        had_by_user(found, options),
        standard_errors=options.standard_errors,
        folds=options.folds,
        repeats=options.repeats,
        seed=options.seed,
    )
    chosen, had = found[choice.chosen], found[choice.had]
    tuned = [candidate for candidate in found if candidate.is_tuned]
    gain, error = _gain(values[[names.index(candidate.name) for candidate in tuned]], values[choice.had])
    on_test = None
    if read_test is not None:
        wanted = [candidate for candidate in found if candidate in (had, chosen, *tuned)]
        on_test = measure_candidates(wanted, models.model, read_test, corpus, parsed, options)
        if chosen.name not in on_test.evaluations:
            raise ValueError(
                f"scores must be finite; got others from {chosen.words} for the test split, though not for the "
                "validation split; check the texts of the test split, or load the model in 32 bits"
            )
        tuned = [candidate for candidate in tuned if candidate.name in on_test.evaluations]
    verdict = Verdict(
        outcome=_outcome(chosen, gain, error, options.standard_errors),
        measure=parsed.name,
        had=had.name,
        picked=names[choice.picked],
        chosen=chosen.name,
        rows=_rows(found, values, choice, measured),
        tuned_gain=gain,
        tuned_error=error,
        cross_validated_gain=choice.cross_validated_gain,
        cross_validated_error=_finite(choice.cross_validated_error),
        queries=len(measured.queries),
        seeds=len(models.tuned),
        test=None if on_test is None else _tested(on_test, had, chosen, tuned, options.alpha),
        cost=Cost(
            time.perf_counter() - begin,
            measured.pairs + (0 if on_test is None else on_test.pairs),
            len(models.blends),
        ),
        options=asdict(options),
        notes=(*models.notes, *_diverged(measured), *_cut(measured)),
        per_query=measured.per_query(),
        test_per_query=None if on_test is None else on_test.per_query(),
        versions=versions_with("torch", "transformers", "sentence-transformers", "numpy"),
    )
    return verdict, chosen


def _finite_scores(found: Sequence[Candidate], measured: Measured) -> list[Candidate]:
    """The candidates without those of a training that diverged, and what lies between these and others."""
    broken = {blend.tuned.index(1.0) for blend in measured.diverged if 1.0 in blend.tuned}
    return [
        candidate
        for candidate in found
        if candidate.name in measured.evaluations
        and not (candidate.blend is not None and any(candidate.blend.tuned[i] for i in broken))
    ]


def _diverged(measured: Measured) -> list[str]:
    """What gives scores that are not finite, as notes."""
    which = [blend for blend in measured.diverged if 1.0 in blend.tuned] or measured.diverged
    return [
        f"{blend.words[0].upper()}{blend.words[1:]} gives scores that are not finite, from a training that diverged, "
        "and is not tried."
        for blend in which
    ]


def _cut(measured: Measured) -> list[str]:
    """That texts were cut, as a note."""
    if not measured.cut:
        return []
    return [
        f"{measured.cut:,} of {measured.pairs:,} pairs exceed the window of the model, and were cut; a "
        "LongDocumentReranker reads them in passages"
    ]


def one_measure(measure: Any) -> Parsed:
    """The measure by which is chosen.

    Raises:
        ValueError: It is several, or unknown.
    """
    parsed = parse_measures(measure if isinstance(measure, str) else [measure])
    if len(parsed) != 1:
        raise ValueError(f"the guard chooses by one measure; got {', '.join(one.name for one in parsed)}; name one")
    return parsed[0]


def _gain(tuned: np.ndarray, had: np.ndarray) -> tuple[float | None, float | None]:
    """Gain of the tuned models, averaged over them for each query, and its standard error."""
    if not len(tuned):
        return None, None
    gain, error = paired(tuned.mean(axis=0) - had)
    return float(gain), _finite(error)


def _outcome(chosen: Candidate, gain: float | None, error: float | None, standard_errors: float) -> str:
    if chosen.uses_tuning:
        return HELPED
    if gain is None:  # a model that diverged
        return HURT
    return HURT if error is not None and gain < -standard_errors * error else NO_DIFFERENCE


def _rows(found: Sequence[Candidate], values: np.ndarray, choice: Choice, measured: Measured) -> tuple[Row, ...]:
    return tuple(
        Row(
            candidate.name,
            candidate.words,
            float(values[i].mean()),
            float(choice.gains[i]),
            _finite(choice.errors[i]),
            candidate.uses_tuning,
            float(choice.shares[i]),
            measured.seconds[candidate.name],
        )
        for i, candidate in enumerate(found)
    )


def _tested(
    on_test: Measured, had: Candidate, chosen: Candidate, tuned: Sequence[Candidate], alpha: float
) -> Test | None:
    """What was chosen, or the tuned models where nothing was, against what the user had."""
    if chosen != had:
        name, against = chosen.words, [chosen]
    elif tuned:
        name, against = "the tuned model" if len(tuned) == 1 else "the mean of the tuned models' values", list(tuned)
    else:
        return None
    evaluations = on_test.evaluations
    systems: dict[str, Any] = {
        had.words: evaluations[had.name],
        name: [evaluations[candidate.name] for candidate in against],
    }
    comparison = compare_evaluations(systems, baseline=had.words, alpha=alpha)
    (contrast,) = comparison.contrasts
    means = {name: evaluation.means[contrast.measure] for name, evaluation in evaluations.items()}
    return Test(contrast, comparison.mean(name, contrast.measure).mean, means, len(on_test.queries), alpha)


def _finite(number: Any) -> float | None:
    return None if number is None or not np.isfinite(number) else float(number)
