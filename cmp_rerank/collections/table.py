"""``table:pairs.csv``: queries with their positives, and maybe negatives or labels, one row each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.files import bare_name, in_usual_order
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.rows import SUFFIXES, Row, read_rows
from cmp_rerank.collections.table_ids import TextIds
from cmp_rerank.ir.lines import stem_suffix
from cmp_rerank.ir.mappings import with_title

#: Names of the columns, in the order in which they are looked for.
QUERY = ("query", "question", "anchor")
DOCUMENT = ("positive", "positives", "passage", "document", "answer", "text")
LABEL = ("label", "relevance", "grade")
QUERY_ID = ("query_id", "query-id", "qid")
DOCUMENT_ID = ("document_id", "doc_id", "passage_id", "corpus-id", "docid", "pid")
NEGATIVES = re.compile(r"negatives?(_?\d+)?")
#: The name of the run of the negatives.
NEGATIVES_RUN = "negatives"
_LISTS = ("positives", "negatives")
V = TypeVar("V")


def open_table(where: str, options: LoadOptions) -> Collection:
    """Open a table of pairs: CSV, TSV, JSON lines, JSON or parquet; or a folder with one for each split.

    | column | what it holds |
    |---|---|
    | ``query`` (``question``, ``anchor``) | the text of the query |
    | ``positive`` (``passage``, ``document``, ``answer``, ``text``) | a text that answers it; ``positives``: a list |
    | ``label`` (``relevance``, ``grade``) | the grade of the pair, a whole number; without the column, it is 1 |
    | ``negative``, ``negative_1``, ... | texts that do not answer it; ``negatives``: a list |
    | ``query_id``, ``document_id`` | ids; without them, the same text has the same id: q1, q2, ..., d1, d2, ... |
    | ``title`` | goes before the text of the document |
    | ``weight`` | how much the query counts |
    | ``split`` | the split of the row; without it, the name of the file in a folder, or "train" |
    | ``support`` | the part of the positive that supports the answer: text, or [[start, end], ...] in characters |

    Negatives, and pairs with a label of 0 or below, are the run ``"negatives"``. A table is read into memory.

    Args:
        where: The file or folder.
        options: As :func:`cmp_rerank.collections.load` has them.

    Returns:
        The collection.

    Raises:
        ValueError: With file and line, for a row that cannot be read; a column is missing.
    """
    path = Path(where)
    if path.is_dir():
        files = {bare_name(file, (".gz", *SUFFIXES)): file for file in path.iterdir() if _is_table(file)}
        if not files:
            raise ValueError(f"{path}: no table in this folder; it has one file for each split, such as train.csv")
    else:
        files = {"train": path}
    return from_rows(
        bare_name(path.resolve(), (".gz", *SUFFIXES)),
        {name: read_rows(files[name]) for name in in_usual_order(files)},
        options,
        source=str(path),
    )


def _is_table(path: Path) -> bool:
    return path.is_file() and stem_suffix(path) in SUFFIXES and not path.name.startswith(".")


def from_rows(name: str, parts: Mapping[str, Iterable[Row]], options: LoadOptions, *, source: str = "") -> Collection:
    """A collection of rows, by the columns of :func:`open_table`.

    Args:
        name: Of the collection.
        parts: Rows by split; where a row names another split itself, that counts.
        options: As :func:`cmp_rerank.collections.load` has them.
        source: What an error calls the source; "": the name.

    Returns:
        The collection; the rows have been read.

    Raises:
        ValueError: As :func:`open_table`.
    """
    pairs = _Pairs(options.titles)
    for split, rows in parts.items():
        for where, cells in rows:
            pairs.add(split, where, cells)
    pairs.settle_ids()
    if not pairs.splits:
        raise ValueError(f"{source or name}: a table needs a row; got none; is it the right file?")
    return Collection(
        name,
        pairs.documents.texts,
        {split: pairs.splits[split].frozen() for split in in_usual_order(pairs.splits)},
        runs={NEGATIVES_RUN: pairs.negatives_run} if pairs.negatives else {},
        missing_texts=options.missing_texts,
    )


@dataclass
class _Part:
    """What is known of one split so far."""

    queries: dict[str, str] = field(default_factory=dict)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    support: dict[str, dict[str, list[tuple[int, int]]]] = field(default_factory=dict)

    def frozen(self) -> Split:
        weights = {query: self.weights.get(query, 1.0) for query in self.queries} if self.weights else None
        qrels = {query: grades for query, grades in self.qrels.items() if grades}
        return Split(self.queries, qrels, weights, self.support or None)


class _Pairs:
    """Collects rows."""

    def __init__(self, titles: bool) -> None:
        self.queries, self.documents = TextIds("q"), TextIds("d")
        self.splits: dict[str, _Part] = {}
        self.negatives: dict[str, dict[str, None]] = {}
        self._titles = titles

    def add(self, split: str, where: str, cells: Mapping[str, Any]) -> None:
        """Take in one row."""
        column = _column(where, cells, QUERY)
        text = _text(where, column, cells[column])
        query = self.queries.key(where, text, _optional(cells, QUERY_ID))
        part = self.splits.setdefault(_text(where, "split", cells["split"]) if "split" in cells else split, _Part())
        part.queries[query] = text
        grade = _grade(where, cells)
        self._add_documents(part, query, grade, where, cells)
        self._add_negatives(query, where, cells)
        weight = _optional(cells, ("weight",))
        if weight is not None and part.weights.setdefault(query, _weight(where, weight)) != _weight(where, weight):
            raise ValueError(
                f"{where}: a query has one weight; got {weight} for {text!r:.60}, which had "
                f"{part.weights[query]:g} before; make them equal"
            )

    def _add_documents(self, part: _Part, query: str, grade: int, where: str, cells: Mapping[str, Any]) -> None:
        column = _column(where, cells, DOCUMENT)
        contents = _texts(where, column, cells[column])
        if not contents:
            raise ValueError(f"{where}: a row needs a text in {column!r}; got none; take the row out")
        given = _optional(cells, DOCUMENT_ID)
        if given is not None and len(contents) > 1:
            raise ValueError(f"{where}: one id cannot stand for {len(contents)} positives; write one row for each")
        grades = part.qrels.setdefault(query, {})
        title = _optional(cells, ("title",)) if self._titles else None
        title = None if title is None else _text(where, "title", title)
        for content in contents:
            text = with_title(title, content)
            document = self.documents.key(where, text, given)
            if grades.setdefault(document, grade) != grade:
                raise ValueError(
                    f"{where}: a pair has one label; got {grade} for query {part.queries[query]!r:.60} and document "
                    f"{content!r:.60}, which had {grades[document]} before; keep one of the rows"
                )
            if grade <= 0:
                self.negatives.setdefault(query, {})[document] = None
            support = _optional(cells, ("support",))
            if support is not None:
                spans = _spans(where, support, content, len(text) - len(content))
                part.support.setdefault(query, {})[document] = spans

    def _add_negatives(self, query: str, where: str, cells: Mapping[str, Any]) -> None:
        for column in cells:
            if NEGATIVES.fullmatch(column):
                for content in _texts(where, column, cells[column]):
                    document = self.documents.key(where, content, None)
                    self.negatives.setdefault(query, {})[document] = None

    def negatives_run(self) -> dict[str, dict[str, float]]:
        """The negatives of each query, in the order of the rows, without what is its positive in another row."""
        positive = {
            (query, document)
            for part in self.splits.values()
            for query, grades in part.qrels.items()
            for document, grade in grades.items()
            if grade > 0
        }
        kept = {
            query: [document for document in found if (query, document) not in positive]
            for query, found in self.negatives.items()
        }
        return {
            query: {document: -float(place) for place, document in enumerate(found, 1)}
            for query, found in kept.items()
            if found
        }

    def settle_ids(self) -> None:
        """Put ids in place of keys, where these differ: all rows are read.

        Raises:
            ValueError: A pair has two labels, one with and one without an id.
        """
        queries, documents = self.queries.ids(), self.documents.ids()
        if not queries and not documents:
            return
        self.documents.texts = _by_id(self.documents.texts, documents)
        self.negatives = {
            query: _by_id(found, documents) for query, found in _joined(self.negatives, queries, {}).items()
        }
        for part in self.splits.values():
            part.queries, part.weights = _by_id(part.queries, queries), _by_id(part.weights, queries)
            part.qrels = _joined(part.qrels, queries, documents)
            part.support = _joined(part.support, queries, documents)


def _by_id(values: Mapping[str, V], ids: Mapping[str, str]) -> dict[str, V]:
    return {ids.get(key, key): value for key, value in values.items()}


def _joined(
    values: Mapping[str, Mapping[str, V]], queries: Mapping[str, str], documents: Mapping[str, str]
) -> dict[str, dict[str, V]]:
    """Values of pairs by the ids of both; keys may become one id."""
    joined: dict[str, dict[str, V]] = {}
    for key, found in values.items():
        query = queries.get(key, key)
        into = joined.setdefault(query, {})
        for name, value in found.items():
            document = documents.get(name, name)
            if into.setdefault(document, value) != value:
                raise ValueError(
                    f"a pair has one label and support; got {value} and {into[document]} for query {query!r} and "
                    f"document {document!r}, whose text is in rows with and without this id; keep one of them"
                )
    return joined


def _column(where: str, cells: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        if name in cells:
            return name
    raise ValueError(
        f"{where}: a table needs a column {names[0]!r} (or {', '.join(map(repr, names[1:]))}); got the columns "
        f"{', '.join(map(repr, cells)) or '(none)'}; rename one"
    )


def _optional(cells: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The cell of the first of these columns that has something in it; None: there is none."""
    return next((cells[name] for name in names if cells.get(name) not in (None, "")), None)


