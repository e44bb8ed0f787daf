"""The rows of a table, one by one: CSV, TSV, JSON lines, a JSON list or parquet; text files plain or gzip."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmp_rerank.ir.json_text import parse_json
from cmp_rerank.ir.lines import PathLike, malformed, numbered_lines, open_bytes, stem_suffix
from cmp_rerank.ir.reading import read_json

#: Where a row stands (for errors), and its cells by column.
Row = tuple[str, Mapping[str, Any]]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# Longer cells than csv reads by default: whole documents.
_LONGEST_CELL = 1 << 30


def read_rows(path: PathLike, *, halves: bool = False) -> Iterator[Row]:
    """Read a table, row by row.

    Args:
        path: The file; its suffix says what it is. CSV and TSV have a line of column names and may have quoted cells.
        halves: Whether JSON lines may hold half of a surrogate pair, see `cmp_rerank.ir.json_text.parse_json`.

    Yields:
        Where the row stands, and its cells by column: text in CSV and TSV, any JSON or parquet value elsewhere.

    Raises:
        ValueError: With file and line, for a row that cannot be read; the suffix is not known.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "pairs.csv")
        >>> _ = path.write_text('query,positive\\nwhat,"this, and that"\\n')
        >>> [cells for _, cells in read_rows(path)]
        [{'query': 'what', 'positive': 'this, and that'}]
    """
    suffix = stem_suffix(path)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, "\t" if suffix == ".tsv" else ",")
    if suffix == ".jsonl":
        return _json_lines(path, halves)
    if suffix == ".json":
        return _json_list(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    raise ValueError(
        f"{os.fspath(path)}: a table is a file of {', '.join(SUFFIXES)}; got {suffix!r}; rename the file"
    )


def _csv_rows(path: PathLike, delimiter: str) -> Iterator[Row]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with open_bytes(path) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            names = reader.fieldnames or []
            double = {name for name in names if names.count(name) > 1}
            if double:
                raise malformed(path, 1, f"each column needs a name of its own; got {sorted(double)[0]!r} twice")
            for cells in reader:
                number = reader.line_num
                if None in cells or None in cells.values():
                    got = sum(value is not None for value in cells.values()) - (None in cells)
                    got += len(cells.get(None, ()))  # type: ignore[call-overload]
                    raise malformed(
                        path, number, f"{got} cells, but {len(names)} columns; quote cells that hold {delimiter!r}"
                    )
                yield f"{os.fspath(path)}, line {number}", cells
    except csv.Error as error:
        raise malformed(
            path, reader.reader.line_num, f"not CSV ({error}); close quotes, and double those in cells"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: not UTF-8 text ({error.reason}); save the table as UTF-8") from error
    finally:
        csv.field_size_limit(before)


def _json_lines(path: PathLike, halves: bool) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        cells = parse_json(path, line, number, halves=halves)
        if not isinstance(cells, dict):
            raise malformed(path, number, f"expected an object, {{column: value}}; got {line[:80]!r}")
        yield f"{os.fspath(path)}, line {number}", cells


def _json_list(path: PathLike) -> Iterator[Row]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{os.fspath(path)}: expected a list of objects; got {rows!r:.80}; name JSON lines .jsonl")
    for number, cells in enumerate(rows, 1):
        where = f"{os.fspath(path)}, row {number}"
        if not isinstance(cells, dict):
            raise ValueError(f"{where}: expected an object, {{column: value}}; got {cells!r:.80}")
        yield where, cells


def _parquet_rows(path: PathLike) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    if not Path(path).is_file():
        raise ValueError(f"{os.fspath(path)}: no such file")
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{os.fspath(path)}, row {number}", cells
    # Damage in the pages is an OSError, and in a text an error of its decoding.
    except (ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{os.fspath(path)}: not a parquet file ({first:.120}); is it whole?") from error
