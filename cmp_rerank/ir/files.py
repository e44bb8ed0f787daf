"""Runs and qrels as dictionaries, read from and written to the formats of the field."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmp_rerank.ir.arguments import check_run
from cmp_rerank.ir.blocks import DUPLICATES, Block
from cmp_rerank.ir.grades import as_grade, read_grade
from cmp_rerank.ir.lines import (
    COMMENT,
    PathLike,
    malformed,
    numbered_lines,
    replacing,
    stem_suffix,
    text,
    write_lines,
)
from cmp_rerank.ir.ranking import RANK_ORDERS, check_choice, rank
from cmp_rerank.ir.reading import EMPTY, RUN_FORMATS, UngroupedError, read_json, stream_run

Run = Mapping[str, Mapping[str, float]]
"""Scores by document id, by query id: ``{"q1": {"d7": 12.5, "d3": 11.25}}``. The order of a mapping means nothing."""
Qrels = Mapping[str, Mapping[str, int]]
"""Grades by document id, by query id: ``{"q1": {"d7": 1, "d3": 0}}``. 0 is judged, and not relevant."""
QRELS_FORMATS = ("trec", "msmarco", "beir", "json")
_BEIR_HEADER = ["query-id", "corpus-id", "score"]


def read_run(
    path: PathLike,
    format: str | None = None,
    *,
    rank_order: str = "score",
    duplicates: str = "error",
    nan: str = "error",
    empty: str = "error",
) -> dict[str, dict[str, float]]:
    """Read a whole run into memory.

    For a run of millions of lines, :func:`stream_run` needs no more memory than a block, and
    :func:`cmp_rerank.evaluation.evaluate` takes the path itself.

    Args:
        path: TREC run, MS MARCO run (3 columns), MS MARCO top1000 or JSON; plain or gzip.
        format: One of "trec", "msmarco", "top1000", "json"; None looks at the file.
        rank_order: "score" keeps the order of the file's lines, since scores decide; "given" puts the
            documents of each query in the order of the file's rank column, for use with
            ``rank_order="given"`` elsewhere.
        duplicates: A document twice in one query: "error", or keep the "first", "last" or "max" score.
        nan: A score that is NaN: "error"; "lowest" ranks it last (as -inf); "drop" leaves the line out.
        empty: A file without any line: "error" or "allow".

    Returns:
        Query id -> document id -> score. Where the file has no scores, the score is the negative rank.

    Raises:
        ValueError: With file and line, for lines that cannot be read and for what a policy refuses.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "bm25.run")
        ...     _ = path.write_text("q1 Q0 d7 1 12.5 bm25\\nq1 Q0 d3 2 11.25 bm25\\n")
        ...     read_run(path)
        {'q1': {'d7': 12.5, 'd3': 11.25}}
    """
    check_choice("rank_order", rank_order, RANK_ORDERS)
    policies: dict[str, Any] = {"duplicates": duplicates, "nan": nan, "empty": empty, "ranks": rank_order == "given"}
    try:
        return _as_dict(stream_run(path, format, **policies), rank_order)
    except UngroupedError:
        return _as_dict(stream_run(path, format, whole=True, **policies), rank_order)


def _as_dict(blocks: Iterator[Block], rank_order: str) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    for block in blocks:
        docs, scores, bounds = block.doc_list(), block.scores.tolist(), block.bounds.tolist()
        for query, start, stop in zip(block.queries, bounds[:-1], bounds[1:], strict=True):
            if rank_order == "given":
                by_rank = np.argsort(block.ranks[start:stop], kind="stable").tolist()
                run[query] = {docs[start + i]: scores[start + i] for i in by_rank}
            else:
                run[query] = dict(zip(docs[start:stop], scores[start:stop], strict=True))
    return run


def write_run(
    path: PathLike,
    run: Run | Iterable[tuple[str, Mapping[str, float]]],
    tag: str = "cmp_rerank",
    *,
    format: str | None = None,
) -> None:
    """Write a run, ranked by :func:`rank`.

    Scores are written with all their digits, so that reading the file gives the same numbers back.

    Args:
        path: Where to write; gzip when the name ends in .gz.
        run: Query id -> document id -> score; or pairs of a query id and its scores, which are written as they come,
            so that the run need not be in memory.
        tag: Name of the system, the last column of a TREC run.
        format: "trec", "msmarco" (3 columns, ranks only) or "json"; None means json for .json, msmarco for
            .tsv, else trec.

    Raises:
        ValueError: A score is NaN, an id or the tag is empty or holds white space (which would break the
            columns), or the folder does not exist. Then no file is written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "tuned.run")
        ...     write_run(path, {"q1": {"d3": 0.25, "d7": 1.5}}, tag="tuned")
        ...     print(path.read_text(), end="")
        q1 Q0 d7 1 1.5 tuned
        q1 Q0 d3 2 0.25 tuned
    """
    pairs = run.items() if isinstance(run, Mapping) else run
    write_ranked(path, ((query, dict(rank(scores))) for query, scores in pairs), tag, format=format)


def write_ranked(
    path: PathLike,
    ranked: Iterable[tuple[str, Mapping[str, float]]],
    tag: str = "cmp_rerank",
    *,
    format: str | None = None,
) -> None:
    """Write queries with their documents, best first, as they come; see :func:`write_run`.

    Of a format in lines, no more than one query is in memory.
    """
    if format is None:
        format = {".json": "json", ".tsv": "msmarco"}.get(stem_suffix(path), "trec")
    check_choice("format", format, tuple(name for name in RUN_FORMATS if name != "top1000"))
    if format == "json":
        content = dict(ranked)
        check_run("run", content)
        _write_json(path, content)
        return

    check_id("tag", tag)
    write_lines(path, trec_lines(ranked, tag) if format == "trec" else _msmarco_lines(ranked))


def tag_of(name: PathLike) -> str:
    """The tag of what has no other name than that of its kind or file: without folder, suffix and white space.

    Example:
        >>> tag_of("bm25"), tag_of("runs/my first.run")
        ('bm25', 'my_first')
    """
    return "_".join(Path(name).stem.split()) or "run"


def trec_lines(ranked: Iterable[tuple[str, Mapping[str, float]]], tag: str = "cmp_rerank") -> Iterator[str]:
    """The lines of a TREC run, from queries with their documents, best first.

    Raises:
        ValueError: An id is empty or holds white space.

    Example:
        >>> list(trec_lines([("q", {"b": 2.0, "a": 1.0})], "bm25"))
        ['q Q0 b 1 2.0 bm25\\n', 'q Q0 a 2 1.0 bm25\\n']
    """
    for query, place, doc, score in _places(ranked):
        yield f"{query} Q0 {doc} {place} {score!r} {tag}\n"


def _msmarco_lines(ranked: Iterable[tuple[str, Mapping[str, float]]]) -> Iterator[str]:
    for query, place, doc, _ in _places(ranked):
        yield f"{query}\t{doc}\t{place}\n"


def _places(ranked: Iterable[tuple[str, Mapping[str, float]]]) -> Iterator[tuple[str, int, str, float]]:
    for query, scores in ranked:
        _check_query(query)
        for place, (doc, score) in enumerate(scores.items(), 1):
            check_id("document id", doc)
            yield query, place, doc, score


def read_qrels(
    path: PathLike, format: str | None = None, *, duplicates: str = "error", empty: str = "error"
) -> dict[str, dict[str, int]]:
    """Read relevance judgments.

    Args:
        path: TREC qrels and MS MARCO TSV (4 columns: query, 0, document, grade), BEIR TSV (3 columns with or
            without header) or JSON (query -> document -> grade); plain or gzip. As for trec_eval 10, a line that
            begins with "#" is a comment.
        format: One of "trec", "msmarco", "beir", "json"; None looks at the file.
        duplicates: A pair judged twice with two grades: "error", or keep the "first", "last" or "max" grade.
        empty: A file without any judgment: "error" or "allow".

    Returns:
        Query id -> document id -> grade. Grade 0 is judged and not relevant. A grade may be written 1.0.

    Raises:
        ValueError: With file and line, for lines that cannot be read and for what a policy refuses.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "qrels.txt")
        ...     _ = path.write_text("q1 0 d7 1\\nq1 0 d3 0\\n")
        ...     read_qrels(path)
        {'q1': {'d7': 1, 'd3': 0}}
    """
    check_choice("duplicates", duplicates, DUPLICATES)
    check_choice("empty", empty, EMPTY)
    if format is not None:
        check_choice("format", format, QRELS_FORMATS)
    if format == "json" or (format is None and stem_suffix(path) == ".json"):
        qrels = _check_grades(path, read_json(path))
    else:
        qrels = _read_qrels_lines(path, format, duplicates)
    if not any(qrels.values()) and empty == "error":
        raise ValueError(f"{os.fspath(path)}: there is no judgment in it; pass empty='allow' if that is meant")
    return qrels


def _read_qrels_lines(path: PathLike, format: str | None, duplicates: str) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    width = {None: 0, "trec": 4, "msmarco": 4, "beir": 3}[format]
    for number, line in numbered_lines(path, comments=True):
        fields = line.split()
        if not qrels and width in (0, 3) and [field.decode("latin-1") for field in fields] == _BEIR_HEADER:
            width = 3
            continue
        if width == 0:
            width = len(fields)
        if len(fields) >= 6 and not qrels:
            raise malformed(
                path,
                number,
                f"this is a line of a run, not of qrels: {line[:80]!r}; swapped? It is evaluate(run, qrels)",
            )
        if len(fields) != width or width not in (3, 4):
            raise malformed(
                path,
                number,
                f"{len(fields)} fields in {line[:80]!r}; it must be 'query 0 document grade' "
                "(TREC, MS MARCO) or 'query document grade' (BEIR), with ids without white space",
            )
        # Three columns of BEIR, one with a space in it, are four fields, too. The second of TREC's is a 0, which may
        # also end an id of BEIR, whose files are .tsv.
        trec = fields[1] in (b"0", b"Q0") and stem_suffix(path) != ".tsv"
        if format is None and width == 4 and line.strip().count(b"\t") == 2 and not trec:
            raise malformed(
                path,
                number,
                f"{line[:80]!r} has three columns by its tabs, and four by its white space; an id in a file of "
                "columns must have no white space: rename it, or write JSON",
            )
        query, doc = text(path, number, fields[0]), text(path, number, fields[-2])
        try:
            grade = read_grade(fields[-1])
        except ValueError as error:
            raise malformed(path, number, str(error)) from None
        grades = qrels.setdefault(query, {})
        if doc not in grades or duplicates == "last":
            grades[doc] = grade
        elif duplicates == "max":
            grades[doc] = max(grade, grades[doc])
        elif duplicates == "error" and grade != grades[doc]:
            raise malformed(
                path,
                number,
                f"document {doc!r} is judged twice for query {query!r} ({grades[doc]} and {grade}); pass "
                "duplicates='first', 'last' or 'max' to keep one",
            )
    return qrels


def _check_grades(path: PathLike, content: Any) -> dict[str, dict[str, int]]:
    if not isinstance(content, dict):
        raise ValueError(
            f"{os.fspath(path)}: JSON qrels map query to document to grade; got {type(content).__name__}"
        )
    for query, grades in content.items():
        if not isinstance(grades, dict):
            raise ValueError(f"{os.fspath(path)}: query {query!r} must map documents to grades; got {grades!r:.80}")
        for doc, grade in grades.items():
            try:
                grades[doc] = as_grade(grade)
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)}: query {query!r}, document {doc!r}: {error}") from None
    return content


def write_qrels(path: PathLike, qrels: Qrels, *, format: str | None = None) -> None:
    """Write relevance judgments.

    Args:
        path: Where to write; gzip when the name ends in .gz.
        qrels: Query id -> document id -> grade.
        format: "trec" (spaces), "msmarco" (tabs), "beir" (header) or "json"; None means json for .json, beir
            for .tsv, else trec.

    Raises:
        ValueError: A grade is not an integer, an id is empty or holds white space, or the folder does not
            exist. Then no file is written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "qrels.txt")
        ...     write_qrels(path, {"q1": {"d7": 1, "d3": 0}})
        ...     print(path.read_text(), end="")
        q1 0 d7 1
        q1 0 d3 0
    """
    if format is None:
        format = {".json": "json", ".tsv": "beir"}.get(stem_suffix(path), "trec")
    check_choice("format", format, QRELS_FORMATS)
    check_run("qrels", qrels)
    for query, grades in qrels.items():
        for doc, grade in grades.items():
            try:
                as_grade(grade)
            except ValueError as error:
                raise ValueError(f"query {query!r}, document {doc!r}: {error}") from None
    if format == "json":
        _write_json(path, {query: {doc: int(g) for doc, g in grades.items()} for query, grades in qrels.items()})
        return

    def lines() -> Iterator[str]:
        if format == "beir":
            yield "\t".join(_BEIR_HEADER) + "\n"
        for query, grades in qrels.items():
            _check_query(query)
            for doc, grade in grades.items():
                check_id("document id", doc)
                yield template.format(query, doc, int(grade))

    template = {"trec": "{} 0 {} {}\n", "msmarco": "{}\t0\t{}\t{}\n", "beir": "{}\t{}\t{}\n"}[format]
    write_lines(path, lines())


def _check_query(query: str) -> None:
    """Refuse a query id that cannot begin a line."""
    check_id("query id", query)
    if query.startswith(COMMENT.decode()):
        raise ValueError(f"the query id {query!r} would begin a comment, as of trec_eval 10; use another id, or JSON")


def check_id(what: str, value: str) -> None:
    """Refuse an id that would break the columns of a file.

    Raises:
        ValueError: It is empty, holds white space, or is no string.
    """
    if not isinstance(value, str):
        raise ValueError(f"a {what} is a string; got {value!r}")
    if not value or any(character in value for character in " \t\n\r\v\f"):
        raise ValueError(f"the {what} {value!r} cannot stand in a file of columns: it is empty or holds white space")


def _write_json(path: PathLike, content: Any) -> None:
    import json

    with replacing(path) as file:
        json.dump(content, file, ensure_ascii=False)
