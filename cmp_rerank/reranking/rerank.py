"""Rerank a run of any size: group after group, resumable, over several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, overload

from cmp_rerank.ir import Progress, Run
from cmp_rerank.ir.arguments import check_count
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import check_id
from cmp_rerank.ir.lines import PathLike, check_parent, stem_suffix
from cmp_rerank.reranking.checks import PairScorer, check_inputs, check_reranker
from cmp_rerank.reranking.digest import model_digest
from cmp_rerank.reranking.groups import Group, groups
from cmp_rerank.reranking.journal import Journal
from cmp_rerank.reranking.merge import journal_path, merge
from cmp_rerank.reranking.options import PAIRS_PER_GROUP, RerankOptions
from cmp_rerank.reranking.precision import in_precision
from cmp_rerank.reranking.result import Counts
from cmp_rerank.reranking.scorers import scorer_of
from cmp_rerank.reranking.scoring import Mix, score_group
from cmp_rerank.reranking.survey import survey


@overload
def rerank_run(
    model: PairScorer,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    run: Run | PathLike,
    *,
    depth: int | None = None,
    out: None = None,
    **options: Any,
) -> dict[str, dict[str, float]]: ...


@overload
def rerank_run(
    model: PairScorer,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    run: Run | PathLike,
    *,
    depth: int | None = None,
    out: PathLike,
    **options: Any,
) -> Path | None: ...


def rerank_run(  # type: ignore[misc]  # the overloads leave out options that they have in common
    model: PairScorer,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    run: Run | PathLike,
    *,
    depth: int | None = None,
    out: PathLike | None = None,
    tag: str = "cmp_rerank",
    passages: PathLike | None = None,
    tokens_per_batch: int | None = None,
    pairs_per_group: int = PAIRS_PER_GROUP,
    precision: str | None = None,
    shard: tuple[int, int] | None = None,
    resume: bool = True,
    mix: Mix | None = None,
    predict_options: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
    counts: Counts | None = None,
) -> dict[str, dict[str, float]] | Path | None:
    """Score the best candidates of each query; those below keep their order and stay below.

    The run is read and scored in groups of queries. The pairs of a group are tokenised once, and run in order of
    length, in passes that hold a number of tokens. With ``out``, each group is written to a journal beside the output
    when it is finished, so that memory does not grow with the run, and a reranking that was stopped goes on with the
    next group. Under ``torchrun`` each process takes every n-th group, and the last one to finish writes the output.

    The same options give the same bits on one machine with one number of threads, whatever was stopped and resumed,
    and into how many shards the run was divided. Other options move scores by rounding (about 1e-6 in 32 bits).

    Args:
        model: A CrossEncoder, a LongDocumentReranker, or anything with ``predict(pairs)``.
        queries: Query id -> text, or a dataset of `datasets` or ir_datasets.
        corpus: Document id -> text, or such a dataset; texts are looked up when their group is scored.
        run: Candidates with the scores of the first stage, or the path of a run file.
        depth: How many candidates of each query are scored, by :func:`cmp_rerank.ir.rank`; None scores all.
        out: The run file to write, in the format that :func:`cmp_rerank.ir.write_run` takes from its name. None
            returns the new run instead.
        tag: Name of the system, the last column of a TREC run.
        passages: Also write the passages of each scored document to this file, as JSON lines; needs ``out`` and a
            LongDocumentReranker.
        tokens_per_batch: How many tokens, padding included, one pass holds. Default: 512 on a CPU, 65,536
            elsewhere. When memory runs out, passes get smaller.
        pairs_per_group: How many pairs fill a group. After a kill, at most that many are scored again.
        precision: "float32", "bf16" or "int8"; None leaves the model as it is. See
            :func:`cmp_rerank.reranking.precision.in_precision`.
        shard: (number, of how many): only every n-th group. Default: with ``out``, RANK and WORLD_SIZE of the
            environment, as ``torchrun`` sets them; else everything.
        resume: Whether to go on with the journal of a reranking that was stopped; else it starts over.
        mix: Joins the scores of the first stage and those of the model: called with two runs of the same queries, all
            candidates and the ones that were scored, it gives the run over all candidates. None: the model's scores
            alone. The guard's :class:`cmp_rerank.guard.Mix` is one.
        predict_options: Options for the model's own ``predict``, by which it is then run.
        batch_size: For models that are run by their own ``predict``.
        progress: Called with the number of pairs that are done, and of all.
        counts: Counts what was read, in place.

    Returns:
        Without ``out`` the new run, over the same documents. With it, the path of the output; None if other shards
        are still to be finished.

    Raises:
        ValueError: A text is missing, an argument has another shape, the model gives another number of scores than
            there are pairs, or one that is not finite; the journal is of other settings, another model, or another
            run.

    Example:
        >>> class Overlap:
        ...     def predict(self, pairs):
        ...         return [len(set(query.split()) & set(text.split())) for query, text in pairs]
        >>> corpus = {"d1": "a dog", "d2": "the cat sat", "d3": "the cat"}
        >>> rerank_run(Overlap(), {"q": "cat sat"}, corpus, {"q": {"d1": 3.0, "d2": 2.0, "d3": 1.0}}, depth=2)
        {'q': {'d2': 2.0, 'd1': 0.0, 'd3': -1.0}}
    """
    check_reranker(model)
    check_id("tag", tag)
    queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
    RerankOptions(depth, tokens_per_batch, pairs_per_group, precision)  # checks them
    check_inputs(queries, corpus, {} if isinstance(run, str | os.PathLike) else run, None)
    if passages is not None and out is None:
        raise ValueError("passages are written beside the output; got no out; give a path, or leave passages out")
    for path in (out, passages):
        if path is not None:
            check_parent(Path(path))
    if out is not None and passages is not None and Path(out).resolve() == Path(passages).resolve():
        raise ValueError(f"out and passages must be two files; got {os.fspath(out)} for both")
    mine, shards = _shard(shard, out is not None)
    model = in_precision(model, precision)
    scorer = scorer_of(
        model,
        tokens_per_batch=tokens_per_batch,
        passages=passages is not None,
        predict_options=predict_options,
        defaults={"batch_size": batch_size, "show_progress_bar": False},
    )
    columns = out is not None and stem_suffix(out) != ".json"
    found = survey(groups(run, depth, pairs_per_group), queries, corpus, mine, shards, columns=columns)
    report = _Report(progress, found.pairs)
    counts = Counts() if counts is None else counts
    own = own_groups(groups(run, depth, pairs_per_group), mine, shards)
    if out is None:
        result: dict[str, dict[str, float]] = {}
        for group in own:
            pairs = group.pairs(queries, corpus)
            scored = score_group(group, pairs, scorer, mix)
            counts.add(scored.counts)
            result |= scored.run
            report(len(pairs))
        return result
    settings = {
        "model": model_digest(model),
        "depth": depth,
        "pairs_per_group": pairs_per_group,
        "tokens_per_batch": tokens_per_batch,
        "precision": precision,
        "passages": passages is not None,
        "mix": None if mix is None else repr(mix),
        "predict_options": {name: repr(value) for name, value in (predict_options or {}).items()},
    }
    with Journal(journal_path(out, mine, shards), settings, resume=resume) as journal:
        for group in own:
            pairs = group.pairs(queries, corpus)
            digest = group.digest(pairs)
            before = journal.finished.get(group.number)
            if before is None:
                journal.append(group.number, digest, score_group(group, pairs, scorer, mix))
            elif before != digest:
                raise ValueError(
                    f"{journal.path}: the run or the texts have changed since this reranking was begun, from query "
                    f"{next(iter(group.ranked))!r} on; start over without resume, or choose another output"
                )
            report(len(pairs))
        journal.end(found.groups, found.digest)
        counts.add(journal.counts)
    return Path(out) if merge(out, shards, tag, passages) else None


class _Report:
    """Adds up the pairs that are done."""

    def __init__(self, progress: Progress | None, pairs: int) -> None:
        self.progress, self.pairs, self.done = progress, pairs, 0

    def __call__(self, more: int) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.pairs)


def _shard(given: tuple[int, int] | None, written: bool) -> tuple[int, int]:
    """Number and count of shards.

    Raises:
        ValueError: The number is not below the count.
    """
    if given is None:
        if not written:
            return 0, 1
        given = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    number, count = given
    check_count("the number of shards", count)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
        raise ValueError(f"shard must be (number, count) with a number from 0 to count - 1; got {given!r}")
    return number, count


def own_groups(all_groups: Iterator[Group], number: int, count: int) -> Iterator[Group]:
    """Every n-th group, from one on."""
    return (group for group in all_groups if group.number % count == number)
