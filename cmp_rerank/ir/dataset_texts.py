"""A ``datasets.Dataset`` as a mapping of ids to texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cmp_rerank.ir.id_index import IdIndex, id_hash
from cmp_rerank.ir.mappings import Texts, with_title

#: Names of the columns, the usual ones of the hub, in the order in which they are looked for.
ID_COLUMNS = {
    "queries": ("_id", "id", "query_id", "query-id", "qid"),
    "documents": ("_id", "id", "doc_id", "corpus_id", "corpus-id", "docid", "document_id", "passage_id", "pid"),
}
TEXT_COLUMNS = {
    "queries": ("text", "query", "question"),
    "documents": ("text", "contents", "passage", "document", "body"),
}
_ROWS_AT_ONCE = 1000


class DatasetTexts(Texts):
    """The texts of a ``datasets.Dataset``, which stays where it is: on disk, if it was there.

    All ids are read once, for an index of 12 bytes each. A title, where there is one, goes before the text
    (:func:`cmp_rerank.ir.mappings.with_title`).

    Args:
        dataset: With a column of ids (strings) and one of texts; a column ``title`` is optional.
        name: "queries" or "documents": which names of columns are looked for.
        titles: Whether titles are put before texts.

    Raises:
        ValueError: A column is missing, ids are no strings, an id occurs twice.

    Example:
        >>> from datasets import Dataset
        >>> texts = DatasetTexts(Dataset.from_dict({"id": ["q2", "q1"], "query": ["what", "who"]}), "queries")
        >>> texts["q1"], list(texts), "q3" in texts
        ('who', ['q2', 'q1'], False)
    """

    def __init__(self, dataset: Any, name: str = "documents", *, titles: bool = True) -> None:
        columns = dataset.column_names
        if not isinstance(columns, list):  # a DatasetDict has a list for each of its splits
            raise ValueError(
                f"{name} must be one Dataset; got the splits {', '.join(map(repr, columns))}; take one of them"
            )
        which = "queries" if name == "queries" else "documents"
        self._id = _column(name, columns, ID_COLUMNS[which])
        self._text = _column(name, columns, TEXT_COLUMNS[which])
        self._title = "title" if titles and "title" in columns else None
        wanted = [self._id, self._text, *([self._title] if self._title else [])]
        self._rows = dataset.select_columns(wanted).with_format(None)
        hashes = np.empty(len(self._rows), dtype=np.uint64)
        for row, key in enumerate(self._keys()):
            if not isinstance(key, str):
                raise ValueError(
                    f"ids must be strings; got {key!r} in column {self._id!r} of the {name}; convert them: "
                    f'dataset.cast_column({self._id!r}, Value("string"))'
                )
            hashes[row] = id_hash(key)
        self._index = IdIndex.of(hashes, self.ids.__getitem__)
        double = self._index.duplicate()
        if double:
            raise ValueError(
                f"each of the {name} needs an id of its own; got {self.ids[double[0]]!r} in rows {double[0]} and "
                f"{double[1]}; take one of them out"
            )

    @property
    def ids(self) -> Sequence[str]:
        """The ids by row; each is read when it is asked for."""
        return _Ids(self._rows, self._id)

    def _keys(self) -> Iterator[Any]:
        for start in range(0, len(self._rows), _ROWS_AT_ONCE):
            yield from self._rows[start : start + _ROWS_AT_ONCE][self._id]

    def __getitem__(self, name: str) -> str:
        row = self._index.row(name)
        if row is None:
            raise KeyError(name)
        record = self._rows[row]
        return self._content(record[self._id], record[self._text], record[self._title] if self._title else None)

    def __contains__(self, name: object) -> bool:
        return self._index.row(name) is not None

    def __iter__(self) -> Iterator[str]:
        return self._keys()

    def __len__(self) -> int:
        return len(self._rows)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (id, text), some rows at once."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            part = self._rows[start : start + _ROWS_AT_ONCE]
            titles = part[self._title] if self._title else [None] * len(part[self._id])
            for key, text, title in zip(part[self._id], part[self._text], titles, strict=True):
                yield key, self._content(key, text, title)

    def _content(self, key: str, text: object, title: str | None) -> str:
        if not isinstance(text, str):
            raise ValueError(
                f"texts must be strings; got {text!r:.80} for the id {key!r} in column {self._text!r}; "
                "take the row out, or fill it in"
            )
        if not isinstance(title, str | None):
            raise ValueError(f"titles must be strings; got {title!r:.80} for the id {key!r}; convert the column")
        return with_title(title, text)


class _Ids(Sequence[str]):
    """The ids by row."""

    def __init__(self, rows: Any, column: str) -> None:
        self._rows, self._column = rows, column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        return self._rows[int(row)][self._column]


def _column(name: str, columns: Sequence[str], known: Sequence[str]) -> str:
    for column in known:
        if column in columns:
            return column
    raise ValueError(
        f"{name} need a column of {', '.join(known)}; got the columns {', '.join(columns)}; "
        f"rename one: dataset.rename_column(..., {known[0]!r})"
    )
