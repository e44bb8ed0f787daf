"""The options of mining, validated when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from cmp_rerank.ir.arguments import check_count, check_number
from cmp_rerank.ir.ranking import check_choice

Format = Literal["pairs", "tuples", "lists"]
Pick = Literal["random", "top"]
Judgments = Literal["any", "judged", "unjudged"]
Short = Literal["random", "keep", "drop", "error"]
Labels = Literal["auto", "binary", "grades", "scaled", "scores", "reciprocal", "linear", "ranks", "both"]
Policy = Literal["error", "drop"]
Unscored = Literal["error", "drop", "lowest"]

#: Labels that come from a teacher; the others come from the judgments.
TEACHER_LABELS = ("scores", "reciprocal", "linear", "ranks", "both")
#: Those that come from its ranks.
RANK_LABELS = ("reciprocal", "linear", "ranks")


@dataclass(frozen=True)
class MiningOptions:
    """How training data is drawn from runs and judgments.

    Attributes:
        format: "pairs" (query, document, label), "tuples" (query, positive, negative_1, ..., negative_n) or "lists"
            (query, docs, labels); :func:`cmp_rerank.mining.format_of` says which one a loss takes.
        negatives: Negatives of each query, at least 1. All rows of a query share them.
        positives: Most positives of a query, those of the highest grades first; None takes all.
        relevant: The lowest grade of a positive. Documents of a lower grade above 0 are neither positive nor
            negative.
        ranks: First and last rank that negatives come from, counted from 1, both included. Positives, and other
            documents that cannot be negatives, are not counted.
        pick: "random" draws from these ranks, "top" takes the first of them.
        random: Share of the negatives that is drawn from the whole corpus, from 0 to 1.
        shares: With several runs, the weight of each one, in their order; None: equal weights.
        judgments: Which documents may be negatives: "any" that is not judged relevant; "judged", only those of
            grade 0 (or below); "unjudged", only those without a judgment.
        min_score: Leave out negatives that score less; None: no limit.
        max_score: Leave out negatives that score more; None: no limit.
        absolute_margin: Leave out negatives that do not score at least this much less than every positive; None:
            no margin.
        relative_margin: The same, in shares of the size of the positive's score: 0.05 asks for 5% less.
        short: A query with too few negatives: "random" fills up with random ones; "keep" has fewer (not for
            tuples); "drop" leaves the query out; "error". What random ones cannot fill is left out.
        labels: "binary" (1 and 0), "grades", or "scaled" (grades as shares of the highest one). With a teacher:
            "scores"; by rank "reciprocal" (1 / rank), "linear" ((n - rank + 1) / n, of n documents) or "ranks" (1 is
            the best); "both" (lists only), for each document its grade and the score. Ranks are those among
            the documents of the query. "auto": "scores" with a teacher, else "binary".
        unscored: A document that the teacher's run lacks: "error"; "drop" leaves the document out; "lowest" counts
            it as the query's lowest, tied with other such documents.
        missing_texts: A document of a run or the judgments that has no text: "error" or "drop".
        leak_threshold: Leave out training queries that share this much of their word pairs (Jaccard, in (0, 1]) with
            a test query.
        ids: Whether the dataset has the ids, too: ``query_id``, and ``doc_id`` or ``doc_ids``. Remove these columns
            before training: a trainer takes every column but the labels for text.
        seed: Any integer. What a query gets depends on the seed and its id, not on other queries.

    Raises:
        ValueError: An option is out of its range, or does not go with another one.

    Example:
        >>> MiningOptions(negatives=3, random=0.5).changed(format="tuples").format
        'tuples'
        >>> MiningOptions(format="triplets")
        Traceback (most recent call last):
        ...
        ValueError: format must be one of 'pairs', 'tuples', 'lists'; got 'triplets'; did you mean tuples?
    """

    format: Format = "lists"
    negatives: int = 7
    positives: int | None = None
    relevant: int = 1
    ranks: tuple[int, int] = (1, 100)
    pick: Pick = "random"
    random: float = 0.0
    shares: tuple[float, ...] | None = None
    judgments: Judgments = "any"
    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    short: Short = "random"
    labels: Labels = "auto"
    unscored: Unscored = "error"
    missing_texts: Policy = "error"
    leak_threshold: float = 0.6
    ids: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choices))
        check_count("negatives", self.negatives)
        check_count("relevant", self.relevant)
        if self.positives is not None:
            check_count("positives", self.positives)
        object.__setattr__(self, "ranks", check_ranks(self.ranks))
        check_number("random", self.random, 0, 1)
        if self.shares is not None:
            object.__setattr__(self, "shares", _weights(self.shares))
        for name in ("min_score", "max_score"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), float("-inf"))
        for name in ("absolute_margin", "relative_margin"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(
                f"min_score must not be above max_score; got {self.min_score} and {self.max_score}; exchange them"
            )
        if self.format == "tuples" and self.short == "keep":
            raise ValueError(
                "tuples need the same number of negatives for every query; got short='keep'; use 'random' or 'drop', "
                "or lists"
            )
        if self.format == "tuples" and self.unscored == "drop":
            raise ValueError(
                "tuples need the same number of negatives for every query; got unscored='drop'; use 'lowest', "
                "or lists"
            )
        if self.format != "lists" and self.labels == "both":
            raise ValueError(f"labels='both' are for lists; got format {self.format!r}; use 'lists', or one label")
        if self.leak_threshold == 0:
            raise ValueError("leak_threshold must be above 0, which every pair of queries reaches; got 0")
        check_number("leak_threshold", self.leak_threshold, 0, 1)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed must be a whole number; got {self.seed!r}")

    def changed(self, **changes: Any) -> MiningOptions:
        """The same options with some changed.

        Raises:
            ValueError: For a name that is no option.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            check_choice("an option of mining", name, names)
        return replace(self, **changes)


_CHOICES = {
    "format": Format,
    "pick": Pick,
    "judgments": Judgments,
    "short": Short,
    "labels": Labels,
    "unscored": Unscored,
    "missing_texts": Policy,
}


def check_ranks(ranks: object) -> tuple[int, int]:
    """First and last rank of a band.

    Raises:
        ValueError: They are no two whole numbers with 1 <= first <= last.
    """
    if (
        isinstance(ranks, str)
        or not isinstance(ranks, Sequence)
        or len(ranks) != 2
        or not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
        or not 1 <= ranks[0] <= ranks[1]
    ):
        raise ValueError(f"ranks must be (first, last) with 1 <= first <= last; got {ranks!r}")
    return ranks[0], ranks[1]


def _weights(shares: object) -> tuple[float, ...]:
    """Weights of runs, as given."""
    if isinstance(shares, str) or not isinstance(shares, Sequence):
        raise ValueError(f"shares must be one weight for each run; got {shares!r}; write (2, 1)")
    for share in shares:
        check_number("each of the shares", share, 0)
    if sum(shares) <= 0:
        raise ValueError(f"shares must not all be 0; got {tuple(shares)!r}")
    return tuple(float(share) for share in shares)