def _text(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {column!r} must be a text; got {value!r:.80}; fill it in, or take the row out")
    return value


def _texts(where: str, column: str, value: Any) -> list[str]:
    """One text or several; in CSV a list is written as JSON."""
    if value is None or value == "":
        return []
    if column in _LISTS and isinstance(value, str) and value.lstrip().startswith("["):
        value = _json_list(where, column, value)
    return [_text(where, column, content) for content in (value if isinstance(value, list) else [value])]


def _json_list(where: str, column: str, value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: {column!r} must be a JSON list; got {value!r:.80} ({error.msg}); close its brackets"
        ) from error


def _grade(where: str, cells: Mapping[str, Any]) -> int:
    """The grade of the pair: 1 where there is no label. An empty one may stand for either grade."""
    columns = [name for name in LABEL if name in cells]
    value = _optional(cells, columns) if columns else 1
    if value is None:
        raise ValueError(
            f"{where}: a label must be a whole number, the grade of the pair; got an empty {columns[0]!r}; fill it "
            "in, or take the row out"
        )
    number = _number(value)
    if not number.is_integer():
        raise ValueError(
            f"{where}: a label must be a whole number, the grade of the pair; got {value!r}; scores of a teacher are "
            "made by cmp_rerank.mining"
        )
    return int(number)


def _weight(where: str, value: Any) -> float:
    number = _number(value)
    if not number > 0 or math.isinf(number):
        raise ValueError(f"{where}: the weight of a query must be a number above 0; got {value!r}; correct it")
    return number


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _spans(where: str, value: Any, content: str, shift: int) -> list[tuple[int, int]]:
    """Character spans in a document, whose title takes ``shift`` characters; texts are found in it."""
    if isinstance(value, str) and value.lstrip().startswith("[["):
        value = _json_list(where, "support", value)
    spans: list[tuple[int, int]] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            start, stop = content.find(item), content.find(item) + len(item)
        elif isinstance(item, Sequence) and len(item) == 2 and all(type(place) is int for place in item):
            start, stop = item
        else:
            start, stop = -1, -1
        if not 0 <= start < stop <= len(content):
            raise ValueError(
                f"{where}: 'support' must be a part of the positive, or its [start, end]; got {item!r:.80}, which is "
                f"not in {content!r:.60}; correct it, or leave it empty"
            )
        spans.append((start + shift, stop + shift))
    return sorted(spans)
