"""Blocks: whole queries of a run as columns, and the policies for what a run should not hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cmp_rerank.ir.lines import PathLike, malformed

DUPLICATES = ("error", "first", "last", "max")
NAN = ("error", "lowest", "drop")

# (line numbers, queries, docs, scores, ranks), in chunks of a file
Columns = tuple[np.ndarray, Any, Any, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Block:
    """Some whole queries of a run, as columns.

    Attributes:
        queries: Query ids, each once.
        bounds: (queries + 1,) Query i has the rows ``bounds[i]:bounds[i + 1]``.
        docs: (rows,) Document ids: a list, or a pyarrow array.
        scores: (rows,) float64.
        ranks: (rows,) int64, the rank that the file gives, or the place in the query.
        given: Whether the source really gives ranks; a mapping does not, since its order may mean nothing.

    Example:
        >>> (block,) = blocks_of({"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 3.0}})
        >>> block.queries, block.bounds.tolist(), block.doc_list(), block.scores.tolist()
        (['q1', 'q2'], [0, 2, 3], ['a', 'b', 'c'], [2.0, 1.0, 3.0])
    """

    queries: list[str]
    bounds: np.ndarray
    docs: Any
    scores: np.ndarray
    ranks: np.ndarray
    given: bool = True

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def doc(self, row: int) -> str:
        """The document id of one row."""
        doc = self.docs[row]
        return doc if isinstance(doc, str) else doc.as_py()

    def doc_list(self) -> list[str]:
        """All document ids as a list."""
        return self.docs if isinstance(self.docs, list) else self.docs.to_pylist()

    def take(self, rows: np.ndarray) -> Block:
        """The block with these rows only, in the file's order; queries without rows disappear."""
        counts = np.diff(np.searchsorted(rows, self.bounds))
        kept = np.flatnonzero(counts)
        docs = [self.docs[row] for row in rows.tolist()] if isinstance(self.docs, list) else self.docs.take(rows)
        return Block(
            [self.queries[i] for i in kept.tolist()],
            np.concatenate(([0], np.cumsum(counts[kept]))),
            docs,
            self.scores[rows],
            self.ranks[rows],
            self.given,
        )


def blocks_of(run: Mapping[str, Mapping[str, float]], rows: int = 1_000_000) -> Iterator[Block]:
    """A run in memory as blocks of at least `rows` rows; the order of each mapping gives the ranks.

    Raises:
        ValueError: A score is not a number or is NaN, or a document id is not a string.

    Example:
        >>> run = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 3.0}}
        >>> [(block.queries, len(block)) for block in blocks_of(run, rows=2)]
        [(['q1'], 2), (['q2'], 1)]
    """
    queries: list[str] = []
    docs: list[str] = []
    scores: list[float] = []
    sizes: list[int] = []

    def block() -> Block:
        try:
            values = np.array(scores, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(_culprit(run, queries)) from None
        if (
            np.isnan(values).any()
            or not all(isinstance(doc, str) for doc in docs)
            or any(isinstance(score, str) for score in scores)
        ):
            raise ValueError(_culprit(run, queries))
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        places = np.arange(len(docs)) - np.repeat(bounds[:-1], sizes) + 1
        return Block(queries, bounds, docs, values, places, given=False)

    for query, candidates in run.items():
        if candidates:
            queries.append(query)
            docs.extend(candidates)
            scores.extend(candidates.values())
            sizes.append(len(candidates))
        if len(docs) >= rows:
            yield block()
            queries, docs, scores, sizes = [], [], [], []
    if docs:
        yield block()


def _culprit(run: Mapping[str, Mapping[str, float]], queries: Sequence[str]) -> str:
    for query in queries:
        for doc, score in run[query].items():
            if not isinstance(doc, str):
                return f"query {query!r}: document ids are strings; got {doc!r}"
            try:
                bad = isinstance(score, str) or math.isnan(score)
            except TypeError:
                bad = True
            if bad:
                return f"query {query!r}, document {doc!r}: the score must be a number; got {score!r}"
    return "the run holds a score that is not a number"


def whole_queries(chunks: Iterator[Columns], whole: bool = False) -> Iterator[tuple[Block, np.ndarray]]:
    """Cut chunks where a query ends, so that no query is split between two blocks that follow each other.

    Args:
        chunks: Columns of a file, in its order.
        whole: Make one block of everything.

    Yields:
        A block, and the line numbers of its rows.
    """
    if whole:
        everything = list(chunks)
        if everything:
            yield _block(everything)
        return
    waiting: list[Columns] = []  # the last query so far, which the next chunk may continue
    for lines, query, doc, scores, ranks in chunks:
        starts, names = _query_starts(query)
        columns: Columns = (lines, query, doc, scores, ranks)
        if waiting and _first_query(waiting[-1]) != names[0]:
            yield _block(waiting)
            waiting = []
        last = int(starts[-1])
        if last > 0:
            yield _block([*waiting, _cut(columns, 0, last)])
            waiting = []
        waiting.append(_cut(columns, last, len(lines)))
    if waiting:
        yield _block(waiting)


def _first_query(columns: Columns) -> str:
    query = columns[1][0]
    return query if isinstance(query, str) else query.as_py()


def _cut(columns: Columns, start: int, stop: int) -> Columns:
    lines, query, doc, scores, ranks = (column[start:stop] for column in columns)
    return lines, query, doc, scores, ranks


def _query_starts(query: Any) -> tuple[np.ndarray, list[str]]:
    """Where the query changes, and the queries there."""
    if isinstance(query, list):
        starts = [i for i, name in enumerate(query) if i == 0 or name != query[i - 1]]
        return np.array(starts), [query[i] for i in starts]
    import pyarrow.compute as pc

    runs = pc.run_end_encode(query)
    ends = runs.run_ends.to_numpy(zero_copy_only=False)
    return np.concatenate(([0], ends[:-1])), runs.values.to_pylist()


def _block(parts: list[Columns]) -> tuple[Block, np.ndarray]:
    if len(parts) == 1:
        lines, query, doc, scores, ranks = parts[0]
    else:
        lines, scores, ranks = (np.concatenate([part[i] for part in parts]) for i in (0, 3, 4))
        query, doc = _joined([part[1] for part in parts]), _joined([part[2] for part in parts])
    starts, names = _query_starts(query)
    return _merged(Block(names, np.concatenate((starts, [len(scores)])), doc, scores, ranks), lines)


def _joined(columns: Sequence[Any]) -> Any:
    if any(isinstance(column, list) for column in columns):
        return [name for column in columns for name in (column if isinstance(column, list) else column.to_pylist())]
    import pyarrow as pa

    return pa.concat_arrays(columns)


def _merged(block: Block, lines: np.ndarray) -> tuple[Block, np.ndarray]:
    """Bring the pieces of a query that comes back inside the block together."""
    if len(set(block.queries)) == len(block.queries):
        return block, lines
    number: dict[str, int] = {}
    of_piece = np.array([number.setdefault(query, len(number)) for query in block.queries])
    of_row = np.repeat(of_piece, np.diff(block.bounds))
    rows = np.argsort(of_row, kind="stable")
    docs = block.doc_list()
    bounds = np.concatenate(([0], np.cumsum(np.bincount(of_row))))
    merged = Block(list(number), bounds, [docs[row] for row in rows.tolist()], block.scores[rows], block.ranks[rows])
    return merged, lines[rows]


def apply_nan(path: PathLike, block: Block, lines: np.ndarray, policy: str) -> tuple[Block, np.ndarray]:
    """Apply the policy for scores that are NaN."""
    bad = np.isnan(block.scores)
    if not bad.any():
        return block, lines
    if policy == "error":
        row = int(np.flatnonzero(bad)[0])
        raise malformed(
            path,
            int(lines[row]),
            f"the score of document {block.doc(row)!r} is NaN; pass nan='lowest' to rank it last, or nan='drop'",
        )
    if policy == "drop":
        rows = np.flatnonzero(~bad)
        return block.take(rows), lines[rows]
    scores = np.where(bad, -math.inf, block.scores)
    return replace(block, scores=scores), lines


def fingerprints(names: Any) -> np.ndarray:
    """(rows,) 64-bit hashes of the strings of a pyarrow array, several times faster than looking them up.

    Equal strings have equal hashes; whoever uses them must look at the strings where two hashes are equal.

    Example:
        >>> import pyarrow as pa
        >>> a, b, c = fingerprints(pa.array(["7", "7", "a longer name"])).tolist()
        >>> a == b, a == c
        (True, False)
    """
    _, offset_buffer, data = names.buffers()
    rows = len(names)
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)[names.offset : names.offset + rows + 1].astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    content = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    # Every eight bytes as one number, from any byte on; the end is padded so that the last string has eight too.
    padded = np.zeros(int(offsets[-1] - offsets[0]) + 8, dtype=np.uint8)
    padded[: len(padded) - 8] = content[offsets[0] : offsets[-1]]
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
    hashed = lengths.astype(np.uint64)
    for done in range(0, int(lengths.max(initial=0)), 8):
        left = np.clip(lengths - done, 0, 8)
        word = words[np.minimum(starts - offsets[0] + done, len(words) - 1)]
        # Bytes beyond the string belong to the next one.
        word = np.where(left == 8, word, word & ((np.uint64(1) << (left * 8 % 64).astype(np.uint64)) - np.uint64(1)))
        mixed = (hashed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        # A string that ended before is done; how long the others are must not matter to it.
        hashed = mixed if done == 0 else np.where(left > 0, mixed, hashed)
    return hashed


def with_query(hashed: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Hashes of (query number, document) pairs from hashes of documents."""
    return (hashed + query.astype(np.uint64)) * np.uint64(0xD6E8FEB86659FD93) ^ (hashed >> np.uint64(32))


def _may_hold_duplicates(block: Block) -> bool:
    """Quickly, whether a pair may occur twice; False is certain."""
    if isinstance(block.docs, list):
        return True
    query = np.repeat(np.arange(len(block.queries)), np.diff(block.bounds))
    pairs = np.sort(with_query(fingerprints(block.docs), query))
    return bool(np.any(pairs[1:] == pairs[:-1]))


def apply_duplicates(path: PathLike, block: Block, lines: np.ndarray, policy: str) -> Block:
    """Apply the policy for a document that occurs twice in one query."""
    if not _may_hold_duplicates(block):
        return block
    code = _pair_codes(block)
    in_order = np.sort(code)
    if not np.any(in_order[1:] == in_order[:-1]):
        return block
    if policy == "error":
        order = np.argsort(code, kind="stable")
        twice = order[1:][code[order][1:] == code[order][:-1]]
        row = int(twice.min())
        before = int(np.flatnonzero(code == code[row])[0])
        query = block.queries[int(np.searchsorted(block.bounds, row, side="right")) - 1]
        raise malformed(
            path,
            int(lines[row]),
            f"document {block.doc(row)!r} occurs twice for query {query!r} (first in line "
            f"{int(lines[before])}); pass duplicates='first', 'last' or 'max' to keep one",
        )
    # The pair's rows in the order of preference, then the first of each pair.
    rank = np.arange(len(code))
    preference = {"first": rank, "last": -rank, "max": -block.scores}[policy]
    order = np.lexsort((rank, preference, code))
    first = np.concatenate(([True], code[order][1:] != code[order][:-1]))
    return block.take(np.sort(order[first]))


def _pair_codes(block: Block) -> np.ndarray:
    """(rows,) One integer for each (query, document) pair."""
    if isinstance(block.docs, list):
        number: dict[str, int] = {}
        doc = np.array([number.setdefault(name, len(number)) for name in block.docs], dtype=np.int64)
    else:
        doc = block.docs.dictionary_encode().indices.to_numpy().astype(np.int64)
    query = np.repeat(np.arange(len(block.queries), dtype=np.int64), np.diff(block.bounds))
    return (query << 32) | doc
