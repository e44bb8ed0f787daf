"""`cmp-rerank mine`: training data from the judgments of a collection and the runs of first stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.progress import progress

if TYPE_CHECKING:
    from cmp_rerank.collections import Collection


def mine(
    collection: Annotated[
        str,
        typer.Argument(help="A collection: beir:FOLDER, msmarco:FOLDER, table:FILE, ir_datasets:NAME and others."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Where the data goes: .jsonl, .parquet or a folder."),
        options.NEW_FILE,  # or a folder that is not there
    ],
    split: Annotated[str, typer.Option(help="The split whose queries are mined for.")] = "train",
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Where negatives come from: a run's path, NAME=PATH, or a run of the collection; repeatable."
        ),
    ] = None,
    shares: Annotated[str, typer.Option(help="The weight of each run, with commas; default: equal.")] = "",
    format: Annotated[str, typer.Option(help="'pairs', 'tuples' or 'lists', as the loss takes them.")] = "lists",
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 7,
    positives: Annotated[int, typer.Option(min=0, help="Most positives of a query, best grades first; 0: all.")] = 0,
    relevant: Annotated[int, typer.Option(help="The lowest grade of a positive.")] = 1,
    ranks: Annotated[str, typer.Option(help="Ranks that negatives come from.")] = "1-100",
    pick: Annotated[str, typer.Option(help="'random' from these ranks, or their 'top'.")] = "random",
    random: Annotated[float, typer.Option(help="Share of the negatives that are random documents.")] = 0.0,
    judgments: Annotated[
        str, typer.Option(help="What may be a negative: 'any', only 'judged' (grade 0) or only 'unjudged' documents.")
    ] = "any",
    filter_model: Annotated[
        str, typer.Option(help="A cross-encoder whose scores (logits) are filtered; default: those of the runs.")
    ] = "",
    margin: Annotated[float | None, typer.Option(help="How far negatives must score below every positive.")] = None,
    relative_margin: Annotated[
        float | None, typer.Option(help="The same in shares of the positive's score, such as 0.05.")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Lowest score of a negative.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Highest score of a negative.")] = None,
    short: Annotated[
        str, typer.Option(help="A query with too few negatives: 'random' ones fill up, 'keep', 'drop' or 'error'.")
    ] = "random",
    teacher: Annotated[str, typer.Option(help="Labels by a teacher: a cross-encoder, or the path of a run.")] = "",
    labels: Annotated[
        str,
        typer.Option(
            help="'binary', 'grades', 'scaled'; by a teacher 'scores', by its ranks 'reciprocal', 'linear' or "
            "'ranks', or 'both' grade and score; 'auto'."
        ),
    ] = "auto",
    teacher_only: Annotated[
        bool, typer.Option("--teacher-only", help="No judgments: the teacher labels the documents of the runs.")
    ] = False,
    unscored: Annotated[
        str, typer.Option(help="A document that the teacher's run lacks: 'error', 'drop' or 'lowest'.")
    ] = "error",
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Training queries that this split has, or nearly, are left out; default: all other splits."
        ),
    ] = None,
    keep_leaks: Annotated[bool, typer.Option("--keep-leaks", help="Leave no such query out.")] = False,
    leak_threshold: Annotated[
        float, typer.Option(help="Share of their word pairs that make two queries nearly the same.")
    ] = 0.6,
    missing_texts: Annotated[
        str, typer.Option(help="A judged or retrieved document without a text: 'error' or 'drop'.")
    ] = "error",
    ids: Annotated[bool, typer.Option("--ids", help="Write ids, too; remove these columns before training.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs that a model scores at once.")] = 32,
    seed: Annotated[int, typer.Option(help="What a query gets depends on this and its id only.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Mine training data: positives from judgments, negatives from runs.

    \b
    Examples:
      cmp-rerank mine beir:scifact --run bm25.trec -o train.jsonl
      cmp-rerank mine beir:scifact --run bm25.trec --run dense.trec \\
          --shares 2,1 --random 0.2 --ranks 1-50 -o train.parquet
      cmp-rerank mine beir:scifact --run bm25.trec --filter-model tuned \\
          --margin 1 --format tuples -o train
      cmp-rerank mine beir:scifact --run bm25.trec --teacher large \\
          -o train.jsonl
      cmp-rerank mine beir:trec-dl --split test --run llm.trec \\
          --teacher llm.trec --labels reciprocal --teacher-only \\
          --negatives 20 --ranks 1-20 --pick top -o distil.jsonl

    pairs (query, document, label) are for pointwise losses such as
    BinaryCrossEntropyLoss, tuples (query, positive, negative_1, ...) for
    MultipleNegativesRankingLoss and MarginMSELoss, lists (query, docs,
    labels) for listwise losses such as LambdaLoss and RankNetLoss.

    A negative that scores as high as the positives may be relevant, too. With
    --margin or --relative-margin such documents are left out.

    The labels of a teacher are its scores. Of a teacher that only ranks, such
    as a language model, take --labels reciprocal (1 / rank) or linear.

    Beside the data, a file with the ending .mining.json has the options, the
    counts and the versions that made it. Where the collection knows what
    supports a positive, there is a column "support" for CmpCrop:
    `cmp_rerank.mining.take_support` takes it out before training.
    """
    from cmp_rerank import collections, mining
    from cmp_rerank.ir.lines import unfinished_folder
    from cmp_rerank.mining.write import about_path, check_target
    from cmp_rerank.reranking.loading import load_reranker

    check_target(out)
    wanted = mining.MiningOptions(
        format=format,  # type: ignore[arg-type]
        negatives=negatives,
        positives=positives or None,
        relevant=relevant,
        ranks=_ranks(ranks),
        pick=pick,  # type: ignore[arg-type]
        random=random,
        shares=_shares(shares),
        judgments=judgments,  # type: ignore[arg-type]
        min_score=min_score,
        max_score=max_score,
        absolute_margin=margin,
        relative_margin=relative_margin,
        short=short,  # type: ignore[arg-type]
        labels=labels,  # type: ignore[arg-type]
        unscored=unscored,  # type: ignore[arg-type]
        missing_texts=missing_texts,  # type: ignore[arg-type]
        leak_threshold=leak_threshold,
        ids=ids,
        seed=seed,
    )
    data = collections.load(collection, missing_texts=missing_texts)
    # The rows wait on disk, beside where they go, so that memory does not grow with them.
    with (
        unfinished_folder(out) as waiting,
        progress("Mining", "queries") as show,
    ):
        mined = mining.mine(
            data.queries(split),
            data.corpus,
            None if teacher_only else data.qrels(split),
            _runs(run or [], data) or None,
            options=wanted,
            model=load_reranker(filter_model) if filter_model else None,
            teacher=(teacher if Path(teacher).is_file() else load_reranker(teacher)) if teacher else None,
            test_queries=None if keep_leaks else _held_out(data, split, held_out),
            support=data.support,
            batch_size=batch_size,
            folder=waiting,
            progress=show,
        )
        mined.write(out)
    options.warn([*data.notes(), *mined.notes()])
    if as_json:
        typer.echo(about_path(out).read_text(encoding="utf-8"), nl=False)
    else:
        typer.echo(f"{mined.counts.summary()}; written to {out}")


