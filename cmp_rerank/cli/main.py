"""The `cmp-rerank` command; each command lives in a module of its own beside this one."""

from collections.abc import Callable
from typing import Annotated

import typer

from cmp_rerank.cli.answer import answer
from cmp_rerank.cli.compare import compare
from cmp_rerank.cli.curves import curves
from cmp_rerank.cli.demo import demo
from cmp_rerank.cli.doctor import doctor
from cmp_rerank.cli.evaluate import evaluate
from cmp_rerank.cli.evaluate_answers import evaluate_answers
from cmp_rerank.cli.fuse import fuse
from cmp_rerank.cli.guard import guard
from cmp_rerank.cli.mine import mine
from cmp_rerank.cli.options import with_debug
from cmp_rerank.cli.report import report
from cmp_rerank.cli.rerank import rerank
from cmp_rerank.cli.retrieve import retrieve
from cmp_rerank.cli.serve import serve
from cmp_rerank.cli.train import train
from cmp_rerank.cli.train_reader import train_reader
from cmp_rerank.cli.views import views
from cmp_rerank.version import package_version

app = typer.Typer(
    name="cmp-rerank",
    help="Fine-tune rerankers and readers with comparative loss, and measure whether it helped.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmp-rerank {package_version()}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune rerankers and readers with comparative loss, and measure whether it helped."""


COMMANDS: dict[str, Callable[..., None]] = {
    "retrieve": retrieve,
    "fuse": fuse,
    "mine": mine,
    "train": train,
    "guard": guard,
    "rerank": rerank,
    "serve": serve,
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "curves": curves,
    "views": views,
    "train-reader": train_reader,
    "answer": answer,
    "evaluate-answers": evaluate_answers,
    "demo": demo,
    "doctor": doctor,
}
for _name, _function in COMMANDS.items():
    app.command(_name)(with_debug(_function))
