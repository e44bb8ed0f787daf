"""Texts: BEIR corpora and queries, MS MARCO TSV and top1000, samples as sentence-transformers uses them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from cmp_rerank.ir.arguments import check_id, check_run
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import Qrels, Run
from cmp_rerank.ir.json_text import parse_json
from cmp_rerank.ir.lines import (
    PathLike,
    malformed,
    numbered_lines,
    replacing,
    stem_suffix,
    text,
    write_lines,
)
from cmp_rerank.ir.mappings import with_title
from cmp_rerank.ir.ranking import rank
from cmp_rerank.ir.reading import read_json

# Names of the fields: those of BEIR, then those of Anserini and TREC.
ID_FIELDS = ("_id", "id", "docid", "docno", "doc_id", "qid", "query_id")
_TEXT = ("text", "contents", "body", "query")


class Samples(NamedTuple):
    """Queries, documents, judgments and a first-stage run that belong together.

    Example:
        >>> samples = Samples({"q0": "who eats"}, {"d0": "Pandas eat."}, {"q0": {"d0": 1}}, {"q0": {"d0": 1.0}})
        >>> queries, corpus, qrels, run = samples
        >>> corpus["d0"]
        'Pandas eat.'
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]
    run: dict[str, dict[str, float]]


def read_queries(path: PathLike, *, ids: Set[str] | None = None) -> dict[str, str]:
    """Read queries: BEIR JSONL (``_id``, ``text``) or MS MARCO TSV (id, text); plain or gzip.

    Args:
        path: The file; .tsv is TSV, everything else JSONL.
        ids: Only these; None reads all.

    Returns:
        Query id -> text.

    Raises:
        ValueError: With file and line, for a line that cannot be read and an id that occurs twice.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "queries.tsv")
        ...     _ = path.write_text("q1\\twho eats\\nq2\\twho sleeps\\n")
        ...     read_queries(path, ids={"q2"})
        {'q2': 'who sleeps'}
    """
    return _read_texts(path, ids)


def read_corpus(path: PathLike, *, ids: Set[str] | None = None, title: bool = True) -> dict[str, str]:
    """Read documents: BEIR JSONL (``_id``, ``title``, ``text``) or MS MARCO TSV (id, text); plain or gzip.

    Args:
        path: The file; .tsv is TSV, everything else JSONL.
        ids: Only these documents, which bounds the memory; None reads all.
        title: Put a title, where there is one, before the text, with a space between, as BEIR does.

    Returns:
        Document id -> text.

    Raises:
        ValueError: With file and line, for a line that cannot be read and an id that occurs twice.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "corpus.jsonl")
        ...     _ = path.write_text('{"_id": "d1", "title": "Pandas", "text": "They eat."}')
        ...     read_corpus(path), read_corpus(path, title=False)
        ({'d1': 'Pandas They eat.'}, {'d1': 'They eat.'})
    """
    return _read_texts(path, ids, title)


def write_queries(path: PathLike, queries: Mapping[str, str]) -> None:
    """Write queries as BEIR JSONL, or as TSV when the name ends in .tsv (or .tsv.gz).

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_queries(Path(folder, "queries.tsv"), {"q1": "who eats"})
        ...     read_queries(Path(folder, "queries.tsv"))
        {'q1': 'who eats'}
    """
    _write_texts(path, as_texts("queries", queries))


def write_corpus(path: PathLike, corpus: Mapping[str, str]) -> None:
    """Write documents as BEIR JSONL (with an empty title), or as TSV where the name ends in .tsv (.gz).

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_corpus(Path(folder, "corpus.jsonl"), {"d1": "Pandas eat."})
        ...     read_corpus(Path(folder, "corpus.jsonl"))
        {'d1': 'Pandas eat.'}
    """
    _write_texts(path, as_texts("documents", corpus), {"title": ""})


def numbered_texts(path: PathLike, *, title: bool = True) -> Iterator[tuple[int, str, str]]:
    """Line number, id and text of each line of a file of texts, one by one; ids that come twice are not noticed.

    Args:
        path: As for :func:`read_corpus`.
        title: As for :func:`read_corpus`.

    Raises:
        ValueError: With file and line, for a line that cannot be read.
    """
    parse = _tsv_text if stem_suffix(path) == ".tsv" else _json_text
    for number, line in numbered_lines(path):
        yield number, *parse(path, number, line, title)


def _read_texts(path: PathLike, ids: Set[str] | None, title: bool = False) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, name, content in numbered_texts(path, title=title):
        if name in texts:
            raise malformed(path, number, f"the id {name!r} occurs twice")
        if ids is None or name in ids:
            texts[name] = content
    return texts


