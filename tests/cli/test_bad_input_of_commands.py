"""Every command with every kind of bad input: one line that helps, exit status 2, nothing half-written."""

from __future__ import annotations

import inspect
import logging
import os
import resource
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from click.testing import Result
from pipeline_data import CORPUS
from typer.testing import CliRunner
from usages import USAGES, Usage, make_world

from cmp_rerank.cli.main import COMMANDS, app
from cmp_rerank.cli.options import written_places
from cmp_rerank.ir import (
    read_corpus,
    read_qrels,
    read_queries,
    read_run,
    write_corpus,
    write_qrels,
    write_queries,
    write_run,
)
from cmp_rerank.ir.abandoned import sole_writer

ALL = [usage for usages in USAGES.values() for usage in usages]
#: The demo makes its own data, for a minute; tests/demo has its interruptions.
QUICK = [usage for usage in ALL if usage.command != "demo"]
READING = [usage for usage in QUICK if "{" in usage.arguments]
#: Both ways to train write the same, in seconds.
WRITING = [usage for usage in QUICK if usage.out and usage != USAGES["train"][1]]
#: Models are written by another library, which has an error of its own for it.
DISKS = [(usage, size) for usage in WRITING for size in (100, 2000) if size == 100 or "guard" in usage.command]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good files of every kind."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A new folder for what is written."""
    folder = tmp_path / "new"
    folder.mkdir()
    return folder


def ids(usages: list[Usage]) -> list[str]:
    return [f"{usage.command}-{USAGES[usage.command].index(usage)}" for usage in usages]