def _ranks(given: str) -> tuple[int, int]:
    first, dash, last = given.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise ValueError(f"--ranks must be two ranks; got {given!r}; write them like 1-100")
    return int(first), int(last)


def _shares(given: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(share) for share in given.split(",")) if given else None
    except ValueError:
        raise ValueError(f"--shares must be numbers with commas; got {given!r}; write them like 2,1") from None


def _runs(given: list[str], data: Collection) -> dict[str, Any]:
    """Runs by name: those of the collection, and files."""
    from cmp_rerank.ir.lines import exists

    runs: dict[str, Any] = {}
    run: Any
    for one in given:
        if one in data.runs:
            name, run = one, data.run(one)
        else:
            given_name, path = options.named_path(one)
            name = Path(one).stem if given_name is None else given_name
            if not exists(path):
                own = f"; the collection has {', '.join(data.runs)}" if data.runs else ""
                raise ValueError(f"{path}: no such file{own}")
            run = path
        if name in runs:
            raise ValueError(f"two runs are called {name!r}; give them names: NAME=PATH")
        runs[name] = run
    return runs


def _held_out(data: Collection, split: str, names: list[str] | None) -> list[str]:
    """The texts of the queries that models will be tested on."""
    mined = data.split_name(split)
    chosen = names if names is not None else [name for name in data.splits if name != mined]
    return [text for name in chosen for text in data.queries(name).values()]
