"""Run files as a stream of blocks of whole queries, in bounded memory.

Two readers give the same blocks. The plain one goes line by line and is the reference: it says what a line
means and what is wrong with it. The fast one lets pyarrow parse the columns; whatever pyarrow does not
accept is handed to the plain reader from that line on, which reads it or names the fault.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmp_rerank.runs.lines import PathLike, malformed, numbered_lines, open_bytes, stem_suffix, text
from cmp_rerank.runs.ranking import check_choice

RUN_FORMATS = ("trec", "msmarco", "top1000", "json")
DUPLICATES = ("error", "first", "last", "max")
NAN = ("error", "lowest", "drop")
EMPTY = ("error", "allow")
_LINES_PER_BLOCK = 200_000
_BYTES_PER_BLOCK = 1 << 24
_COLUMNS = {"trec": ["query", "q0", "doc", "rank", "score", "tag"], "msmarco": ["query", "doc", "rank"]}


@dataclass(frozen=True, eq=False)
class Block:
    """Some whole queries of a run, as columns.

    Attributes:
        queries: Query ids, each once.
        bounds: (queries + 1,) Query i has the rows ``bounds[i]:bounds[i + 1]``.
        docs: (rows,) Document ids: a list, or a pyarrow array.
        scores: (rows,) float64.
        ranks: (rows,) int64, the rank that the file gives.
    """

    queries: list[str]
    bounds: np.ndarray
    docs: Any
    scores: np.ndarray
    ranks: np.ndarray

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
        docs = (
            [self.docs[row] for row in rows.tolist()] if isinstance(self.docs, list) else self.docs.take(rows)
        )
        return Block(
            [self.queries[i] for i in kept.tolist()],
            np.concatenate(([0], np.cumsum(counts[kept]))),
            docs,
            self.scores[rows],
            self.ranks[rows],
        )


def detect_run_format(path: PathLike) -> str:
    """Tell the format of a run file from its name (.json) or its first line.

    Raises:
        ValueError: The first line is not a line of any known format.
    """
    if stem_suffix(path) == ".json":
        return "json"
    for number, line in numbered_lines(path):
        tabs, fields = line.split(b"\t"), line.split()
        if line.lstrip().startswith(b"{"):
            return "json"
        if len(tabs) == 4 and len(fields) != 6:
            return "top1000"
        if len(fields) == 6:
            return "trec"
        if len(fields) == 3:
            return "msmarco"
        raise malformed(
            path,
            number,
            f"not a run: {line[:80]!r} has {len(fields)} fields; expected "
            "'query Q0 document rank score tag' (TREC), 'query<TAB>passage<TAB>rank' (MS MARCO), "
            "'query<TAB>passage<TAB>text<TAB>text' (top1000) or JSON",
        )
    return "trec"  # an empty file; the reader applies its policy for empty runs


def stream_run(
    path: PathLike,
    format: str | None = None,
    *,
    duplicates: str = "error",
    nan: str = "error",
    empty: str = "error",
) -> Iterator[Block]:
    """Read a run file as blocks of whole queries; memory is bounded by the block, not by the file.

    The lines of a query must stand together (they do in every file that a system writes); a file where a
    query comes back later is refused with its line, and :func:`read_run` reads it.

    Args:
        path: TREC run (6 columns), MS MARCO run (3 columns: query, passage, rank; the score is then the
            negative rank), MS MARCO top1000 (query, passage and both texts; ranked as it stands) or JSON
            (query -> document -> score, as in ranx and BEIR); plain or gzip.
        format: One of "trec", "msmarco", "top1000", "json"; None looks at the file.
        duplicates: A document twice in one query: "error", or keep the "first", "last" or "max" score.
        nan: A score that is NaN: "error"; "lowest" ranks it last (as -inf); "drop" leaves the line out.
        empty: A file without any line: "error" or "allow".

    Yields:
        Blocks, in the order of the file.

    Raises:
        ValueError: With file and line, for whatever a policy refuses and for lines that cannot be read.
    """
    seen: set[str] = set()
    for block in stream_pieces(path, format, duplicates=duplicates, nan=nan, empty=empty):
        for query in block.queries:
            if query in seen:
                raise UngroupedError(
                    f"{os.fspath(path)}: the lines of query {query!r} do not stand together; sort the file "
                    "by query (stable), or read it with read_run"
                )
        seen.update(block.queries)
        yield block


class UngroupedError(ValueError):
    """A run file in which a query comes back after another one."""


def stream_pieces(
    path: PathLike, format: str | None, *, duplicates: str, nan: str, empty: str
) -> Iterator[Block]:
    """As :func:`stream_run`, but a query may come back in a later block."""
    check_choice("duplicates", duplicates, DUPLICATES)
    check_choice("nan", nan, NAN)
    check_choice("empty", empty, EMPTY)
    if format is None:
        format = detect_run_format(path)
    check_choice("format", format, RUN_FORMATS)
    rows = 0
    pieces = _json_pieces(path) if format == "json" else _whole_queries(_columns(path, format))
    for block, lines in pieces:
        rows += len(block)
        clean = _apply_duplicates(path, _apply_nan(path, block, lines, nan), duplicates)
        if len(clean):
            yield clean
    if rows == 0 and empty == "error":
        raise ValueError(f"{os.fspath(path)}: the run is empty; pass empty='allow' if that is meant")


# --- columns: (line numbers, queries, docs, scores, ranks), in chunks of the file ---------------------------

Columns = tuple[np.ndarray, Any, Any, np.ndarray, np.ndarray]


def _columns(path: PathLike, format: str) -> Iterator[Columns]:
    done = 0
    delimiter = _plain_delimiter(path, format)
    if delimiter is not None:
        try:
            import pyarrow
        except ImportError:  # it comes with datasets; without it only the speed is lost
            pass
        else:
            try:
                for chunk in _arrow_columns(path, format, delimiter):
                    yield chunk
                    done = int(chunk[0][-1])
                return
            except pyarrow.ArrowInvalid:
                pass
    yield from _line_columns(path, format, done)


def _plain_delimiter(path: PathLike, format: str) -> str | None:
    """The single character between the columns, when the first line has just that."""
    if format == "top1000":
        return None
    for number, line in numbered_lines(path):
        if number != 1:
            return None
        for delimiter in (" ", "\t"):
            if len(line.split(delimiter.encode())) == len(line.split()) == len(_COLUMNS[format]):
                return delimiter
        return None
    return None


def _arrow_columns(path: PathLike, format: str, delimiter: str) -> Iterator[Columns]:
    import pyarrow as pa
    from pyarrow import csv

    types = {"query": pa.string(), "doc": pa.string(), "rank": pa.int64(), "score": pa.float64()}
    wanted = [name for name in _COLUMNS[format] if name in types]
    with open_bytes(path) as file:
        reader = csv.open_csv(
            file,
            # Blank lines are an error here, so that a row number is a line number.
            read_options=csv.ReadOptions(column_names=_COLUMNS[format], block_size=_BYTES_PER_BLOCK),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, quote_char=False, escape_char=False, ignore_empty_lines=False
            ),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=wanted, null_values=[], strings_can_be_null=False
            ),
        )
        first = 1
        for batch in reader:
            rows = batch.num_rows
            if rows == 0:
                continue
            query, doc = batch.column("query"), batch.column("doc")
            ranks = batch.column("rank").to_numpy()
            scores = batch.column("score").to_numpy() if format == "trec" else -ranks.astype(np.float64)
            yield np.arange(first, first + rows), query, doc, scores, ranks
            first += rows


def _line_columns(path: PathLike, format: str, skip: int) -> Iterator[Columns]:
    parse = {"trec": _trec_line, "msmarco": _msmarco_line, "top1000": _top1000_line}[format]
    chunk: list[tuple[int, str, str, float, int]] = []
    for number, line in numbered_lines(path):
        if number <= skip:
            continue
        chunk.append((number, *parse(path, number, line)))
        if len(chunk) == _LINES_PER_BLOCK:
            yield _to_columns(chunk)
            chunk = []
    if chunk:
        yield _to_columns(chunk)


def _to_columns(chunk: list[tuple[int, str, str, float, int]]) -> Columns:
    numbers, queries, docs, scores, ranks = zip(*chunk, strict=True)
    return np.array(numbers), list(queries), list(docs), np.array(scores, dtype=np.float64), np.array(ranks)


def _trec_line(path: PathLike, number: int, line: bytes) -> tuple[str, str, float, int]:
    fields = line.split()
    if len(fields) != 6:
        raise malformed(
            path,
            number,
            f"{len(fields)} fields in {line[:80]!r}; a TREC run line has 6: query Q0 document rank score tag",
        )
    score, rank = _number(path, number, "score", fields[4]), _integer(path, number, "rank", fields[3])
    return text(path, number, fields[0]), text(path, number, fields[2]), score, rank


def _msmarco_line(path: PathLike, number: int, line: bytes) -> tuple[str, str, float, int]:
    fields = line.split()
    if len(fields) != 3:
        raise malformed(
            path,
            number,
            f"{len(fields)} fields in {line[:80]!r}; an MS MARCO run line has 3: query passage rank",
        )
    rank = _integer(path, number, "rank", fields[2])
    return text(path, number, fields[0]), text(path, number, fields[1]), float(-rank), rank


def _top1000_line(path: PathLike, number: int, line: bytes) -> tuple[str, str, float, int]:
    fields = line.split(b"\t")
    if len(fields) != 4:
        raise malformed(
            path,
            number,
            f"{len(fields)} tab-separated fields in {line[:80]!r}; a top1000 line has 4: "
            "query id, passage id, query text, passage text",
        )
    # The file has no rank: the order of its lines is the ranking.
    return text(path, number, fields[0]), text(path, number, fields[1]), float(-number), number


def _number(path: PathLike, number: int, what: str, raw: bytes) -> float:
    try:
        return float(raw)
    except ValueError:
        raise malformed(path, number, f"the {what} is not a number: {raw[:80]!r}") from None


def _integer(path: PathLike, number: int, what: str, raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError:
        raise malformed(path, number, f"the {what} is not an integer: {raw[:80]!r}") from None


# --- blocks of whole queries, with their line numbers -------------------------------------------------------


def _whole_queries(chunks: Iterator[Columns]) -> Iterator[tuple[Block, np.ndarray]]:
    """Cut chunks where a query ends, so that no query is split between two blocks that follow each other."""
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
        return [
            name
            for column in columns
            for name in (column if isinstance(column, list) else column.to_pylist())
        ]
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
    merged = Block(
        list(number), bounds, [docs[row] for row in rows.tolist()], block.scores[rows], block.ranks[rows]
    )
    return merged, lines[rows]


def _json_pieces(path: PathLike) -> Iterator[tuple[Block, np.ndarray]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{os.fspath(path)}: a JSON run maps query to document to score; got {type(content).__name__}"
        )
    for query, scores in content.items():
        if not isinstance(scores, dict):
            raise ValueError(
                f"{os.fspath(path)}: query {query!r} must map documents to scores; got {scores!r:.80}"
            )
        for doc, score in scores.items():
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise ValueError(
                    f"{os.fspath(path)}: query {query!r}, document {doc!r}: the score is not a "
                    f"number: {score!r:.80}"
                )
        n = len(scores)
        ranks = np.arange(1, n + 1)
        if n:
            values = np.fromiter(scores.values(), dtype=np.float64, count=n)
            # JSON has no lines to speak of: the place in the query stands for the line.
            yield Block([query], np.array([0, n]), list(scores), values, ranks), ranks


def read_json(path: PathLike) -> Any:
    """Parse a JSON file, plain or gzip, with file and line in the error; a key twice in one object is one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{os.fspath(path)}: the key {double!r} occurs twice in one JSON object")
        return result

    with open_bytes(path) as file:
        raw = file.read()
    try:
        return json.loads(raw, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise malformed(path, error.lineno, f"not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: not UTF-8 ({error.reason})") from error


# --- policies -----------------------------------------------------------------------------------------------


def _apply_nan(path: PathLike, block: Block, lines: np.ndarray, policy: str) -> tuple[Block, np.ndarray]:
    bad = np.isnan(block.scores)
    if not bad.any():
        return block, lines
    if policy == "error":
        row = int(np.flatnonzero(bad)[0])
        raise malformed(
            path,
            int(lines[row]),
            f"the score of document {block.doc(row)!r} is NaN; pass nan='lowest' to rank it last, "
            "or nan='drop'",
        )
    if policy == "drop":
        rows = np.flatnonzero(~bad)
        return block.take(rows), lines[rows]
    scores = np.where(bad, -math.inf, block.scores)
    return Block(block.queries, block.bounds, block.docs, scores, block.ranks), lines


def _apply_duplicates(path: PathLike, checked: tuple[Block, np.ndarray], policy: str) -> Block:
    block, lines = checked
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
