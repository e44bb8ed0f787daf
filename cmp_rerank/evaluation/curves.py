"""Utility curves: quality against how much of the context, or of the neurons, a model is left with.

The analysis of arXiv 2301.03765: a model that uses its context well gains from more of it, or at
least does not lose; one that uses its neurons well loses when they are dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from cmp_rerank.ablations import CmpCrop, CmpDrop, Example, Plan, View
from cmp_rerank.collections.matching import nothing_in_common, without_texts
from cmp_rerank.engine import Scorer
from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir import Progress, Qrels, Run, rank
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.lines import replacing
from cmp_rerank.models.cross_encoder import pair_adapter
from cmp_rerank.models.pairs import Truncation, tokenise
from cmp_rerank.text.segmenters import Segmenter, Sentences
from cmp_rerank.text.support import LexicalSupport, SupportScorer, best_segments

_SEGMENTER, _ORDER, _DROP = Sentences(), LexicalSupport(), CmpDrop()


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes:
        segments: how many segments of each document were kept; None for all of them.
        level: the level of CmpDrop; 0: nothing was dropped.
        means: measure -> mean over the queries.
        per_query: measure -> query -> value.
        tokens: mean number of tokens of a pair.
    """

    segments: int | None
    level: int
    means: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]
    tokens: float


@dataclass(frozen=True)
class Curves:
    """Curves of one or more models on the same queries and candidates.

    Attributes:
        points: model -> its points: first by segments, in the order asked for, then by level.
        config: what they were made with.
    """

    points: Mapping[str, Sequence[Point]]
    config: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "config": dict(self.config),
            "points": {name: [vars(point) for point in several] for name, several in self.points.items()},
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the numbers as JSON."""
        with replacing(path) as file:
            file.write(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | os.PathLike[str], measure: str | None = None) -> None:
        """Draw both curves; the format is that of the file's suffix (png, svg, pdf).

        Args:
            path: where to.
            measure: which one; None: the first.

        Raises:
            ImportError: the extra ``report`` (matplotlib) is not installed.
            ValueError: for a measure that was not computed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plots need matplotlib; install the extra: pip install 'cmp-rerank[report]'") from error
        names = list(next(iter(self.points.values()))[0].means)
        measure = measure or names[0]
        if measure not in names:
            raise ValueError(f"the measure must be one of those computed: {', '.join(names)}; got {measure!r}")
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        lines = []
        for points in self.points.values():
            kept = [point for point in points if point.level == 0]
            ticks = ["all" if point.segments is None else str(point.segments) for point in kept]
            lines += left.plot(ticks, [point.means[measure] for point in kept], marker="o")
            dropped = [point for point in points if point.segments is None]
            rates = [f"{self.config['rates'][str(point.level)]:.2g}" for point in dropped]
            right.plot(rates, [point.means[measure] for point in dropped], marker="o")
        left.set(xlabel="segments kept", ylabel=measure)
        right.set(xlabel="rate at which neurons are dropped")
        left.legend(lines, [*self.points])  # by a label of its own a line whose name begins with _ would have none
        target = Path(os.path.realpath(path))
        draft = target.with_name("." + Path(path).name)  # keeps the suffix, which is the format
        figure.savefig(draft)
        draft.replace(target)


