"""A run from a file as columns: a fraction of the memory of dictionaries, for runs of millions of lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from cmp_rerank.ir.blocks import Block
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.ir.reading import UngroupedError, stream_run


class RunColumns(Mapping[str, Mapping[str, float]]):
    """A run, query id -> document id -> score, whose dictionaries are made when they are asked for.

    A line takes about 30 bytes: its document id, its score and its rank.

    Args:
        blocks: The run, a query in one block only.
        by_rank: Whether the ranks that the file gives count, in place of its scores; the score is then the negative
            place by rank.

    Example:
        >>> from cmp_rerank.ir import blocks_of
        >>> run = RunColumns(blocks_of({"q": {"a": 1.0, "b": 2.0}, "r": {"c": 0.0}}))
        >>> list(run), run["q"], "s" in run
        (['q', 'r'], {'a': 1.0, 'b': 2.0}, False)
    """

    def __init__(self, blocks: Iterable[Block], by_rank: bool = False) -> None:
        self._blocks = list(blocks)
        self._by_rank = by_rank
        self._place = {
            query: (number, row)
            for number, block in enumerate(self._blocks)
            for row, query in enumerate(block.queries)
        }

    @classmethod
    def read(cls, path: PathLike, by_rank: bool = False) -> RunColumns:
        """Read a file.

        Args:
            path: A run in any format of :func:`cmp_rerank.ir.read_run`.
            by_rank: See the class.

        Raises:
            ValueError: With file and line, for lines that cannot be read.
        """
        try:
            return cls(stream_run(path, ranks=by_rank), by_rank)
        except UngroupedError:
            return cls(stream_run(path, whole=True, ranks=by_rank), by_rank)

    def __getitem__(self, query: str) -> dict[str, float]:
        number, row = self._place[query]
        block = self._blocks[number]
        start, stop = block.bounds[row : row + 2].tolist()
        documents = block.docs[start:stop]
        names = documents if isinstance(documents, list) else documents.to_pylist()
        if not self._by_rank:
            return dict(zip(names, block.scores[start:stop].tolist(), strict=True))
        order = np.argsort(block.ranks[start:stop], kind="stable").tolist()
        return {names[row]: -float(place) for place, row in enumerate(order, 1)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, query: object) -> bool:
        return query in self._place
