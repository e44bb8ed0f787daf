"""From queries, judgments and runs to training data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp_rerank.collections.base import Support
from cmp_rerank.collections.matching import nothing_in_common
from cmp_rerank.ir.arguments import Progress, check_count, check_run, check_texts, kind
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import Qrels, Run
from cmp_rerank.mining.counts import MiningCounts
from cmp_rerank.mining.filters import ScoreFilter
from cmp_rerank.mining.leakage import find_leaks
from cmp_rerank.mining.miner import Miner
from cmp_rerank.mining.options import RANK_LABELS, TEACHER_LABELS, MiningOptions
from cmp_rerank.mining.rows import RowFormat, take_support
from cmp_rerank.mining.run_columns import RunColumns
from cmp_rerank.mining.teacher import Scores, model_scores, run_scores
from cmp_rerank.mining.write import write_rows
from cmp_rerank.reranking.result import Counts

if TYPE_CHECKING:
    from datasets import Dataset

    from cmp_rerank.text.support import GivenSupport

RunOrPath = Run | str | os.PathLike[str]

#: Rows that are held before they are written.
_ROWS_AT_ONCE = 200


@dataclass(frozen=True)
class Mined:
    """Training data, and what was left out.

    Attributes:
        rows: All columns, with "support" where the data knows it.
        options: The options that it was mined with.
        counts: Numbers of queries, positives, negatives and what was left out.

    Example:
        >>> from cmp_rerank.mining import mine
        >>> corpus = {"a": "Pandas eat bamboo.", "b": "Bees make honey.", "c": "Rain fell."}
        >>> run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
        >>> mined = mine({"q": "who eats"}, corpus, {"q": {"a": 1}}, run, negatives=1, format="pairs")
        >>> mined.dataset.column_names, mined.counts.queries
        ([...], 1)
    """

    rows: Dataset
    options: MiningOptions
    counts: MiningCounts

    @cached_property
    def _taken(self) -> tuple[Dataset, GivenSupport | None]:
        return take_support(self.rows)

    @property
    def dataset(self) -> Dataset:
        """The data as a loss takes it."""
        return self._taken[0]

    @property
    def support(self) -> GivenSupport | None:
        """For ``CmpCrop(support=...)``: what supports the positives, where the data knows it."""
        return self._taken[1]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the rows, and beside them how they were made; see :func:`cmp_rerank.mining.write.write_rows`."""
        write_rows(self.rows, path, {"options": asdict(self.options), "counts": asdict(self.counts)})

    def notes(self) -> list[str]:
        """What a reader should know: what was left out, and where negatives were too few."""
        return self.counts.notes()