def call(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


def said(result: Result) -> list[str]:
    """The lines on stderr, without the bars of the libraries."""
    return [
        line
        for line in result.stderr.splitlines()
        if line.strip() and "it/s]" not in line and not line.startswith("cmp-rerank: note: ")
    ]


def refused(result: Result) -> str:
    """The one line of an error, without the name of the program."""
    lines = said(result)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    if lines[0].startswith("Usage: "):  # of typer itself
        return " ".join(lines[2:])
    assert len(lines) == 1, lines
    assert lines[0].startswith("cmp-rerank: ")
    assert "fault of cmp-rerank" not in lines[0]
    return lines[0].removeprefix("cmp-rerank: ")


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_every_command_has_a_usage() -> None:
    assert USAGES.keys() == COMMANDS.keys()
    assert all(usage.command == name for name, usages in USAGES.items() for usage in usages)


@pytest.mark.parametrize("usage", QUICK, ids=ids(QUICK))
def test_good_input_is_taken(usage: Usage, world: Mapping[str, Path], out: Path) -> None:
    """Else a refusal would tell nothing. And what comes first in the list is what the other tests damage."""
    result = call(usage.call(world, out / usage.out))
    assert result.exit_code == 0, result.output
    assert bool(usage.out) == bool(everything(out))


# Files that cannot be read ---------------------------------------------------------------------------------------

#: By the ending of the file: what has other columns than it should.
COLUMNS = {
    ".jsonl": '{"name": "x"}\n',
    ".tsv": "a\tb\tc\td\te\tf\tg\n",
    ".trec": "a b c d e f g\n",
    ".json": '[{"name": "x"}]\n',
    ".yaml": "data: [1, 2]\nsomething: else\n",
}


def missing(good: Path, folder: Path) -> Path:
    return folder / f"bad{good.suffix}"


def directory(good: Path, folder: Path) -> Path:
    path = missing(good, folder)
    path.mkdir()
    return path


def binary(good: Path, folder: Path) -> Path:
    path = missing(good, folder)
    path.write_bytes(bytes(range(256)) * 20)
    return path


def columns(good: Path, folder: Path) -> Path:
    """Other columns; of a collection in each of its files; a model that is damaged."""
    path = missing(good, folder)
    if good.suffix:
        path.write_text(COLUMNS[good.suffix])
        return path
    path.mkdir()
    (path / "config.json").write_text("{")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (path / name).write_text(COLUMNS[".jsonl"])
    (path / "qrels").mkdir()
    for split in ("train", "dev", "test"):
        (path / "qrels" / f"{split}.tsv").write_text(COLUMNS[".tsv"])
    return path


DAMAGES: list[Callable[[Path, Path], Path]] = [missing, directory, binary, columns]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("usage", QUICK, ids=ids(QUICK))
def test_a_file_that_cannot_be_read(
    usage: Usage, damage: Callable[[Path, Path], Path], world: Mapping[str, Path], tmp_path: Path, out: Path
) -> None:
    for name in usage.files(world):
        if damage is columns and world[name].suffix == ".txt":
            continue  # a text has no columns
        folder = tmp_path / name
        folder.mkdir()
        bad = damage(world[name], folder)
        result = call(usage.call({**world, name: bad}, out / usage.out))
        if damage is columns and name == "config":  # all errors of a configuration are told at once
            assert result.exit_code == 2
            assert said(result)[0] == f"cmp-rerank: {bad}: {len(said(result)) - 1} errors"
        else:
            assert str(bad) in refused(result), (name, result.output)
        assert not everything(out), name


def test_a_missing_model_of_the_demo(world: Mapping[str, Path], out: Path) -> None:
    (usage,) = USAGES["demo"]
    result = call(usage.call({**world, "encoder": Path("nothing")}, out / usage.out))
    assert "does not exist" in refused(result)
    assert not everything(out)


@pytest.mark.parametrize("usage", READING, ids=ids(READING))
def test_the_traceback_is_shown_on_demand(usage: Usage, world: Mapping[str, Path], tmp_path: Path, out: Path) -> None:
    bad = usage.files(world)[-1]
    result = call([*usage.call({**world, bad: tmp_path / "nothing"}, out / usage.out), "--debug"])
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert said(result)[-1].startswith("cmp-rerank: ")


# Places that cannot be written to --------------------------------------------------------------------------------

#: Commands that make the folders above what they write.
MAKES_FOLDERS = {"train", "train-reader", "demo"}


@pytest.mark.parametrize("usage", [usage for usage in ALL if usage.out], ids=ids([u for u in ALL if u.out]))
def test_outputs_are_checked_first(usage: Usage, tmp_path: Path) -> None:
    """Before any input is looked at: here there is none of them."""
    (tmp_path / "file").write_text("")
    model = usage.command == "demo"  # typer itself looks for its model
    nothing = defaultdict(lambda: tmp_path if model else tmp_path / "no such input")
    places = {tmp_path / "file" / "below": "this is a file; below cannot be written below it"}
    if usage.command not in MAKES_FOLDERS:
        places[tmp_path / "nowhere" / usage.out] = f"no such directory; create it before writing {usage.out}"
    if written_places(COMMANDS[usage.command])["predictions" if usage.command == "answer" else "out"].folder:
        places[tmp_path / "file"] = "there is such a file already; remove it"
    else:
        (tmp_path / usage.out).mkdir()
        places[tmp_path / usage.out] = "there is such a folder already; remove it"
    for place, message in places.items():
        arguments = [one.format_map(Files(nothing, out=place)) for one in usage.arguments.split()]
        assert message in refused(call([usage.command, *arguments])), place


class Files(dict):
    """Any name of a file."""

    def __init__(self, files: Mapping[str, Path], **more: Path) -> None:
        super().__init__(more)
        self.files = files

    def __missing__(self, name: str) -> Path:
        return self.files[name]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_place_to_write_to_is_marked(command: str) -> None:
    """By the names of the options: a new one is thought of here."""
    writing = {"out", "index", "passages", "predictions"}
    arguments = inspect.signature(COMMANDS[command]).parameters
    paths = {name for name in arguments if name in writing and not (command == "rerank" and name == "index")}
    assert {name for name in paths if "list" not in str(arguments[name].annotation)} == set(
        written_places(COMMANDS[command])
    )


# Ids that do not match -------------------------------------------------------------------------------------------


def renamed(name: str, what: str, world: Mapping[str, Path], folder: Path) -> Path | None:
    """A file whose queries or documents have other ids; None where it has none of them."""
    good, bad = world[name], folder / world[name].name

    def other(kind: str, of: str) -> str:
        return f"x{of}" if kind == what else of

    if name in ("run", "second"):
        run = read_run(good)
        write_run(
            bad,
            {
                other("queries", query): {other("documents", doc): score for doc, score in scores.items()}
                for query, scores in run.items()
            },
        )
    elif name.endswith("qrels"):
        qrels = read_qrels(good)
        write_qrels(
            bad,
            {
                other("queries", query): {other("documents", doc): grade for doc, grade in grades.items()}
                for query, grades in qrels.items()
            },
        )
    elif name == "queries" and what == "queries":
        write_queries(bad, {other(what, query): text for query, text in read_queries(good).items()})
    elif name == "corpus" and what == "documents":
        write_corpus(bad, {other(what, doc): text for doc, text in read_corpus(good).items()})
    else:
        return None
    return bad


#: What goes without an id in common, and what says how many there are.
ALLOWED = {
    # Documents that are retrieved are not judged: the first stage may be bad.
    ("retrieve", "corpus", "documents"): "",
    ("retrieve", "run", "documents"): "",
    ("retrieve", "qrels", "documents"): "none of the",
    ("evaluate", "qrels", "documents"): "none of the 238 documents of the run is judged",
    ("evaluate", "run", "documents"): "none of the 238 documents of the run is judged",
    ("compare", "qrels", "documents"): "none of the",
    ("compare", "run", "documents"): "none of the",
    ("compare", "second", "documents"): "none of the",
    ("report", "qrels", "documents"): "none of the",
    ("report", "run", "documents"): "17 of 31 documents on the page have no text ('xd0', 'xd1', 'xd10', ...)",
    ("report", "second", "documents"): "documents on the page have no text",
    ("guard", "dev_qrels", "documents"): "",
    ("curves", "qrels", "documents"): "",
    # Runs of different queries can be joined.
    ("fuse", "run", "queries"): "14 of 28 queries of the runs are not in it ('q0', 'q1', 'q2', ...)",
    ("fuse", "second", "queries"): "14 of 28 queries of the runs are not in it ('q0', 'q1', 'q2', ...)",
    ("fuse", "run", "documents"): "",
    ("fuse", "second", "documents"): "",
}


@pytest.mark.parametrize("what", ["queries", "documents"])
@pytest.mark.parametrize("usage", QUICK, ids=ids(QUICK))
def test_ids_that_match_no_other_file(
    usage: Usage, what: str, world: Mapping[str, Path], tmp_path: Path, out: Path
) -> None:
    """Numbers and three examples; or a note where it may be meant."""
    for name in usage.files(world):
        bad = renamed(name, what, world, tmp_path)
        if bad is None:
            continue
        result = call(usage.call({**world, name: bad}, out / usage.out))
        note = ALLOWED.get((usage.command, name, what))
        if note is None:
            error = refused(result)
            assert sum(f"'{mark}{what[0]}{place}'" in error for mark in ("", "x") for place in range(20)) >= 3, error
            assert any(character.isdigit() for character in error.replace("'", "").split("got")[-1])
            assert not everything(out), name
        else:
            assert result.exit_code == 0, result.output
            assert note in " ".join(result.output.split()), (name, result.output)
            out = out.with_name(f"{out.name}+")
            out.mkdir()


@pytest.mark.parametrize("command", ["retrieve", "mine", "train", "guard", "evaluate", "compare", "report", "curves"])
def test_no_judged_query_is_left(command: str, world: Mapping[str, Path], tmp_path: Path, out: Path) -> None:
    """Judgments without a query, where judgments are read."""
    usage = next(u for u in USAGES[command] if any("qrels" in name or name == "beir" for name in u.files(world)))
    for name in [name for name in usage.files(world) if "qrels" in name]:
        bad = tmp_path / world[name].name
        bad.write_text("query-id\tcorpus-id\tscore\n" if bad.suffix == ".tsv" else "")
        error = refused(call(usage.call({**world, name: bad}, out / usage.out)))
        assert any(word in error for word in ("no judg", "empty", "judged query", "no line")), error
        assert not everything(out)


# Models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", QUICK, ids=ids(QUICK))
def test_a_model_that_is_no_cross_encoder(usage: Usage, world: Mapping[str, Path], out: Path) -> None:
    """Its head would be random. A training may begin with one, and so may the guard: the head is new then."""
    takes_encoders = {("train", "model"), ("guard", "model")}
    for name in {"model", "tuned"} & set(usage.files(world)):
        if (usage.command, name) in takes_encoders:
            continue
        for other in ("encoder", "reader"):
            error = refused(call(usage.call({**world, name: world[other]}, out / usage.out)))
            assert f"{world[other]}: a reranker must be a cross-encoder" in error
            assert not everything(out)


@pytest.mark.parametrize("usage", USAGES["answer"], ids=ids(USAGES["answer"]))
def test_a_model_that_is_no_reader(usage: Usage, world: Mapping[str, Path], out: Path) -> None:
    for other in ("encoder", "model"):
        error = refused(call(usage.call({**world, "reader": world[other]}, out / usage.out)))
        assert "must be an extractive reader" in error
        assert not everything(out)


# A disk that is full, and a kill ---------------------------------------------------------------------------------


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can become longer than so many bytes, as on a disk that is full."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    raising, logging.raiseExceptions = logging.raiseExceptions, False  # pytest has what is logged in a file
    try:
        yield
    finally:
        logging.raiseExceptions = raising
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def is_unfinished(path: str, usage: Usage) -> bool:
    """Whether a file is one that the next call goes on with: a journal, a stage, a checkpoint of the trainer."""
    hidden = any(part.startswith(".") for part in Path(path).parts)
    return hidden or ((bool(usage.again) or usage.command == "rerank") and path != "new.trec")


def goes_on(usage: Usage, world: Mapping[str, Path], out: Path) -> None:
    """The same command, or with --resume, completes, and leaves nothing unfinished behind."""
    result = call(usage.call(world, out / usage.out))
    if result.exit_code and usage.again:
        assert usage.again in refused(result)
        result = call([*usage.call(world, out / usage.out), *usage.again.split()])
    assert result.exit_code == 0, result.output
    assert (out / usage.out).exists()


@pytest.mark.parametrize(("usage", "size"), DISKS, ids=ids([usage for usage, _ in DISKS]))
def test_a_full_disk(usage: Usage, size: int, world: Mapping[str, Path], out: Path) -> None:
    with room_for(size):
        result = call(usage.call(world, out / usage.out))
    assert refused(result).startswith("there is no room to write the results (")
    left = everything(out)
    assert all(path == usage.out or is_unfinished(path, usage) for path in left), left
    assert not (out / usage.out).is_file()
    goes_on(usage, world, out)


@pytest.mark.parametrize("usage", WRITING, ids=ids(WRITING))
def test_a_kill_before_the_last_rename(usage: Usage, world: Mapping[str, Path], tmp_path: Path, out: Path) -> None:
    """A process that ends in the middle, with no chance to clean up: what was not complete is not there."""
    arguments = usage.call(world, out / usage.out)
    child = os.fork()
    if child == 0:
        signal.alarm(60)

        def ends(*_: object, **__: object) -> None:
            os._exit(9)

        os.replace = os.rename = Path.replace = Path.rename = ends  # type: ignore[assignment,method-assign]
        try:
            call(arguments)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert not (out / usage.out).is_file()
    goes_on(usage, world, out)
    if (out / usage.out).is_file() and usage.command != "report":  # a page has the time in it
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        assert call(usage.call(world, fresh / usage.out)).exit_code == 0
        assert (out / usage.out).read_bytes() == (fresh / usage.out).read_bytes()


# A window that is smaller than the texts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(world: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same files, where documents are longer than the window of the models, 128 tokens."""
    folder = tmp_path_factory.mktemp("long")
    write_corpus(folder / "corpus.jsonl", {doc: f"{text} " * 60 for doc, text in CORPUS.items()})
    shutil.copytree(world["beir"], folder / "beir")
    shutil.copy(folder / "corpus.jsonl", folder / "beir" / "corpus.jsonl")
    return {**world, "corpus": folder / "corpus.jsonl", "beir": folder / "beir"}


@pytest.mark.parametrize(
    ("command", "number", "notes"),
    [
        ("rerank", 0, ["42 of the pairs (100.0%) exceed the window, and were cut", "--long-documents"]),
        ("guard", 0, [" pairs exceed the window of the model, and were cut", "LongDocumentReranker"]),
        ("train", 1, ["pairs exceed the window of the model, and were cut", "LongDocumentReranker"]),
        ("curves", 0, ["28 of 28 passages were truncated"]),
        ("mine", 1, ["scored by models: ", " of the pairs (", "exceed the window, and were cut"]),
        ("mine", 2, ["scored by models: ", " of the pairs (", "exceed the window, and were cut"]),
        ("answer", 0, ["passages longer than a window, and read in parts: "]),
    ],
)
def test_a_window_smaller_than_the_texts(
    command: str, number: int, notes: list[str], long: Mapping[str, Path], out: Path
) -> None:
    """It is counted and said by each command that hands over what comes of it."""
    result = call(USAGES[command][number].call(long, out / USAGES[command][number].out))
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert all(note in words for note in notes), result.output


def test_the_other_documents_fit(world: Mapping[str, Path], out: Path) -> None:
    result = call(USAGES["rerank"][0].call(world, out / "new.trec"))
    assert "window" not in result.stderr


def test_a_passage_beyond_the_window_of_a_reader_is_split(world: Mapping[str, Path], out: Path) -> None:
    questions = out / "long.json"
    text = world["questions"].read_text().replace(tiny_models.PASSAGES[0], tiny_models.PASSAGES[0] * 60)
    questions.write_text(text)
    result = call(USAGES["train-reader"][0].call({**world, "questions": questions}, out / "reader"))
    assert result.exit_code == 0, result.output
    assert "1 passages are longer than a window" in result.stderr


@pytest.mark.parametrize("command", ["train", "train-reader", "guard"])
def test_a_folder_that_another_process_is_writing(command: str, world: Mapping[str, Path], out: Path) -> None:
    usage = USAGES[command][0]
    with sole_writer(out / usage.out):
        result = call(usage.call(world, out / usage.out))
    assert result.exit_code == 2, result.output
    assert said(result)[-1].endswith(
        f"{out / usage.out}: another process is writing this folder; wait until it ends, or choose another folder"
    )
    assert not [path for path in out.rglob("*") if path.is_file()]
