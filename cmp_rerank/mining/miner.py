"""Mining, query by query: draw candidates, filter them by their scores, label them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cmp_rerank.collections.matching import ids_without, without_texts
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import rank
from cmp_rerank.mining.counts import MiningCounts
from cmp_rerank.mining.filters import ScoreFilter
from cmp_rerank.mining.negatives import Candidate, Draw, band_order, generator, ids_of, quotas, random_documents
from cmp_rerank.mining.options import TEACHER_LABELS, MiningOptions
from cmp_rerank.mining.rows import MinedQuery
from cmp_rerank.mining.teacher import Scores, teacher_labels

#: Queries whose pairs a model scores together. Whatever the number, each query gets the same.
QUERIES_AT_ONCE = 128

#: Of the random candidates of a query, a filter sees this many for each negative; then the query is short.
RANDOM_TRIES = 10


@dataclass
class _Open:
    """A query whose negatives are being drawn."""

    query: str
    positives: list[str]
    found: list[Mapping[str, float]]  # its documents in each run
    draw: Draw
    negatives: list[Candidate] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)  # by the filter's model


class Miner:
    """Mines one query after the other; see :func:`cmp_rerank.mining.mine` for the arguments.

    Args:
        queries: Ids of the queries to mine for, each with its judgments (grades by document id).
        corpus: Document id -> text; of what is drawn it is looked at whether there is a text.
        runs: Name -> run.
        options: What to draw.
        judged: Whether there are judgments; without, all documents are labelled by the teacher.
        filter_scores: Scores of the model that filters; None: those of the runs.
        teacher_scores: Scores of the teacher; None: labels come from the judgments.
        counts: Where to count.
    """

    def __init__(
        self,
        queries: Mapping[str, Mapping[str, int]],
        corpus: Mapping[str, str],
        runs: Mapping[str, Run],
        options: MiningOptions,
        counts: MiningCounts,
        *,
        judged: bool = True,
        filter_scores: Scores | None = None,
        teacher_scores: Scores | None = None,
    ) -> None:
        self._queries, self._corpus, self._runs = queries, corpus, runs
        self._options, self._counts, self._judged = options, counts, judged
        self._filter, self._filter_scores, self._teacher_scores = (
            ScoreFilter.of(options),
            filter_scores,
            teacher_scores,
        )
        self._labels = options.labels
        if self._labels == "auto":
            self._labels = "binary" if teacher_scores is None else "scores"
        self._quotas = self._split()
        self._pool: Sequence[str] | None = None
        counts.negatives = dict.fromkeys([*runs, "random"], 0)
        self._top_grade = 1
        if self._labels == "scaled":
            self._top_grade = max((grade for judged in queries.values() for grade in judged.values()), default=1)

    def __iter__(self) -> Iterator[MinedQuery | None]:
        """One for each query, in order; None for a query that is left out."""
        waiting = iter(self._queries.items())
        while chunk := list(islice(waiting, QUERIES_AT_ONCE)):
            opened = [self._open(query, judged) for query, judged in chunk]
            self._fill([one for one in opened if one is not None])
            enough = [one if one is not None and self._enough(one) else None for one in opened]
            labels = self._label([one for one in enough if one is not None])
            for one in enough:
                yield self._close(one, labels.get(one.query, {})) if one is not None else None

    def _split(self) -> list[int]:
        """How many negatives each run gives, and how many are random."""
        options = self._options
        if not self._runs:
            return [options.negatives]
        (random, hard) = quotas(options.negatives, [options.random, 1 - options.random])
        return [*quotas(hard, options.shares or [1] * len(self._runs)), random]

    def _open(self, query: str, judged: Mapping[str, int]) -> _Open | None:
        """The query with its positives and candidates; None where it has no positive."""
        positives = self._positives(query, judged)
        if self._judged and not positives:
            self._counts.without_positive += 1
            return None
        draw = generator(self._options.seed, query)
        found: list[Mapping[str, float]] = [run.get(query) or {} for run in self._runs.values()]
        if self._runs and not any(found):
            self._counts.not_in_runs += 1
        streams = [self._hard(judged, number, scores, draw) for number, scores in enumerate(found)]
        streams.append(self._random(judged, len(found), draw))
        if self._filter.needs_positives and self._filter_scores is None:
            scored = any(positive in scores for scores in found for positive in positives)
            self._counts.unscored_positives += not scored
        return _Open(query, positives, found, Draw(streams, self._quotas, self._options.short == "random"))

    def _positives(self, query: str, judged: Mapping[str, int]) -> list[str]:
        graded = (document for document, grade in judged.items() if grade >= self._options.relevant)
        relevant = [document for document in graded if self._has_text(document) and not self._is_empty(document)]
        if self._options.positives is None or len(relevant) <= self._options.positives:
            return relevant
        draw = generator(self._options.seed, f"{query} positives")
        by_grade = sorted([(-judged[document], draw(), document) for document in relevant])
        return [document for _, _, document in by_grade[: self._options.positives]]

    def _has_text(self, document: str) -> bool:
        if document in self._corpus:
            return True
        if self._options.missing_texts == "error":
            ids = dict.fromkeys(
                doc
                for query, judged in self._queries.items()
                for named in (judged, *(run.get(query) or {} for run in self._runs.values()))
                for doc in named
            )
            missing = list(ids_without(self._corpus, ids))
            hint = "add the texts, or choose missing_texts='drop'"
            raise without_texts("documents of the judgments and runs", missing, len(ids), hint)
        self._counts.missing_texts += 1
        return False

    def _is_empty(self, document: str) -> bool:
        """Whether the text has nothing to read: such a document teaches nothing."""
        empty = not self._corpus[document].strip()
        self._counts.missing_texts += empty
        return empty

    def _may_be_negative(self, grade: int | None) -> bool:
        judgments = self._options.judgments
        if grade is None:
            return judgments != "judged"
        return grade <= 0 and judgments != "unjudged"

    def _hard(
        self, judged: Mapping[str, int], source: int, scores: Mapping[str, float], draw: Callable[[], float]
    ) -> Iterator[Candidate]:
        ranked = (
            document
            for document, _ in rank(scores)
            if self._may_be_negative(judged.get(document)) and self._has_text(document)
        )
        band = band_order(ranked, self._options.ranks, draw if self._options.pick == "random" else None)
        return (Candidate(document, source, float(scores[document])) for document in band)

    def _random(self, judged: Mapping[str, int], source: int, draw: Callable[[], float]) -> Iterator[Candidate]:
        if self._options.judgments == "judged":
            pool: Sequence[str] = [d for d, grade in judged.items() if grade <= 0 and d in self._corpus]
        else:
            if self._pool is None:
                self._pool = ids_of(self._corpus)
            pool = self._pool
        taken = {document for document, grade in judged.items() if not self._may_be_negative(grade)}
        drawn = random_documents(pool, taken, draw)
        return (Candidate(d, source, None) for d in islice(drawn, RANDOM_TRIES * self._options.negatives))

    def _fill(self, opened: list[_Open]) -> None:
        """Draw until each query has its negatives or no more candidates."""
        wanted = {one.query: one.positives for one in opened if self._filter.needs_positives}
        while opened:
            proposed = [(one, one.draw.propose()) for one in opened]
            if self._filter_scores is not None:
                pairs = {
                    one.query: [*wanted.get(one.query, ()), *(c.document for c in found)] for one, found in proposed
                }
                scores = self._filter_scores({query: documents for query, documents in pairs.items() if documents})
                for one, _ in proposed:
                    one.scores |= scores.get(one.query, {})
                wanted = {}
            opened = [one for one, found in proposed if self._sift(one, found)]

    def _sift(self, one: _Open, found: Iterable[Candidate]) -> int:
        """Keep or reject candidates; how many are rejected."""
        rejected = 0
        for candidate in found:
            empty = self._is_empty(candidate.document)
            if not empty and self._keeps(one, candidate):
                one.negatives.append(candidate)
            else:
                one.draw.reject(candidate)
                rejected += 1
                self._counts.filtered += not empty
        return rejected

    def _keeps(self, one: _Open, candidate: Candidate) -> bool:
        if not self._filter.active:
            return True
        if self._filter_scores is not None:
            known: Mapping[str, float] = one.scores
            score = known[candidate.document]
        elif candidate.score is not None:
            known = one.found[candidate.source]
            score = candidate.score
        else:  # a random document: no run has scored it
            return True
        return self._filter.keeps(score, [known[positive] for positive in one.positives if positive in known])

    def _enough(self, one: _Open) -> bool:
        """Whether the query has enough negatives."""
        wanted, got = self._options.negatives, len(one.negatives)
        if got == wanted:
            return True
        if self._options.short == "error":
            raise ValueError(
                f"query {one.query!r} needs {wanted} negatives; got {got}; widen ranks, loosen the filter, lower "
                "negatives, or choose short='random', 'keep' or 'drop'"
            )
        if self._options.short == "keep" and got:
            self._counts.fewer += 1
            return True
        self._counts.too_few += 1
        return False

    def _label(self, closed: list[_Open]) -> dict[str, dict[str, float]]:
        """Labels by query and document."""
        documents = {one.query: [*one.positives, *(c.document for c in one.negatives)] for one in closed}
        if self._labels not in TEACHER_LABELS or self._teacher_scores is None:
            return {query: self._judged_labels(query, names) for query, names in documents.items()}
        # What filters may be what teaches: no pair is scored twice.
        same = self._teacher_scores is self._filter_scores
        scored = {one.query: one.scores if same else {} for one in closed}
        missing = {query: [name for name in names if name not in scored[query]] for query, names in documents.items()}
        scores = self._teacher_scores({query: names for query, names in missing.items() if names})
        labels = {}
        for query, names in documents.items():
            known = scored[query] | scores.get(query, {})
            self._counts.unscored += sum(name not in known for name in names)
            rule = "scores" if self._labels == "both" else self._labels
            labels[query] = teacher_labels(query, names, known, rule, self._options.unscored) if known else {}
        return labels

    def _judged_labels(self, query: str, documents: Sequence[str]) -> dict[str, float]:
        grades = self._grades(query, documents)
        if self._labels == "binary":
            return {document: float(grade >= self._options.relevant) for document, grade in grades.items()}
        return {document: grade / self._top_grade for document, grade in grades.items()}

    def _grades(self, query: str, documents: Iterable[str]) -> dict[str, int]:
        judged = self._queries[query]
        return {document: max(0, judged.get(document, 0)) for document in documents}

    def _close(self, one: _Open, labels: Mapping[str, float]) -> MinedQuery | None:
        """What the query was given, counted; None where labels are missing."""
        positives = [document for document in one.positives if document in labels]
        negatives = [candidate for candidate in one.negatives if candidate.document in labels]
        if not negatives or bool(positives) != self._judged or len(labels) < 2:
            self._counts.unlabelled += 1
            return None
        self._counts.mined += 1
        self._counts.positives += len(positives)
        names = [*self._runs, "random"]
        for candidate in negatives:
            self._counts.negatives[names[candidate.source]] += 1
        random = sum(candidate.score is None for candidate in negatives)
        self._counts.filled += max(0, random - self._quotas[-1])
        grades = self._grades(one.query, labels)
        return MinedQuery(one.query, positives, [candidate.document for candidate in negatives], labels, grades)
