"""Run files as a stream of blocks of whole queries, in bounded memory.

Two readers give the same blocks. The plain one goes line by line and is the reference: it says what a line
means and what is wrong with it. The fast one lets pyarrow parse the columns; whatever pyarrow does not
accept is handed to the plain reader from that line on, which reads it or names the fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from cmp_rerank.ir.blocks import (
    DUPLICATES,
    NAN,
    Block,
    Columns,
    apply_duplicates,
    apply_nan,
    whole_queries,
)
from cmp_rerank.ir.json_text import parse_json
from cmp_rerank.ir.lines import COMMENT, PathLike, malformed, numbered_lines, open_bytes, stem_suffix, text
from cmp_rerank.ir.ranking import check_choice

RUN_FORMATS = ("trec", "msmarco", "top1000", "json")
EMPTY = ("error", "allow")
_LARGEST_RANK = 2**53  # as far as integers and the scores made of them are the same numbers
_LINES_PER_BLOCK = 200_000
_BYTES_PER_BLOCK = 1 << 22
_COLUMNS = {"trec": ["query", "q0", "doc", "rank", "score", "tag"], "msmarco": ["query", "doc", "rank"]}


def detect_run_format(path: PathLike) -> str:
    """Detect the format of a run file by its name (.json) or its first line.

    Raises:
        ValueError: The first line is not a line of any known format.
    """
    if stem_suffix(path) == ".json":
        return "json"
    for number, line in numbered_lines(path, comments=True):
        tabs, fields = line.split(b"\t"), line.split()
        if line.lstrip().startswith(b"{"):
            return "json"
        if len(fields) == 4 and fields[1] in (b"0", b"Q0") and fields[3].lstrip(b"-").isdigit():
            raise malformed(
                path,
                number,
                f"this is a line of qrels, not of a run: {line[:80]!r}; swapped? It is evaluate(run, qrels)",
            )
        # Six words may be a TREC line that has tabs between some columns only: rank and score tell.
        if len(tabs) == 4 and not (len(fields) == 6 and all(map(_is_number, fields[3:5]))):
            return "top1000"
        if len(fields) >= 6:
            return "trec"
        if len(fields) == 3:
            return "msmarco"
        raise malformed(
            path,
            number,
            f"not a run: {line[:80]!r} has {len(fields)} fields; it must be "
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
    whole: bool = False,
    ranks: bool = False,
) -> Iterator[Block]:
    """Read a run file as blocks of whole queries; memory is bounded by the block, not by the file.

    The lines of a query must be adjacent, as they are in every file that a system writes. JSON is not a
    format for streaming: it is read at once.

    Args:
        path: TREC run (6 columns; as for trec_eval 10, lines that begin with "#" are comments, and what stands
            after the sixth column is ignored), MS MARCO run (3 columns: query, passage, rank; the score is then the
            negative rank), MS MARCO top1000 (query, passage and both texts; ranked as it stands) or JSON
            (query -> document -> score, as in ranx and BEIR); plain or gzip.
        format: One of "trec", "msmarco", "top1000", "json"; None looks at the file.
        duplicates: A document twice in one query: "error", or keep the "first", "last" or "max" score.
        nan: A score that is NaN: "error"; "lowest" ranks it last (as -inf); "drop" leaves the line out.
        empty: A file without any line: "error" or "allow".
        whole: Read the whole file as one block, for a file whose lines are not grouped by query.
        ranks: Whether the rank column of a TREC run is needed, and must hold integers. By default any other value
            in it is taken, as by trec_eval, which does not look at it.

    Yields:
        Blocks, in the order of the file; a query is in one block only.

    Raises:
        UngroupedError: A query comes back after another one, and `whole` is not set.
        ValueError: With file and line, for whatever a policy refuses and for lines that cannot be read; for three
            columns of which the last looks like scores, if `format` is not given.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "bm25.run")
        ...     _ = path.write_text("q1 Q0 d7 1 12.5 bm25\\nq1 Q0 d3 2 11.25 bm25\\n")
        ...     [(block.queries, block.doc_list()) for block in stream_run(path)]
        [(['q1'], ['d7', 'd3'])]
    """
    check_choice("duplicates", duplicates, DUPLICATES)
    check_choice("nan", nan, NAN)
    check_choice("empty", empty, EMPTY)
    detected = detect_run_format(path) if format is None else format
    check_choice("format", detected, RUN_FORMATS)
    empty_file, rises, falls = True, False, False
    unranked: str | None = None
    looked_for = format is None and detected == "msmarco"
    seen: set[str] = set()
    pieces = _json_pieces(path) if detected == "json" else whole_queries(_columns(path, detected, ranks), whole)
    for block, lines in pieces:
        steps = _steps(block)
        rises, falls = rises or bool((steps > 0).any()), falls or bool((steps < 0).any())
        if unranked is None and looked_for:
            unranked = _unranked(block)
        empty_file = False
        for query in block.queries:
            if query in seen:
                raise UngroupedError(
                    f"{os.fspath(path)}: the lines of query {query!r} are not adjacent; sort the file "
                    "by query (stable), or read it whole"
                )
        seen.update(block.queries)
        clean = apply_duplicates(path, *apply_nan(path, block, lines, nan), duplicates)
        if len(clean):
            yield clean
    # The best comes first in whatever systems write: ranks rise and scores fall. Read as ranks, scores would turn the
    # run upside down.
    if looked_for and (unranked is not None or (falls and not rises)):
        found = (
            "falls from line to line in every query, as scores do"
            if falls and not rises
            else f"has no ranks of query {unranked!r:.80}"
        )
        raise ValueError(
            f"{os.fspath(path)}: the third column {found}; a run of three columns has ranks, best first: "
            "1, 2, ...; write scores in six: query Q0 document rank score tag; if these are ranks, sort by them"
        )
    if empty_file and empty == "error":
        raise ValueError(f"{os.fspath(path)}: the run is empty; pass empty='allow' if that is meant")


def _steps(block: Block) -> np.ndarray:
    """How the ranks change from line to line, within a query."""
    inside = np.ones(max(len(block) - 1, 0), dtype=bool)
    inside[block.bounds[1:-1] - 1] = False
    return np.diff(block.ranks)[inside]


def _unranked(block: Block) -> str | None:
    """A query whose ranks are negative, or neither in order nor all of 1, 2, ... (or 0, 1, ...)."""
    starts, sizes = block.bounds[:-1], np.diff(block.bounds)
    least, most = (reduce.reduceat(block.ranks, starts) for reduce in (np.minimum, np.maximum))
    falling = np.zeros(len(block), dtype=bool)
    falling[1:] = np.diff(block.ranks) < 0
    falling[starts] = False
    all_there = (least <= 1) & (most - least == sizes - 1)
    odd = np.flatnonzero((least < 0) | (np.logical_or.reduceat(falling, starts) & ~all_there))
    return block.queries[odd[0]] if len(odd) else None


class UngroupedError(ValueError):
    """A run file in which a query comes back after another one.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "bm25.run")
        ...     _ = path.write_text("q1 Q0 d7 1 2 x\\nq2 Q0 d7 1 2 x\\nq1 Q0 d3 2 1 x\\n")
        ...     try:
        ...         blocks = list(stream_run(path))
        ...     except UngroupedError:
        ...         blocks = list(stream_run(path, whole=True))
        ...     len(blocks)
        1
    """


# --- columns: (line numbers, queries, docs, scores, ranks), in chunks of the file ---------------------------


def _columns(path: PathLike, format: str, need_ranks: bool) -> Iterator[Columns]:
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
    yield from _line_columns(path, format, done, need_ranks)


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


class _Checked:
    """A file for pyarrow, which refuses what pyarrow would read in another way than the plain reader.

    With these bytes absent and the number of columns right, a column is never empty and holds no white space. A line
    that begins with "#" may be a comment.
    """

    def __init__(self, file: BinaryIO, delimiter: str, refuse: type[Exception]) -> None:
        self._file, self._refuse, self._last = file, refuse, b"\n"
        self._bad = [c for c in (b" ", b"\t", b"\r", b"\v", b"\f") if c != delimiter.encode()]

    def read(self, size: int = -1) -> bytes:
        """Read bytes, or raise."""
        chunk = self._file.read(size)
        # Two of them together make an empty column or an empty line. All white space is below 33.
        white = np.frombuffer(self._last + chunk, dtype=np.uint8) <= 32
        if np.any(white[1:] & white[:-1]) or any(bad in chunk for bad in self._bad):
            raise self._refuse("white space that only the plain reader understands")
        if b"\n" + COMMENT in self._last + chunk:
            raise self._refuse("a comment that only the plain reader understands")
        self._last = chunk[-1:] or self._last
        return chunk

    @property
    def closed(self) -> bool:
        """Whether the file is closed; pyarrow asks."""
        return self._file.closed


def _arrow_columns(path: PathLike, format: str, delimiter: str) -> Iterator[Columns]:
    import pyarrow as pa
    from pyarrow import csv

    types = {"query": pa.string(), "doc": pa.string(), "rank": pa.int64(), "score": pa.float64()}
    wanted = [name for name in _COLUMNS[format] if name in types]
    with open_bytes(path) as file:
        reader = csv.open_csv(
            _Checked(file, delimiter, pa.ArrowInvalid),
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


def _line_columns(path: PathLike, format: str, skip: int, need_ranks: bool) -> Iterator[Columns]:
    parsers: dict[str, Callable[[PathLike, int, bytes], tuple[str, str, float, int]]] = {
        "trec": partial(_trec_line, need_rank=need_ranks),
        "msmarco": _msmarco_line,
        "top1000": _Top1000Lines(),
    }
    parse = parsers[format]
    chunk: list[tuple[int, str, str, float, int]] = []
    for number, line in numbered_lines(path, comments=format == "trec"):
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


def _trec_line(path: PathLike, number: int, line: bytes, need_rank: bool) -> tuple[str, str, float, int]:
    fields = line.split(None, 6)
    if len(fields) < 6:
        raise malformed(
            path,
            number,
            f"{len(fields)} fields in {line[:80]!r}; a TREC run line has 6: query Q0 document rank score tag",
        )
    if len(fields) > 6 and line.count(b"\t") == 5 and line.split(b"\t")[:5] != fields[:5]:
        raise malformed(
            path,
            number,
            f"{line[:80]!r} has six columns by its tabs, and more by its white space; an id in a file of columns "
            "must have no white space: rename it, or write JSON",
        )
    try:
        score = float(fields[4])
    except ValueError:
        raise malformed(path, number, f"the score is not a number: {fields[4][:80]!r}") from None
    try:
        rank = _rank(path, number, fields[3])
    except ValueError:
        if need_rank or len(fields) > 6:  # with too many fields, the columns are shifted
            raise
        rank = 0  # nobody looks at it
    return text(path, number, fields[0]), text(path, number, fields[2]), score, rank


def _msmarco_line(path: PathLike, number: int, line: bytes) -> tuple[str, str, float, int]:
    fields = line.split()
    if len(fields) != 3:
        raise malformed(
            path,
            number,
            f"{len(fields)} fields in {line[:80]!r}; an MS MARCO run line has 3: query passage rank",
        )
    rank = _rank(path, number, fields[2])
    return text(path, number, fields[0]), text(path, number, fields[1]), float(-rank), rank


class _Top1000Lines:
    """Lines of top1000, which have no rank: the place among the lines of a query is the rank."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, path: PathLike, number: int, line: bytes) -> tuple[str, str, float, int]:
        fields = line.split(b"\t")
        if len(fields) != 4:
            raise malformed(
                path,
                number,
                f"{len(fields)} tab-separated fields in {line[:80]!r}; a top1000 line has 4: "
                "query id, passage id, query text, passage text",
            )
        query = text(path, number, fields[0])
        place = self.places[query] = self.places.get(query, 0) + 1
        return query, text(path, number, fields[1]), float(-place), place


