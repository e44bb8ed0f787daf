"""Arguments that several commands share, and how a command ends when the input is wrong."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Qrels = Annotated[Path, typer.Argument(help="Judgments: TREC, MS MARCO, BEIR or JSON; plain or gzip.")]
Runs = Annotated[
    list[str],
    typer.Argument(help="Runs: paths, or NAME=PATH; a name given twice is one system with several training seeds."),
]
RankOrder = Annotated[
    str, typer.Option(help="'score': by score, ties by document id descending; 'given': by the file's rank.")
]
Precision = Annotated[str, typer.Option(help="Scores compared as 'double' (trec_eval 10) or 'single' (trec_eval 9).")]
Missing = Annotated[
    str, typer.Option(help="A judged query without results: 'zero' counts 0, 'skip' leaves it out, or 'error'.")
]
Duplicates = Annotated[
    str, typer.Option(help="A document twice in a query: 'error', or keep 'first', 'last' or 'max'.")
]
Nan = Annotated[str, typer.Option(help="A score that is NaN: 'error', rank it 'lowest', or 'drop' the line.")]
NoRelevant = Annotated[
    str, typer.Option(help="A judged query without a relevant document: 'keep', 'skip' or 'error'.")
]
Empty = Annotated[str, typer.Option(help="A run without any line: 'error' or 'allow'.")]


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Turn an error in the user's input into one line on stderr and exit status 1; usage errors have 2."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"cmp-rerank: {error}", err=True)
        raise typer.Exit(1) from None


def warn(notes: Sequence[str]) -> None:
    """Notes go to stderr, so that stdout stays what a script reads."""
    for note in notes:
        typer.echo(f"cmp-rerank: note: {note}", err=True)


def systems(runs: Sequence[str]) -> dict[str, Any]:
    """Paths and NAME=PATH arguments as systems; several paths of one name are its training seeds."""
    from cmp_rerank.evaluation.compare import system_names

    # A path may hold "=" itself; what exists as it stands is a path.
    named = [(None, run) if Path(run).exists() or "=" not in run else tuple(run.split("=", 1)) for run in runs]
    plain = [path for name, path in named if name is None]
    short = iter(system_names(plain))
    grouped: dict[str, list[str]] = {}
    for name, path in named:
        if name is None:
            name = next(short)  # noqa: PLW2901
            if name in grouped:
                raise ValueError(f"two runs are called {name!r}; give them names: NAME=PATH")
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file")
        grouped.setdefault(name, []).append(path)
    return {name: paths if len(paths) > 1 else paths[0] for name, paths in grouped.items()}
