"""Arguments that several commands share, and how a command ends when the input is wrong."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
    str,
    typer.Option(
        help="A document twice in a query, of a run or of the judgments: 'error', or keep 'first', 'last' or 'max'."
    ),
]
Nan = Annotated[str, typer.Option(help="A score that is NaN: 'error', rank it 'lowest', or 'drop' the line.")]
NoRelevant = Annotated[
    str, typer.Option(help="A judged query without a relevant document: 'keep', 'skip' or 'error'.")
]
Empty = Annotated[str, typer.Option(help="A run without any line: 'error' or 'allow'.")]
Measures = Annotated[
    list[str],
    typer.Option(
        "--measure",
        "-m",
        help="For example nDCG@10 or 'AP(rel=2)@1000'; may be given several times, the first matters most.",
    ),
]
ModelPrecision = Annotated[
    str | None, typer.Option("--precision", help="float32, bf16 or int8 (on a CPU); default: as the model is.")
]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", min=1, help="The window in tokens; default: that of the model.")
]
LongDocuments = Annotated[
    bool | None,
    typer.Option(
        "--long-documents/--truncate",
        help="Read documents beyond the window in passages, or cut them. Default: as the model was saved.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PerQuery = Annotated[bool, typer.Option("--per-query", "-q", help="Also the values of every query.")]
DEFAULT_MEASURES = ["nDCG@10"]

# torch.save says only where in its file it is, and where it should be.
_FULL_DISK_OF_TORCH = ("PytorchStreamWriter failed writing file", "unexpected pos")


@dataclass(frozen=True)
class Written:
    """Marks an argument as a place that a command writes to; it is checked before the command begins.

    Attributes:
        folder: Whether it is a folder.
        parents: Whether the folders above it are made, too.
    """

    folder: bool = False
    parents: bool = False


NEW_FILE = Written()
NEW_FOLDER = Written(folder=True)
NEW_FOLDERS = Written(folder=True, parents=True)

_debug: ContextVar[bool] = ContextVar("debug", default=False)


def with_debug(function: Callable[..., None]) -> Callable[..., None]:
    """The command with one more option, ``--debug``; its errors end as :func:`clean_exit` says, SIGTERM as ctrl-c.

    Where nothing can be written, as :class:`Written` marks it, the command does not begin.
    """
    hints = get_type_hints(function, include_extras=True)
    places = written_places(function)
    hints["debug"] = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
    signature = inspect.signature(function)
    parameters = [
        *signature.parameters.values(),
        inspect.Parameter("debug", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False),
    ]

    @functools.wraps(function)
    def command(*, debug: bool, **arguments: Any) -> None:
        token = _debug.set(debug)
        try:
            with terminable(), clean_exit():
                from cmp_rerank.ir.lines import check_place  # not for --help

                for name, place in places.items():
                    if arguments[name] is not None:
                        check_place(arguments[name], folder=place.folder, parents=place.parents)
                function(**arguments)
        finally:
            _debug.reset(token)

    # Annotations of the functions are strings, which typer would look up in this module.
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
    )
    command.__annotations__ = hints
    return command


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what is inside as ctrl-c does, with its own exit status: what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def terminate(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except (KeyboardInterrupt, typer.Exit):
        if terminated:
            raise typer.Exit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def interruptible(out: Path | str, again: str) -> Iterator[None]:
    """Say after ctrl-c where the command goes on.

    Args:
        out: Where the command keeps what is done.
        again: What goes on with it, for a sentence.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. What is complete is in {out}; {again} goes on.", err=True)
        raise typer.Exit(130) from None


def written_places(function: Callable[..., None]) -> dict[str, Written]:
    """The arguments of a command that are places to write to, by name."""
    hints = get_type_hints(function, include_extras=True)
    return {
        name: mark
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Written)
    }


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Turn an error in the user's input into one line on stderr and exit status 2, as for a wrong option.

    A configuration has a line for each of its errors, which are told at once. Any other error is a fault of this
    package: one line that says so, and exit status 1. ``--debug`` shows the traceback of all.
    """
    try:
        with _while_read(typer.Exit(0)):
            yield
    except typer.Exit:
        raise
    except Exception as error:
        if _debug.get():
            traceback.print_exc()
        full = _full_disk(error)
        expected = full or isinstance(error, ValueError | OSError | ImportError | MemoryError | RecursionError)
        typer.echo(f"cmp-rerank: {_one_line(error, expected)}", err=True)
        raise typer.Exit(2 if expected else 1) from None


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Print inside what comes before other work, or before an exit status that says something.

    A reader of stdout that has seen enough, such as head, ends the printing, and not the command.
    """
    with _while_read():
        yield