def _is_number(raw: bytes) -> bool:
    try:
        float(raw)
    except ValueError:
        return False
    return True


def _rank(path: PathLike, number: int, raw: bytes) -> int:
    try:
        value = int(raw)
        if abs(value) > _LARGEST_RANK:
            raise ValueError
    except ValueError:
        raise malformed(path, number, f"the rank is not an integer: {raw[:80]!r}") from None
    return value


def _json_pieces(path: PathLike) -> Iterator[tuple[Block, np.ndarray]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{os.fspath(path)}: a JSON run maps query to document to score; got {type(content).__name__}"
        )
    queries: list[str] = []
    docs: list[str] = []
    columns: list[np.ndarray] = []
    sizes: list[int] = []

    def piece() -> tuple[Block, np.ndarray]:
        # JSON has no lines to speak of: the place in the query stands for the line.
        places = np.concatenate([np.arange(1, size + 1) for size in sizes])
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        return Block(queries, bounds, docs, np.concatenate(columns), places, given=False), places

    for query, scores in content.items():
        values = _json_scores(path, query, scores)
        if len(values):
            queries.append(query)
            docs.extend(scores)
            columns.append(values)
            sizes.append(len(values))
        if len(docs) >= _LINES_PER_BLOCK:
            yield piece()
            queries, docs, columns, sizes = [], [], [], []
    if docs:
        yield piece()


def _json_scores(path: PathLike, query: str, scores: Any) -> np.ndarray:
    """(documents,) The scores of one query of a JSON run."""
    if not isinstance(scores, dict):
        raise ValueError(f"{os.fspath(path)}: query {query!r} must map documents to scores; got {scores!r:.80}")
    for doc, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(
                f"{os.fspath(path)}: query {query!r}, document {doc!r}: the score is not a number: {score!r:.80}"
            )
    try:
        return np.fromiter(scores.values(), dtype=np.float64, count=len(scores))
    except OverflowError:
        raise ValueError(
            f"{os.fspath(path)}: query {query!r}: a score is too large for a 64-bit number; got "
            f"{max(scores.values(), key=abs)!r:.20}..."
        ) from None


def read_json(path: PathLike, *, halves: bool = False) -> Any:
    """Parse a JSON file, plain or gzip; the errors, and ``halves``, are those of :func:`parse_json`."""
    with open_bytes(path) as file:
        raw = file.read()
    return parse_json(path, raw, halves=halves)
