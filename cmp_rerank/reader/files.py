"""Questions from SQuAD and HotpotQA files and from tables."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, NoReturn

from cmp_rerank.collections.rows import SUFFIXES, read_rows
from cmp_rerank.ir.dataset_folders import open_dataset
from cmp_rerank.ir.lines import PathLike, stem_suffix
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.ir.reading import read_json
from cmp_rerank.reader.checks import described
from cmp_rerank.reader.locate import find_answers
from cmp_rerank.reader.records import GoldAnswer, Kind, Question, repair

FORMATS = ("squad", "hotpotqa", "table")


class Questions(list[Question]):
    """Questions in the order of their source, with counts of what was corrected or not found.

    Attributes:
        format: "squad", "squad2", "hotpotqa", "table" or "run".
        counts: Counts by name: "offsets repaired", "answers not found", "support not found", ...
    """

    def __init__(self, questions: Iterable[Question], format: str, counts: Mapping[str, int]) -> None:
        super().__init__(questions)
        self.format = format
        self.counts = Counter(counts)

    def notes(self) -> list[str]:
        """One line for each count that is not 0."""
        return [f"{what}: {number}" for what, number in self.counts.items() if number]


class _Record:
    """Collects the questions of a source; `place` is the current record, for messages."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.questions: dict[str, Question] = {}
        self.counts: Counter[str] = Counter()
        self.place = "the top level"

    def wrong(self, what: str) -> NoReturn:
        raise ValueError(f"{self.source}, {self.place}: {what}")

    def of(self, record: Any, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """The value of a key, of the right type. Where there is a default, None counts as a missing key.

        Tables of `datasets` have None where a record lacks a column of another one.
        """
        if not isinstance(record, Mapping):
            self.wrong(f"a record must be an object with {key!r}; got {record!r:.80}")
        value = record.get(key, default)
        if value is None and default is not ...:
            return default
        if value is ...:
            self.wrong(f"{key!r} is missing; got {', '.join(map(repr, record)) or 'no keys'}")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if value is not default and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            self.wrong(f"{key!r} must be {' or '.join(k.__name__ for k in kinds)}; got {value!r:.80}")
        return value

    def texts(self, record: Any, key: str) -> list[str]:
        """A list of texts."""
        value = self.of(record, key, (list, tuple))
        for each in value:
            if not isinstance(each, str):
                self.wrong(f"{key!r} must be a list of texts; got {each!r:.80} in it")
        return list(value)

    def add(
        self, id: Any, question: Any, passages: Sequence[str], answers: Iterable[GoldAnswer], **more: Any
    ) -> None:
        """Check and keep one question; offsets of answers that are a few characters off are corrected."""
        if id in self.questions:
            self.wrong(f"ids of questions must differ; got {id!r} twice")
        try:
            right = repair(id, passages, answers)
            self.questions[id] = Question(id, question, tuple(passages), right.answers, **more)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from None
        self.counts["offsets repaired"] += right.moved

    def done(self, format: str) -> Questions:
        if not self.questions:
            raise ValueError(f"{self.source} must hold questions; got none")
        return Questions(self.questions.values(), format, self.counts)


def read_questions(path: PathLike, format: str | None = None) -> Questions:
    """Read questions from a file of any supported format.

    Args:
        path: SQuAD 1.1 or 2.0 JSON, HotpotQA JSON, or a table: CSV, TSV, JSON list, JSON lines, parquet, or a folder
            that `datasets.Dataset.save_to_disk` wrote. Text files may be gzip. HotpotQA has no offsets of answers:
            they are looked for in the supporting sentences, then in their paragraphs, then in all paragraphs. Every
            occurrence is an alternative, see `cmp_rerank.reader.locate.find_answers`.
        format: "squad", "hotpotqa" or "table"; None looks at the content.

    Returns:
        The questions, with counts of what was corrected or not found.

    Raises:
        ValueError: With the file and the record, for what cannot be read.

    Example:
        ::

            questions = read_questions("squad/dev.json")
            print(len(questions), questions.notes())
    """
    if format is not None:
        check_choice("format", format, FORMATS)
    source = os.fspath(path)
    suffix = stem_suffix(path)
    if Path(path).is_dir() or (suffix in SUFFIXES and suffix != ".json"):
        if format in ("squad", "hotpotqa"):
            raise ValueError(f"{source}: {format} must be a JSON file; got a table; use format='table'")
        return read_table(_table(path), source)
    content = read_json(path, halves=True)
    if format is None:
        first = content[0] if isinstance(content, list) and content else None
        if isinstance(content, dict) and "data" in content:
            format = "squad"
        elif isinstance(first, dict) and "_id" in first and "context" in first:
            format = "hotpotqa"
        elif isinstance(first, dict):
            format = "table"
        else:
            raise ValueError(
                f'{source} must be SQuAD ({{"data": [...]}}), HotpotQA ([{{"_id": ..., "context": [[title, '
                f"[sentence, ...]], ...]}}]) or a list of records; got {json.dumps(content)[:80]}"
            )
    if format == "table":
        return read_table(content, source)
    return _squad(content, source) if format == "squad" else _hotpotqa(content, source)


def _squad(content: Any, source: str) -> Questions:
    record = _Record(source)
    second = str(content.get("version", "") if isinstance(content, Mapping) else "").startswith("v2")
    for i, article in enumerate(record.of(content, "data", list)):
        record.place = f"article {i}"
        title = str(record.of(article, "title", str, ""))
        for j, paragraph in enumerate(record.of(article, "paragraphs", list)):
            record.place = f"article {i} ({title!r}), paragraph {j}"
            context = record.of(paragraph, "context", str)
            where = record.place
            for k, qa in enumerate(record.of(paragraph, "qas", list)):
                record.place = f"{where}, question {k}"
                name = str(record.of(qa, "id", (str, int)))
                record.place = f"question {name!r}"
                impossible, given = record.of(qa, "is_impossible", bool, None), record.of(qa, "answers", list, None)
                second |= impossible is not None
                if impossible is None:  # an empty list says it, too, as in a table; without a list it is not known
                    impossible = given == []
                answers = [
                    GoldAnswer(record.of(answer, "text", str), 0, record.of(answer, "answer_start", int))
                    # Version 2.0 has plausible answers under another key; some files in its format have them here.
                    for answer in ([] if impossible else given or [])
                ]
                record.counts["without an answer"] += impossible
                kind: Kind = "none" if impossible else "span"
                titles = (title,) if title else ()
                record.add(name, record.of(qa, "question", str), (context,), answers, kind=kind, titles=titles)
    return record.done("squad2" if second else "squad")


def _hotpotqa(content: Any, source: str) -> Questions:
    record = _Record(source)
    if not isinstance(content, list):
        record.wrong(f"HotpotQA must be a list of records; got {described(content)}")
    for i, entry in enumerate(content):
        record.place = f"record {i}"
        name = str(record.of(entry, "_id" if isinstance(entry, Mapping) and "_id" in entry else "id", (str, int)))
        record.place = f"question {name!r}"
        context = _pairs(record, entry, "context", "title", "sentences")
        titles = tuple(str(title) for title, _ in context)
        passages, starts = [], []
        for _, sentences in context:
            if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
                record.wrong(f"a paragraph must be [title, [sentence, ...]]; got {sentences!r:.80}")
            ends = [0]
            for sentence in sentences:
                ends.append(ends[-1] + len(sentence))
            starts.append(ends)
            passages.append("".join(sentences))
        support = None
        if entry.get("supporting_facts") is not None:
            support = []
            for title, number in _pairs(record, entry, "supporting_facts", "title", "sent_id"):
                if not isinstance(number, int):
                    record.wrong(
                        f"a supporting fact must be [title, number of the sentence]; got {[title, number]!r:.80}"
                    )
                # The published files have facts without such a sentence.
                at = titles.index(title) if title in titles else -1
                if at < 0 or not 0 <= number < len(starts[at]) - 1 or starts[at][number] == starts[at][number + 1]:
                    record.counts["support not found"] += 1
                else:
                    support.append((at, starts[at][number], starts[at][number + 1]))
        answer = record.of(entry, "answer", str, None)
        kind: Kind = answer if answer in ("yes", "no") else "span"  # type: ignore[assignment]
        found = find_answers([answer], passages, support or ()) if answer and kind == "span" else ()
        record.counts["answers not found"] += kind == "span" and bool(answer) and not found
        record.add(
            name,
            record.of(entry, "question", str),
            passages,
            found,
            support=None if support is None else tuple(support),
            texts=(answer,) if answer else (),
            titles=titles,
            kind=kind,
        )
    return record.done("hotpotqa")


def _pairs(record: _Record, entry: Any, key: str, first: str, second: str) -> list[tuple[Any, Any]]:
    """Pairs as the official files have them, or two columns, as `datasets` has them."""
    value = record.of(entry, key, (list, dict))
    if isinstance(value, dict):
        columns = record.of(value, first, list), record.of(value, second, list)
        if len(columns[0]) != len(columns[1]):
            record.wrong(
                f"the columns of {key!r} must be of one length; got {len(columns[0])} of {first!r} and "
                f"{len(columns[1])} of {second!r}"
            )
        return list(zip(*columns, strict=True))
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        record.wrong(f"{key!r} must be a list of [{first}, {second}]; got {value!r:.80}")
    return [(pair[0], pair[1]) for pair in value]


def read_table(table: Iterable[Mapping[str, Any]], source: str = "table") -> Questions:
    """Read questions from a `datasets` table, or any other iterable of records.

    Args:
        table: Records with ``id``, ``question``, and ``context`` (a text) or ``passages`` (a list of texts).
            ``answers`` are SQuAD's ``{"text": [...], "answer_start": [...]}``, with a list ``"passage"`` of numbers
            where there are several passages; or a list of ``{"text", "answer_start", "passage"}``; or texts without
            offsets, which are looked for in the passages. An empty text is no answer. Optional are ``support``, a
            list of [passage, start, end] in characters; ``titles`` (or ``title``); ``kind``; and ``is_impossible``.
            Answers of an impossible question are only plausible, and left out. A record without ``answers`` has an
            unknown answer. None counts as missing. A table of HotpotQA as published on the hub is read, too.
        source: Name of the table, for messages.

    Returns:
        The questions. A question with an empty list of answers is of kind "none".

    Raises:
        ValueError: With the record, for one that cannot be read.

    Example:
        >>> row = {"id": "1", "question": "Who makes honey?", "passages": ["Rain.", "Bees do."], "answers": ["Bees"]}
        >>> read_table([row])[0].answers
        (GoldAnswer(text='Bees', passage=1, start=0),)
    """
    record = _Record(source)
    rows = list(table)
    if rows and isinstance(rows[0], Mapping) and "supporting_facts" in rows[0]:
        return _hotpotqa(rows, source)
    for i, row in enumerate(rows):
        record.place = f"record {i}"
        name = record.of(row, "id", (str, int))
        record.place = f"record {i} (id {name!r})"
        if row.get("passages") is not None:
            passages = record.texts(row, "passages")
        else:
            context = record.of(row, "context", (str, list))
            passages = [context] if isinstance(context, str) else record.texts(row, "context")
        given, impossible = row.get("answers"), record.of(row, "is_impossible", bool, None)
        # Answers of an impossible question are only plausible, as in SQuAD 2.0.
        placed, texts = _answers(record, given) if given is not None and not impossible else ([], [])
        if impossible is None:
            impossible = given is not None and not placed and not texts
        kind = record.of(row, "kind", str, "none" if impossible else "span")
        if impossible and kind != "none":
            record.wrong(f"a question without an answer must be of kind 'none'; got {kind!r}")
        support = record.of(row, "support", (list, tuple), None)
        found = find_answers(texts, passages) if texts else ()
        record.counts["answers not found"] += bool(texts) and not found
        record.counts["without an answer"] += kind == "none"
        titles = record.texts(row, "titles") if row.get("titles") is not None else []
        if isinstance(row.get("title"), str) and len(passages) == 1:
            titles = [row["title"]]
        if support is not None:
            try:
                support = tuple((index(at), index(start), index(end)) for at, start, end in support)
            except (TypeError, ValueError):
                record.wrong(f"'support' must be a list of [passage, start, end]; got {support!r:.80}")
        record.add(
            str(name),
            record.of(row, "question", str),
            passages,
            [*placed, *found] if kind == "span" else (),
            support=support,
            texts=tuple(dict.fromkeys([*(answer.text for answer in placed), *texts])),
            titles=tuple(titles),
            kind=kind,
        )
    return record.done("table")


def _answers(record: _Record, given: Any) -> tuple[list[GoldAnswer], list[str]]:
    """Answers with offsets, and those that are only texts. An empty text is no answer."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        texts = record.texts(given, "text")
        if given.get("answer_start") is None:
            given = texts
        else:
            starts = record.of(given, "answer_start", (list, tuple))
            numbers = record.of(given, "passage", (list, tuple), [None] * len(texts))
            if not len(texts) == len(starts) == len(numbers):
                record.wrong(
                    f"each answer needs a text, a start and a passage; got {len(texts)} texts, {len(starts)} starts "
                    f"and {len(numbers)} passages"
                )
            given = [
                {"text": text, "answer_start": start, "passage": number}
                for text, start, number in zip(texts, starts, numbers, strict=True)
            ]
    if not isinstance(given, list | tuple):
        record.wrong(f"'answers' must be texts or records with text and answer_start; got {given!r:.80}")
    if all(isinstance(answer, str) for answer in given):
        return [], [answer for answer in given if answer.strip()]
    return [
        GoldAnswer(text, record.of(answer, "passage", int, 0), record.of(answer, "answer_start", int))
        for answer in given
        if (text := record.of(answer, "text", str)).strip()
    ], []


def _table(path: PathLike) -> Iterable[Mapping[str, Any]]:
    if not Path(path).is_dir():
        return [cells for _, cells in read_rows(path, halves=True)]
    loaded = open_dataset(path)
    if isinstance(loaded, Mapping):
        raise ValueError(
            f"{os.fspath(path)} must hold one table; got several ({', '.join(loaded)}); give one of them"
        )
    return loaded  # type: ignore[no-any-return]