def _tsv_text(path: PathLike, number: int, line: bytes, title: bool) -> tuple[str, str]:
    name, tab, content = text(path, number, line).partition("\t")
    if not tab:
        raise malformed(path, number, f"no tab in {line[:80]!r}; a line is 'id<TAB>text'")
    return name, content


def _json_text(path: PathLike, number: int, line: bytes, title: bool) -> tuple[str, str]:
    record = parse_json(path, line, number)
    fields = record if isinstance(record, dict) else {}
    name, content = (next((fields[key] for key in keys if key in fields), None) for keys in (ID_FIELDS, _TEXT))
    if name is None or not isinstance(content, str):
        raise malformed(path, number, f'expected {{"_id": ..., "text": ...}}; got {line[:80]!r}')
    heading = fields.get("title") if title else None
    if not isinstance(heading, str | None):
        raise malformed(path, number, f"a title must be a text; got {heading!r:.80}; correct it, or leave it out")
    return str(name), with_title(heading, content)


def _write_texts(path: PathLike, texts: Mapping[str, str], more: Mapping[str, str] | None = None) -> None:
    def lines() -> Iterator[str]:
        for name, content in texts.items():
            check_id("texts", "query or document", name)
            if tsv:
                if any(character in name + content for character in "\t\n\r"):
                    raise ValueError(f"{name!r} cannot be written as TSV: it holds a tab or a line break; use .jsonl")
                yield f"{name}\t{content}\n"
            else:
                record = {"_id": name, **(more or {}), "text": content}
                yield json.dumps(record, ensure_ascii=False) + "\n"

    tsv = stem_suffix(path) == ".tsv"
    write_lines(path, lines())


def read_top1000(path: PathLike) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, float]]]:
    """Read MS MARCO's top1000: query id, passage id, query, passage, separated by tabs.

    The file has neither rank nor score, so its order is the ranking: the score of a candidate is its
    negative place among those of its query (-1, -2, ...).

    Returns:
        Queries, corpus and the run.

    Raises:
        ValueError: With file and line; also when one id has two different texts, or a candidate occurs twice.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "top1000.tsv")
        ...     _ = path.write_text("q1\\td1\\twho eats\\tPandas eat.\\nq1\\td2\\twho eats\\tBees fly.\\n")
        ...     queries, corpus, run = read_top1000(path)
        ...     queries, run
        ({'q1': 'who eats'}, {'q1': {'d1': -1.0, 'd2': -2.0}})
    """
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    run: dict[str, dict[str, float]] = {}
    for number, line in numbered_lines(path):
        fields = text(path, number, line).split("\t")
        if len(fields) != 4:
            raise malformed(path, number, f"{len(fields)} tab-separated fields in {line[:80]!r}; top1000 has 4")
        query, doc, query_text, doc_text = fields
        for what, name, texts, content in (
            ("query", query, queries, query_text),
            ("passage", doc, corpus, doc_text),
        ):
            if texts.setdefault(name, content) != content:
                raise malformed(path, number, f"{what} {name!r} had another text before")
        scores = run.setdefault(query, {})
        if doc in scores:
            raise malformed(path, number, f"passage {doc!r} occurs twice for query {query!r}")
        scores[doc] = -float(len(scores) + 1)
    return queries, corpus, run


def write_top1000(path: PathLike, queries: Mapping[str, str], corpus: Mapping[str, str], run: Run) -> None:
    """Write candidates with their texts as MS MARCO's top1000, best first.

    Raises:
        ValueError: A text is missing, or holds a tab or a line break. Then no file is written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "top1000.tsv")
        ...     write_top1000(path, {"q1": "who eats"}, {"d1": "Pandas eat."}, {"q1": {"d1": 2.5}})
        ...     path.read_text()
        'q1\\td1\\twho eats\\tPandas eat.\\n'
    """
    check_run("run", run)
    queries, corpus = as_texts("queries", queries), as_texts("documents", corpus)

    def lines() -> Iterator[str]:
        for query, scores in run.items():
            for doc, _ in rank(scores):
                fields = [query, doc, _text_of("query", queries, query), _text_of("document", corpus, doc)]
                if any(character in field for field in fields for character in "\t\n\r"):
                    raise ValueError(
                        f"query {query!r}, document {doc!r}: a tab or line break cannot stand in a TSV file"
                    )
                yield "\t".join(fields) + "\n"

    write_lines(path, lines())