def mine(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: Qrels | None,
    runs: RunOrPath | Sequence[RunOrPath] | Mapping[str, RunOrPath] | None = None,
    *,
    options: MiningOptions | None = None,
    model: Any = None,
    teacher: Any = None,
    test_queries: Mapping[str, str] | Iterable[str] | None = None,
    support: Support | None = None,
    batch_size: int = 32,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Mined:
    """Mine training data for a cross-encoder from any run or mixture of runs.

    Each query gets its positives and some negatives. Hard negatives come from a band of ranks of the runs, random
    ones from the whole corpus. A filter leaves out negatives that score too close to the positives, as far as a model
    or the run can tell. Labels come from the judgments or from a teacher. What a query gets depends on the seed
    and its id only, not on the other queries.

    Args:
        queries: Query id -> text; may hold more queries than are mined for.
        corpus: Document id -> text; of a store on disk, only the texts that are mined are read.
        qrels: Judgments; their queries are mined for. None: the queries of the runs are, with their documents, which
            a teacher labels (pairs and lists only).
        runs: A run, its path, several of them, or several by name; None: all negatives are random.
        options: What to draw; None: ``MiningOptions()``.
        model: Filters the negatives: a CrossEncoder (its logits count), or any object with ``predict``. None: the
            filter reads the scores of the runs, and random negatives pass.
        teacher: Labels the documents: a CrossEncoder (by its logits), any object with ``predict``, a run, or the path
            of one. Where ranks are the labels, they are those that the file gives.
        test_queries: Texts of the queries that models will be tested on, or id -> text. Training queries that are
            among them, or nearly, are left out.
        support: Query id -> document id -> spans of characters that support the document's relevance.
        batch_size: Pairs that a model scores at once.
        folder: Where to keep the dataset, in one file that is memory-mapped; None: in memory.
        progress: Called with the number of queries done and their number.
        **changes: Options by name, in place of those of ``options``.

    Returns:
        The dataset with its numbers and notes.

    Raises:
        ValueError: An argument has another form, options do not go together, ids do not match, or no row is left.

    Example:
        >>> queries = {"1": "what do pandas eat"}
        >>> corpus = {"a": "Pandas eat bamboo.", "b": "Pandas are bears.", "c": "Bees make honey."}
        >>> run = {"1": {"a": 2.0, "b": 1.0}}
        >>> mined = mine(queries, corpus, {"1": {"a": 1}}, run, negatives=2, random=0.5)
        >>> mined.dataset[0]["docs"]
        ['Pandas eat bamboo.', 'Pandas are bears.', 'Bees make honey.']
        >>> mined.dataset[0]["labels"], mined.counts.summary()
        ([1.0, 0.0, 0.0], '1 rows from 1 of 1 queries: 1 positives, 2 negatives (run 1, random 1)')
    """
    options = (options or MiningOptions()).changed(**changes)
    queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
    check_texts("queries", queries)
    check_texts("corpus", corpus)
    check_count("batch_size", batch_size)
    named = _named_runs(runs)
    _check_goes_together(options, qrels, named, model, teacher)
    counts = MiningCounts()
    wanted = _without_leaks(_wanted(queries, qrels, named, counts), queries, test_queries, options, counts)
    for name, run in named.items():
        if len(run) and not any(query in queries for query in run):
            raise nothing_in_common(f"queries of the run {name!r}", list(run), "queries to mine for", list(wanted))
    filtering = model_scores(model, queries, corpus, batch_size, counts.read) if model is not None else None
    same = model is not None and teacher is model
    teaching = filtering if same else _teacher(teacher, queries, corpus, batch_size, options.labels, counts.read)
    miner = Miner(
        wanted,
        corpus,
        named,
        options,
        counts,
        judged=qrels is not None,
        filter_scores=filtering,
        teacher_scores=teaching,
    )
    rows = RowFormat(
        options.format,
        options.negatives,
        labelled=teacher is not None,
        labels=options.labels,
        ids=options.ids,
        support=support is not None,
    )

    def found() -> Iterator[dict[str, Any]]:
        for done, mined in enumerate(miner, 1):
            if mined is not None:
                for row in rows.rows(mined, queries, corpus, support or {}):
                    counts.rows += 1
                    yield row
            if progress is not None:
                progress(done, len(wanted))

    dataset = _dataset(found(), rows, folder)
    if not counts.rows:
        raise ValueError(
            f"no row is left; got {counts.summary()}; {'; '.join(counts.notes()) or 'check the ids of all files'}"
        )
    return Mined(dataset, options, counts)


def _named_runs(runs: Any) -> dict[str, Run]:
    """Name -> run, read where it is a path."""
    if runs is None:
        return {}
    if isinstance(runs, str | os.PathLike):
        runs = {Path(runs).stem: runs}
    elif isinstance(runs, Mapping):
        if _is_run(runs):
            runs = {"run": runs}
    elif isinstance(runs, Sequence):
        runs = {f"run {place}": run for place, run in enumerate(runs, 1)}
    else:
        raise ValueError(f"runs must be a run, its path, or several; got {kind(runs)}; write [first, second]")
    named = {
        str(name): RunColumns.read(run) if isinstance(run, str | os.PathLike) else run for name, run in runs.items()
    }
    for name, run in named.items():
        _check_run(f"the run {name!r}", run)
    if "random" in named:
        raise ValueError("a run must not be called 'random', which is the name of random negatives; rename it")
    return named


def _is_run(runs: Mapping[Any, Any]) -> bool:
    """Whether this is one run: documents to numbers by query. Several runs have one level more, or are paths."""
    if any(isinstance(value, str | os.PathLike) for value in islice(runs.values(), 1)):
        return False
    first = next((value for value in runs.values() if isinstance(value, Mapping) and value), {})
    return not any(isinstance(value, Mapping) for value in islice(first.values(), 1))


def _check_run(name: str, run: Any) -> None:
    if not isinstance(run, RunColumns):  # ids of a file are strings, and its dictionaries are yet to be made
        check_run(name, run)


def _check_goes_together(
    options: MiningOptions, qrels: Qrels | None, runs: Mapping[str, Run], model: Any, teacher: Any
) -> None:
    """Refuse options that ask for what is not there."""
    if qrels is not None:
        check_run("qrels", qrels)
    elif teacher is None or not runs or options.format == "tuples" or options.judgments != "any":
        raise ValueError(
            "without judgments it takes a run, a teacher, the format 'lists' or 'pairs', and judgments='any'; got "
            f"{len(runs)} runs, teacher {kind(teacher)}, format {options.format!r}, judgments {options.judgments!r}"
        )
    if options.shares is not None and len(options.shares) != len(runs):
        raise ValueError(
            f"shares must be one weight for each run; got {len(options.shares)} for {len(runs)}: {', '.join(runs)}"
        )
    if (options.labels in TEACHER_LABELS) and teacher is None:
        raise ValueError(f"labels={options.labels!r} come from a teacher; got none; pass teacher=a model or a run")
    if teacher is not None and options.labels not in (*TEACHER_LABELS, "auto"):
        raise ValueError(
            f"a teacher gives the labels; got labels={options.labels!r}; choose one of "
            f"{', '.join(map(repr, TEACHER_LABELS))}, or leave the teacher out"
        )
    filtering = ScoreFilter.of(options)
    if model is not None and not filtering.active:
        raise ValueError(
            "a model filters by limits or margins of its scores; got none; set absolute_margin=1.0 or another, or "
            "leave the model out"
        )
    if filtering.needs_positives and qrels is None:
        raise ValueError("a margin is one below the positives; got no judgments; use min_score or max_score")
    if filtering.active and model is None and not runs:
        raise ValueError("a filter needs scores; got neither a run nor a model; pass one of them")


def _wanted(
    queries: Mapping[str, str], qrels: Qrels | None, runs: Mapping[str, Run], counts: MiningCounts
) -> dict[str, Mapping[str, int]]:
    """The judgments of the queries to mine for."""
    judged: Mapping[str, Mapping[str, int]]
    judged = qrels if qrels is not None else {query: {} for run in runs.values() for query in run}
    wanted = {query: grades for query, grades in judged.items() if query in queries}
    counts.queries, counts.without_text = len(wanted), len(judged) - len(wanted)
    if not wanted:
        raise ValueError(
            f"queries and {'judgments' if qrels is not None else 'runs'} must share ids; got {len(queries)} queries "
            f"such as {_some(queries)}, and {len(judged)} such as {_some(judged)}; check that both are of one split"
        )
    return wanted


def _some(ids: Iterable[object]) -> str:
    return ", ".join(repr(name) for name in islice(ids, 3)) or "none"


def _without_leaks(
    wanted: dict[str, Mapping[str, int]],
    queries: Mapping[str, str],
    test_queries: Mapping[str, str] | Iterable[str] | None,
    options: MiningOptions,
    counts: MiningCounts,
) -> dict[str, Mapping[str, int]]:
    if test_queries is None:
        return wanted
    if isinstance(test_queries, str):
        raise ValueError(f"test_queries must be texts by id or a list of texts; got {kind(test_queries)}")
    leaks = find_leaks({query: queries[query] for query in wanted}, test_queries, options.leak_threshold)
    counts.leaked = len(leaks)
    leaked = {leak.query for leak in leaks}
    return {query: grades for query, grades in wanted.items() if query not in leaked}


def _teacher(
    teacher: Any, queries: Mapping[str, str], corpus: Mapping[str, str], batch_size: int, labels: str, read: Counts
) -> Scores | None:
    if teacher is None:
        return None
    if isinstance(teacher, str | os.PathLike) and Path(teacher).is_file():
        teacher = RunColumns.read(teacher, by_rank=labels in RANK_LABELS)
    if isinstance(teacher, Mapping):
        _check_run("the teacher's run", teacher)
        return run_scores(teacher)
    return model_scores(teacher, queries, corpus, batch_size, read)


def _dataset(rows: Iterator[dict[str, Any]], form: RowFormat, folder: str | os.PathLike[str] | None) -> Dataset:
    """Write rows as they come, in arrow's stream format, to memory or to a file that is then memory-mapped."""
    import pyarrow
    from datasets import Dataset

    schema = form.features().arrow_schema

    def write(sink: Any) -> None:
        with pyarrow.ipc.new_stream(sink, schema) as writer:
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))

    if folder is None:
        buffer = pyarrow.BufferOutputStream()
        write(buffer)
        return Dataset.from_buffer(buffer.getvalue())
    path = Path(folder) / "mined.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(str(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Dataset.from_file(str(path))
