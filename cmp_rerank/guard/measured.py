"""Candidates measured on a split: one pass of each model, whatever the number of its shares of the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmp_rerank.evaluation.evaluate import evaluate
from cmp_rerank.evaluation.measures import Parsed
from cmp_rerank.evaluation.result import Evaluation
from cmp_rerank.guard.candidates import Blend, Candidate
from cmp_rerank.guard.mix import Mix
from cmp_rerank.guard.options import GuardOptions
from cmp_rerank.guard.split import ReadSplit
from cmp_rerank.ir import Run
from cmp_rerank.ir.arguments import Progress
from cmp_rerank.reranking import Counts, rerank_run
from cmp_rerank.reranking.checks import PairScorer
from cmp_rerank.reranking.scoring import NotFiniteError


@dataclass(frozen=True)
class Measured:
    """Candidates on a split.

    Attributes:
        evaluations: Candidate's name -> its evaluation.
        seconds: Candidate's name -> what it took; the scores of a model are counted at its first candidate.
        pairs: Number of pairs that were scored.
        cut: Number of those that exceed the window of the model, which has not read their end.
        diverged: Models of tuned weights that have no evaluation, since a score of theirs is not finite.
    """

    evaluations: Mapping[str, Evaluation]
    seconds: Mapping[str, float]
    pairs: int
    cut: int = 0
    diverged: Sequence[Blend] = ()

    @property
    def queries(self) -> list[str]:
        """Query ids in ascending order, which does not depend on that of the qrels."""
        return sorted(next(iter(self.evaluations.values())).queries)

    def values(self, names: Sequence[str]) -> np.ndarray:
        """(candidates, queries) The value of each named candidate for each of `queries`."""
        order = np.argsort(next(iter(self.evaluations.values())).queries)
        return np.stack([self.evaluations[name].values[order, 0] for name in names])

    def per_query(self) -> dict[str, dict[str, float]]:
        """Name -> query -> value."""
        names = list(self.evaluations)
        return {
            name: dict(zip(self.queries, row, strict=True))
            for name, row in zip(names, self.values(names).tolist(), strict=True)
        }


def measure_candidates(
    found: Sequence[Candidate],
    model: Callable[[Blend], PairScorer],
    split: ReadSplit,
    corpus: Mapping[str, str],
    measure: Parsed,
    options: GuardOptions,
    progress: Progress | None = None,
) -> Measured:
    """Score the candidates of the first stage with each model, and evaluate each candidate.

    Args:
        found: The candidates, those of one model side by side; the scores of one model at a time are kept.
        model: Gives the model of a blend, which may be the same object with other weights at the next call.
        split: The split.
        corpus: Document id -> text.
        measure: The measure.
        options: Depth, scale and batch size.
        progress: Called with the number of pairs that are done and of all pairs.

    Returns:
        An evaluation of each candidate, but for tuned weights that give a score that is not finite.

    Raises:
        ValueError: A text is missing, or a score without any tuning is not finite.
    """
    top = Mix(1.0, options.scale, options.depth).top(split.first_stage)
    pairs = sum(map(len, top.values()))
    models = {candidate.blend.name for candidate in found if candidate.blend is not None}
    done, last, counts = 0, None, Counts()
    scores: Run = {}
    diverged: list[Blend] = []
    evaluations: dict[str, Evaluation] = {}
    seconds: dict[str, float] = {}
    for candidate in found:
        begin = time.perf_counter()
        if candidate.blend is not None and candidate.blend is not last:
            last = candidate.blend
            report = None if progress is None else _after(progress, done, pairs * len(models))
            read = Counts()
            try:
                scores = rerank_run(
                    model(last),
                    split.queries,
                    corpus,
                    top,
                    batch_size=options.batch_size,
                    progress=report,
                    counts=read,
                )
                counts.add(read)
            except NotFiniteError:
                if not candidate.uses_tuning:
                    raise
                diverged.append(last)
            done += pairs
        if candidate.blend in diverged:
            continue
        evaluations[candidate.name] = evaluate(candidate.mix(split.first_stage, scores), split.judged, [measure])
        seconds[candidate.name] = time.perf_counter() - begin
    return Measured(evaluations, seconds, counts.pairs, counts.cut, diverged)


def _after(progress: Progress, before: int, total: int) -> Progress:
    """Progress of one model as that of all of them."""
    return lambda done, _: progress(before + done, total)