@contextlib.contextmanager
def _while_read(then: Exception | None = None) -> Iterator[None]:
    """Leave what is inside where nobody reads stdout any more, by an exception or to go on behind it."""
    try:
        yield
        if sys.stdout is not None:  # it may be closed, as by a service manager
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # rich makes SystemExit(1) of it.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if then is not None:
            raise then from None


def _full_disk(error: Exception) -> bool:
    """Whether a file could not be written for want of space: disk, quota or limit.

    Libraries written in other languages have errors of their own for it, with the words of the system.
    """
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = (*map(os.strerror, codes), *_FULL_DISK_OF_TORCH)
    return getattr(error, "errno", None) in codes or any(word in str(error) for word in words)


def _one_line(error: Exception, expected: bool) -> str:
    if _full_disk(error):
        return (
            f"there is no room to write the results ({str(error).splitlines()[0]}); free some space, or choose "
            "another place, and give the same command again"
        )
    if isinstance(error, MemoryError):
        return "out of memory; use fewer texts, a smaller batch or a smaller --depth"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; give a flat file"
    if hasattr(error, "problems"):  # a ConfigError; its module is slow to import
        return str(error)
    message = " ".join(str(error).split("\n")) if expected else f"{type(error).__name__}: {error}".split("\n")[0]
    return message if expected else f"{message} (this is a fault of cmp-rerank; --debug shows where)"


def wide_console() -> Any:
    """A console for tables: in a pipe rich assumes 80 columns, which would break their lines."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def warn(notes: Sequence[str]) -> None:
    """Notes go to stderr, so that stdout stays what a script reads."""
    for note in notes:
        typer.echo(f"cmp-rerank: note: {note}", err=True)


def told(text: str, out: Path) -> None:
    """What was written where: on stdout, or on stderr where the result itself went to stdout ("-")."""
    from cmp_rerank.ir.lines import is_stream  # not for --help

    typer.echo(text, err=is_stream(out))


def named_path(given: str) -> tuple[str | None, str]:
    """The name and the path of a NAME=PATH argument; the name is None where there is only a path.

    Names and paths may hold "=" themselves, such as bm25[k1=0.9]: what exists decides, and else the first "=".

    Example:
        >>> named_path("bm25[k1=0.9]=/dev/null"), named_path("/dev/null"), named_path("a=b=c")
        (('bm25[k1=0.9]', '/dev/null'), (None, '/dev/null'), ('a', 'b=c'))
    """
    from cmp_rerank.ir.lines import exists

    if exists(given) or "=" not in given:
        return None, given
    parts = given.split("=")
    splits = [("=".join(parts[:place]), "=".join(parts[place:])) for place in range(1, len(parts))]
    return next(((name, path) for name, path in splits if exists(path)), splits[0])


def systems(runs: Sequence[str]) -> dict[str, Any]:
    """Paths and NAME=PATH arguments as systems; several paths of one name are its training seeds."""
    from cmp_rerank.evaluation.compare import system_names
    from cmp_rerank.ir.lines import exists

    named = [named_path(run) for run in runs]
    plain = [path for name, path in named if name is None]
    short = system_names(plain)
    # Seeds are what was given the same name on purpose.
    taken = [*short, *{name for name, _ in named if name is not None}]
    if twice := [name for name in taken if taken.count(name) > 1]:
        raise ValueError(f"two runs are called {twice[0]!r}; give them names: NAME=PATH")
    names = iter(short)
    grouped: dict[str, list[str]] = {}
    for name, path in named:
        if not exists(path):
            raise ValueError(f"{path}: no such file")
        grouped.setdefault(next(names) if name is None else name, []).append(path)
    return {name: paths if len(paths) > 1 else paths[0] for name, paths in grouped.items()}