def read_samples(path: PathLike) -> Samples:
    """Read reranking samples as sentence-transformers' evaluators take them: a JSON list, or JSONL.

    A sample has ``query``, ``positive`` (a text or a list) and ``documents`` (ranked candidates) or
    ``negative``. The ids are made here: "q0", "q1", ... for samples, "d0", "d1", ... for distinct texts.

    Returns:
        Queries, corpus, judgments and run. Positives have grade 1, negatives and the other documents have none, as
        upstream counts them. The run holds the samples with ``documents``, in their order, positives only where they
        are among them; that is the first stage, and it is evaluated over all samples.

    Raises:
        ValueError: With file and sample, for a sample without these keys.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "samples.jsonl")
        ...     sample = '{"query": "who eats", "positive": "Pandas eat.", "documents": ["Bees fly.", "Pandas eat."]}'
        ...     _ = path.write_text(sample)
        ...     samples = read_samples(path)
        ...     samples.qrels, samples.run
        ({'q0': {'d0': 1}}, {'q0': {'d1': ..., 'd0': ...}})
    """
    samples = _json_list(path)
    collected = Samples({}, {}, {}, {})
    number: dict[str, str] = {}

    def doc_id(content: str) -> str:
        name = number.setdefault(content, f"d{len(number)}")
        collected.corpus[name] = content
        return name

    for place, sample in enumerate(samples):
        query = f"q{place}"
        where = f"{os.fspath(path)}, sample {place}"
        if not isinstance(sample, dict) or not isinstance(sample.get("query"), str):
            raise ValueError(f"{where}: expected an object with a 'query'; got {sample!r:.80}")
        collected.queries[query] = sample["query"]
        collected.qrels[query] = {doc_id(content): 1 for content in _texts(where, sample, "positive")}
        if "documents" in sample:
            ranked = dict.fromkeys(doc_id(content) for content in _texts(where, sample, "documents"))
            collected.run[query] = {doc: -float(i) for i, doc in enumerate(ranked, 1)}
        else:
            for content in _texts(where, sample, "negative"):
                doc_id(content)
    return collected


def _json_list(path: PathLike) -> list[Any]:
    _, first = next(numbered_lines(path), (0, b""))
    if not first.lstrip().startswith(b"["):
        return [parse_json(path, line, number) for number, line in numbered_lines(path)]
    return read_json(path)  # type: ignore[no-any-return]


def _texts(where: str, sample: Mapping[str, Any], key: str) -> Sequence[str]:
    value = sample.get(key)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(content, str) for content in value):
        raise ValueError(f"{where}: {key!r} must be a text or a list of texts; got {sample.get(key)!r:.80}")
    return value


def write_samples(
    path: PathLike,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: Qrels,
    run: Run,
    *,
    rel: int = 1,
) -> None:
    """Write reranking samples (``query``, ``positive``, ``documents``) as sentence-transformers takes them.

    Args:
        path: Where to write: a JSON list, or JSONL when the name ends in .jsonl (or .jsonl.gz).
        queries: Query id -> text.
        corpus: Document id -> text.
        qrels: Query id -> document id -> grade; its queries become the samples.
        run: The candidates of each query, ranked by :func:`rank`; a query without any has no documents.
        rel: The lowest grade that counts as positive.

    Raises:
        ValueError: A text is missing. Then no file is written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "samples.json")
        ...     corpus = {"d1": "Pandas eat.", "d2": "Bees fly."}
        ...     write_samples(path, {"q1": "who eats"}, corpus, {"q1": {"d1": 1}}, {"q1": {"d2": 2.0, "d1": 1.0}})
        ...     json.loads(path.read_text())
        [{'query': 'who eats', 'positive': ['Pandas eat.'], 'documents': ['Bees fly.', 'Pandas eat.']}]
    """
    queries, corpus = as_texts("queries", queries), as_texts("documents", corpus)
    samples = [
        {
            "query": _text_of("query", queries, query),
            "positive": [_text_of("document", corpus, doc) for doc, grade in grades.items() if grade >= rel],
            "documents": [_text_of("document", corpus, doc) for doc, _ in rank(run.get(query, {}))],
        }
        for query, grades in qrels.items()
    ]
    with replacing(path) as file:
        if stem_suffix(path) == ".jsonl":
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        else:
            json.dump(samples, file, ensure_ascii=False, indent=1)


def _text_of(what: str, texts: Mapping[str, str], name: str) -> str:
    if name not in texts:
        raise ValueError(f"there is no text for {what} {name!r}")
    return texts[name]
