"""Rows of training data: the columns of each format, in the order in which losses read them.

A trainer takes the columns "label" and "labels" for labels, and all others, in their order, for texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmp_rerank.collections.base import Support
from cmp_rerank.ir.arguments import kind
from cmp_rerank.mining.options import Format
from cmp_rerank.text.support import GivenSupport, LexicalSupport, SupportScorer

if TYPE_CHECKING:
    from datasets import Dataset, Features

_LEXICAL = LexicalSupport()

# The column of documents in each format, for `GivenSupport.from_dataset`.
_PASSAGE_COLUMN = {"pairs": "document", "tuples": "positive", "lists": "docs"}


@dataclass(frozen=True)
class MinedQuery:
    """What was mined for one query.

    Attributes:
        query: Its id.
        positives: Ids of its positives.
        negatives: Ids of its negatives; without judgments, of all its documents.
        labels: Document id -> label.
        grades: Document id -> grade, 0 where it is not judged.
    """

    query: str
    positives: Sequence[str]
    negatives: Sequence[str]
    labels: Mapping[str, float]
    grades: Mapping[str, int]


@dataclass(frozen=True)
class RowFormat:
    """The columns of a dataset, and the rows of a query.

    Attributes:
        format: "pairs", "tuples" or "lists".
        negatives: Negatives in a tuple.
        labelled: Whether tuples have labels: those of the positive and of each negative.
        ids: Whether there are columns of ids.
        support: Whether there is a column "support".
        labels: What labels mean: of "ranks" the lowest is the best; of "both" there are two, the grade first.
    """

    format: Format
    negatives: int
    labelled: bool
    ids: bool
    support: bool
    labels: str = "auto"

    def columns(self) -> list[str]:
        """The names of the columns, in their order.

        Example:
            >>> RowFormat("tuples", 2, labelled=True, ids=False, support=False).columns()
            ['query', 'positive', 'negative_1', 'negative_2', 'labels']
        """
        negatives = [f"negative_{place}" for place in range(1, self.negatives + 1)]
        texts = {"pairs": ["document"], "tuples": ["positive", *negatives], "lists": ["docs"]}[self.format]
        labels = {"pairs": ["label"], "tuples": ["labels"] * self.labelled, "lists": ["labels"]}[self.format]
        ids = ["query_id", "doc_id" if self.format == "pairs" else "doc_ids"] * self.ids
        return ["query", *texts, *labels, *ids, *["support"] * self.support]

    def features(self) -> Features:
        """The types of the columns."""
        from datasets import Features, List, Value

        string, spans = Value("string"), List(List(Value("int64")))
        types: dict[str, Any] = {
            "docs": List(string),
            "label": Value("float64"),
            "labels": List(List(Value("float64")) if self.labels == "both" else Value("float64")),
            "doc_ids": List(string),
            "support": List(spans) if self.format == "lists" else spans,
        }
        return Features({name: types.get(name, string) for name in self.columns()})

    def rows(
        self, mined: MinedQuery, queries: Mapping[str, str], corpus: Mapping[str, str], support: Support
    ) -> Iterator[dict[str, Any]]:
        """The rows of a query.

        Pairs and tuples begin with the positives. Lists are sorted by label, best first, and those of
        equal labels in this order: losses such as ListMLE read the order of the documents.
        """
        known = support.get(mined.query, {})

        def row(documents: Sequence[str], texts: Mapping[str, Any], spans: Any) -> dict[str, Any]:
            labels: list[Any] = [float(mined.labels[document]) for document in documents]
            if self.labels == "both":
                labels = [[float(mined.grades[d]), label] for d, label in zip(documents, labels, strict=True)]
            whole = {
                "query": queries[mined.query],
                **texts,
                "label": labels[0],
                "labels": labels,
                "query_id": mined.query,
                "doc_id": documents[0],
                "doc_ids": list(documents),
                "support": spans,
            }
            return {name: whole[name] for name in self.columns()}

        documents = [*mined.positives, *mined.negatives]
        if self.format == "pairs":
            for document in documents:
                yield row([document], {"document": corpus[document]}, _spans(known.get(document)))
        elif self.format == "tuples":
            negatives = {f"negative_{i}": corpus[document] for i, document in enumerate(mined.negatives, 1)}
            for positive in mined.positives:
                texts = {"positive": corpus[positive], **negatives}
                yield row([positive, *mined.negatives], texts, _spans(known.get(positive)))
        else:
            documents.sort(key=mined.labels.__getitem__, reverse=self.labels != "ranks")
            listed = {"docs": [corpus[document] for document in documents]}
            yield row(documents, listed, [_spans(known.get(document)) for document in documents])


def _spans(spans: Sequence[Sequence[int]] | None) -> list[list[int]] | None:
    return None if spans is None else [[int(start), int(end)] for start, end in spans]


def take_support(dataset: Dataset, fallback: SupportScorer | None = _LEXICAL) -> tuple[Dataset, GivenSupport | None]:
    """Take the column "support" out of mined training data.

    A trainer would take it for a text; `CmpCrop` takes it as ``CmpCrop(support=...)``.

    Args:
        dataset: Mined pairs, tuples or lists, with or without this column.
        fallback: Scores the segments of relevant passages whose support is not known; None: such a passage is an
            error.

    Returns:
        The dataset without the column, and what it held; None where there was no such column.

    Raises:
        ValueError: The dataset has another form.

    Example:
        >>> from datasets import Dataset
        >>> row = {"query": "q", "docs": ["It rains. Bees fly.", "No."], "labels": [1.0, 0.0]}
        >>> mined = Dataset.from_list([row | {"support": [[[10, 19]], None]}])
        >>> dataset, support = take_support(mined)
        >>> dataset.column_names, ("q", "It rains. Bees fly.") in support, len(support)
        (['query', 'docs', 'labels'], True, 1)
    """
    names = getattr(dataset, "column_names", None)
    if not isinstance(names, list):
        raise ValueError(f"mined data must be a datasets.Dataset; got {kind(dataset)}; read it with load_dataset")
    if "support" not in names:
        return dataset, None
    passages = [column for column in _PASSAGE_COLUMN.values() if column in names]
    if "query" not in names or len(passages) != 1:
        raise ValueError(
            f"mined data must have a column query, and one of {', '.join(_PASSAGE_COLUMN.values())}; got {names}"
        )
    known = dataset.select_columns(["query", *passages, "support"])
    support = GivenSupport.from_dataset(known, passage=passages[0], fallback=fallback)  # type: ignore[arg-type]
    return dataset.remove_columns("support"), support
