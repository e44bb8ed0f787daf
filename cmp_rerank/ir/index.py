"""What the indexes of documents share: their ids, how they are saved, and the search of many queries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmp_rerank.ir.arguments import Progress, check_count, check_texts
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.id_list import IdList
from cmp_rerank.ir.index_folder import replacing_index, write_manifest
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.ir.ranking import best_documents

#: Scores (n,) without NaN of some documents for one query, and the row (n,) of each document.
Found = tuple[np.ndarray, np.ndarray]


class Index(ABC):
    """An index of documents: searched, saved as a whole, and opened again."""

    #: What the manifest of a saved index calls it.
    kind: ClassVar[str]
    #: What a saved index notes besides its settings, to be compared when it is opened.
    _made_by: ClassVar[Mapping[str, Any]] = {}
    _settings: dict[str, Any]
    _ids: IdList

    @property
    def settings(self) -> dict[str, Any]:
        """What the index was built with."""
        return dict(self._settings)

    @property
    def ids(self) -> IdList:
        """The ids of the documents, in their order."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def save(self, folder: PathLike) -> None:
        """Write the index.

        Args:
            folder: a new folder, or one with an index, which is replaced as a whole when the new one is written.

        Raises:
            ValueError: its parent does not exist, or it holds something else.
        """
        with replacing_index(folder) as new:
            self._write(new)
            self._describe(new)

    def _describe(self, folder: Path) -> None:
        """Write ids and settings; the last step, which makes the folder an index."""
        self._ids.save(folder)
        write_manifest(folder, self.kind, {**self._settings, **self._made_by})

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write all that :meth:`_describe` does not."""

    @abstractmethod
    def _find(self, queries: Sequence[str], depth: int) -> Iterable[Found]:
        """For each query the best ``depth`` documents at least, and all those that are tied with the last."""

    def _search(self, queries: Mapping[str, str], depth: int, block: int, progress: Progress | None) -> Run:
        """A run with the best ``depth`` documents of each query; ``block`` queries are searched at once."""
        check_count("depth", depth)
        check_count("block", block)
        queries = as_texts("queries", queries)
        check_texts("queries", queries, empty=True)
        run: dict[str, dict[str, float]] = {}
        names = list(queries)
        for start in range(0, len(names), block):
            part = names[start : start + block]
            for name, (scores, rows) in zip(part, self._find([queries[name] for name in part], depth), strict=True):
                run[name] = best_documents(scores, rows, self._ids, depth)
            if progress is not None:
                progress(len(run), len(names))
        return run