def utility_curves(
    models: Mapping[str, CrossEncoder],
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    candidates: Run,
    qrels: Qrels,
    measures: str | Sequence[str] = "nDCG@10",
    *,
    segments: Sequence[int] = (1, 2, 4, 8),
    levels: Sequence[int] = (1, 2, 3),
    k: int | None = 100,
    segmenter: Segmenter = _SEGMENTER,
    order: SupportScorer | None = _ORDER,
    drop: CmpDrop = _DROP,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curves:
    """Rerank the same candidates with less and less of their text, and with more and more neurons dropped.

    Judgments decide nothing about what is kept: the segments of a document are put in order by ``order``, and the
    first ones stay, so every curve is nested.

    Args:
        models: name -> cross-encoder.
        queries: query id -> text.
        corpus: document id -> text.
        candidates: a run; its best k documents of each query are reranked.
        qrels: judgments.
        measures: as `cmp_rerank.evaluation.evaluate` takes them.
        segments: how many segments are kept, one point for each; all of them is a point always.
        levels: levels of CmpDrop, one point for each.
        k: how many candidates of a query are reranked; None: all.
        segmenter: how documents are split.
        order: scores the segments of a document against the query, best first; None: in document order, the lead
            first.
        drop: how neurons are dropped.
        seed: what the masks derive from.
        progress: called with the number of queries done and that of all, over all models.

    Returns:
        The curves.

    Raises:
        ValueError: for no model, a count or level below 1, missing texts, or an empty document.
    """
    if not models:
        raise ValueError("there is no model to draw a curve of; got an empty mapping; give {name: model}")
    for what, numbers in (("segments", segments), ("levels", levels)):
        if any(not isinstance(number, int) or number < 1 for number in numbers):
            raise ValueError(f"{what} must be whole numbers of at least 1; got {list(numbers)!r}")
    queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
    ranked = {query: [doc for doc, _ in rank(docs)[:k]] for query, docs in candidates.items() if query in qrels}
    if candidates and not ranked:
        raise nothing_in_common("queries of the run", list(candidates), "judged queries", list(qrels))
    documents = dict.fromkeys(doc for docs in ranked.values() for doc in docs)
    for what, ids, texts in (("queries", ranked, queries), ("documents", documents, corpus)):
        if lacking := [name for name in ids if not texts.get(name, "").strip()]:
            raise without_texts(f"{what} of the run", lacking, len(ids), "add them, or take them out of the run")
    plan = Plan([CmpCrop(segmenter=segmenter, support=None), drop])
    settings: list[tuple[int | None, int]] = [(count, 0) for count in sorted(set(segments))]
    settings += [(None, 0), *((None, level) for level in sorted(set(levels)))]
    points: dict[str, list[Point]] = {}
    truncated: dict[str, str] = {}
    total = len(models) * len(ranked)
    for name, model in models.items():
        runs: list[dict[str, dict[str, float]]] = [{} for _ in settings]
        tokens = [0] * len(settings)
        cut = Truncation()
        scorer = Scorer(pair_adapter(model), plan.on_model)
        training = model.training
        model.eval()
        try:
            for query, docs in ranked.items():
                pairs = [(queries[query], corpus[doc]) for doc in docs]
                examples = tokenise(model, pairs, plan, draw=str(seed), truncation=cut)
                views = [
                    _views(example, *pair, segmenter, order, settings)
                    for example, pair in zip(examples, pairs, strict=True)
                ]
                with torch.inference_mode():
                    scores = scorer(model, examples, views)[..., 0].cpu() if docs else torch.zeros(0, len(settings))
                for i, run in enumerate(runs):
                    run[query] = dict(zip(docs, scores[:, i].tolist(), strict=True))
                    tokens[i] += sum(len(own[i]) for own in views)
                if progress is not None:
                    progress(len(points) * len(ranked) + len(runs[0]), total)
        finally:
            model.train(training)
        if cut.cut:
            truncated[name] = str(cut)
        pairs_scored = max(sum(len(docs) for docs in ranked.values()), 1)
        points[name] = [
            Point(count, level, result.means, result.per_query, number / pairs_scored)
            for (count, level), run, number in zip(settings, runs, tokens, strict=True)
            for result in [evaluate(run, qrels, measures)]
        ]
    rates = {str(level): drop.rate(level) for level in (0, *levels)}
    config = {"segmenter": repr(segmenter), "order": repr(order), "drop": repr(drop), "k": k, "seed": seed}
    return Curves(points, config | {"rates": rates, "truncated": truncated})


def _views(
    example: Example,
    query: str,
    document: str,
    segmenter: Segmenter,
    order: SupportScorer | None,
    settings: Sequence[tuple[int | None, int]],
) -> list[View]:
    seen = example.segments()
    if order is not None and seen:
        spans = segmenter(document)
        texts = [document[slice(*spans[i])] for i in seen]
        scores_order = best_segments(order, query, texts, len(texts))
        seen = [seen[i] for i in scores_order] + [i for n, i in enumerate(seen) if n not in scores_order]
    everything = example.full()
    return [
        View(everything.tokens if count is None else example.keeping(seen[:count]), (level,))
        for count, level in settings
    ]
