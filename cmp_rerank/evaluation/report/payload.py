"""What the report shows, as compact data: values of all queries, and rankings and texts in packed chunks.

The page holds everything for thousands of queries and must still open at once. So the list and the plots get
plain numbers, while rankings and texts lie in gzip chunks that the browser unpacks when a query is opened.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmp_rerank.evaluation.comparison import Comparison
from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.ranked import order_rows
from cmp_rerank.ir import Qrels, Run, UngroupedError, blocks_of, stream_run

QUERIES_PER_CHUNK = 50
DOCS_PER_CHUNK = 400
_SURROGATE = re.compile("[\ud800-\udfff]")
_RELEVANT_BELOW = 8  # relevant documents below the depth that are listed by name


def rankings(
    run: Run | str | os.PathLike[str], judged: Judgments, options: Mapping[str, Any]
) -> Iterator[tuple[str, list[str], list[float]]]:
    """(query, documents, scores), best first, for the judged queries of a run or run file."""
    if isinstance(run, Mapping):
        blocks = blocks_of(run)
    else:
        reading = {name: options[name] for name in ("duplicates", "nan", "empty", "format") if name in options}
        reading["ranks"] = options.get("rank_order") == "given"
        try:
            for block in stream_run(run, **reading):
                yield from _of_block(block, judged, options)
        except UngroupedError:
            blocks = stream_run(run, **reading, whole=True)
        else:
            return
    for block in blocks:
        yield from _of_block(block, judged, options)


def _of_block(
    block: Any, judged: Judgments, options: Mapping[str, Any]
) -> Iterator[tuple[str, list[str], list[float]]]:
    order, _ = order_rows(block, options.get("rank_order", "score"), options.get("precision", "double"))
    docs, scores = block.doc_list(), block.scores.tolist()
    for i, query in enumerate(block.queries):
        if query in judged.query_number:
            rows = order[block.bounds[i] : block.bounds[i + 1]].tolist()
            yield query, [docs[row] for row in rows], [scores[row] for row in rows]


def details(
    runs: Mapping[str, Run | str | os.PathLike[str]],
    judged: Judgments,
    qrels: Qrels,
    depth: int,
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """For each query the top of every system, and the rank that each system gives to what is shown.

    Two passes over each run keep the memory at what is shown, however deep the runs are.
    """
    shown: dict[str, dict[str, Any]] = {
        query: {"tops": {name: ([], []) for name in runs}, "ranks": {name: {} for name in runs}}
        for query in judged.queries
    }
    for name, run in runs.items():
        for query, docs, scores in rankings(run, judged, options):
            shown[query]["tops"][name] = (docs[:depth], scores[:depth])
    for query, entry in shown.items():
        wanted = dict.fromkeys(doc for docs, _ in entry["tops"].values() for doc in docs)
        relevant = sorted((-grade, doc) for doc, grade in qrels[query].items() if grade > 0 and doc not in wanted)
        entry["below"] = [doc for _, doc in relevant[:_RELEVANT_BELOW]]
        entry["more"] = [-grade for grade, _ in relevant[_RELEVANT_BELOW:]]
        entry["wanted"] = set(wanted) | set(entry["below"])
    for name, run in runs.items():
        for query, docs, _ in rankings(run, judged, options):
            wanted = shown[query]["wanted"]
            shown[query]["ranks"][name] = {doc: rank for rank, doc in enumerate(docs, 1) if doc in wanted}
    return shown


def payload(
    comparison: Comparison,
    shown: Mapping[str, Mapping[str, Any]],
    qrels: Qrels,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    *,
    depth: int,
    text_chars: int,
    levels: Sequence[int],
) -> dict[str, Any]:
    """Everything for the page's script.

    Args:
        comparison: The systems.
        shown: What `details` gives.
        qrels: Query id -> document id -> grade.
        queries: Query id -> text.
        corpus: Document id -> text; without any, no text is missing.
        depth: How many documents of each ranking are shown.
        text_chars: Longest text of a document.
        levels: For each measure the grade that a relevant document has at least.

    Returns:
        ``values[system][measure]`` has the values of all queries; ``detail`` and ``docs`` are chunks: gzip,
        base64. A detail is ``[tops, below, more]`` with ``tops[system] = [[doc, score, ...], ...]``, and ``more`` has
        the grades of the documents that are not listed by name. ``relevant[level]`` counts for all queries. The text
        of a document that the corpus lacks is null.
    """
    number: dict[str, int] = {}
    systems = comparison.systems

    def doc_number(doc: str) -> int:
        return number.setdefault(doc, len(number))

    records = []
    for query in comparison.queries:
        entry = shown[query]
        grades = qrels[query]

        def item(doc: str, entry: Mapping[str, Any] = entry, grades: Mapping[str, int] = grades) -> list[Any]:
            # document, grade or null, rank in each system or 0
            return [doc_number(doc), grades.get(doc), *(entry["ranks"][name].get(doc, 0) for name in systems)]

        tops = [
            [[*item(doc), _short(score)] for doc, score in zip(*entry["tops"][name], strict=True)] for name in systems
        ]
        records.append([tops, [item(doc) for doc in entry["below"]], entry["more"]])
    texts = {doc: corpus.get(doc) for doc in number}
    docs = [[written(doc), None if text is None else clip(written(text), text_chars)] for doc, text in texts.items()]
    return {
        "systems": list(systems),
        "baseline": systems.index(comparison.baseline),
        "measures": list(comparison.measures),
        "depth": depth,
        "hasText": bool(corpus),
        "ids": list(comparison.queries),
        "texts": [clip(queries.get(query, ""), 300) for query in comparison.queries],
        "levels": list(levels),
        "relevant": {
            level: [sum(grade >= level for grade in qrels[query].values()) for query in comparison.queries]
            for level in sorted(set(levels))
        },
        "values": [
            [[round(value, 5) for value in comparison.values[name].mean(axis=0)[:, i].tolist()] for i in range(n)]
            for name in systems
            for n in [len(comparison.measures)]
        ],
        "queriesPerChunk": QUERIES_PER_CHUNK,
        "docsPerChunk": DOCS_PER_CHUNK,
        "detail": _pack(records, QUERIES_PER_CHUNK),
        "docs": _pack(docs, DOCS_PER_CHUNK),
    }


def written(text: str) -> str:
    """A text as a page can hold it: the replacement character stands for half of a surrogate pair.

    Example:
        >>> written("half: \\ud83d")
        'half: �'
    """
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def clip(text: str, length: int) -> str:
    """Cut a text at a word, with an ellipsis; blanks around it are left out.

    Example:
        >>> clip("one two three", 9)
        'one two …'
    """
    text = text.strip()
    if len(text) <= length:
        return text
    words, *_ = text[:length].rsplit(None, 1)  # it begins with a word
    return f"{words} …"


def _short(score: float) -> float | str:
    """A score with five digits; JSON has no infinity."""
    return float(f"{score:.5g}") if abs(score) != float("inf") else str(score)


def _pack(items: Sequence[Any], size: int) -> list[str]:
    def chunk(start: int) -> str:
        raw = json.dumps(items[start : start + size], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return base64.b64encode(gzip.compress(raw.encode(), 6, mtime=0)).decode()

    return [chunk(start) for start in range(0, len(items), size)]
