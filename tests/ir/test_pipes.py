"""Files that can be read only once: format detection and several readers must lose nothing of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from optional_libraries import datasets
from tiny_models import bert_config, save_checkpoint, wordpiece
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.cli.retrieve import retrieve
from cmp_rerank.collections.writing import write_beir
from cmp_rerank.ir import read_run, write_run
from cmp_rerank.ir.abandoned import UNFINISHED
from cmp_rerank.ir.lines import check_place, is_stream, open_bytes, replacing, replacing_folder
from cmp_rerank.mining.write import about_path, check_target, write_rows

#: Longer than any buffer that looks at the head of a file.
RUN = {f"q{i}": {f"d{j}": float(-j) for j in range(10)} for i in range(5000)}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    write_run(tmp_path / "a.run", RUN)
    return tmp_path / "a.run"


def fed(pipe: Path, content: bytes) -> threading.Thread:
    os.mkfifo(pipe)
    thread = threading.Thread(target=pipe.write_bytes, args=(content,))
    thread.start()
    return thread


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_whole_and_again(run_file: Path, tmp_path: Path, packed: bool) -> None:
    content = run_file.read_bytes()
    thread = fed(tmp_path / "pipe", gzip.compress(content) if packed else content)
    assert read_run(tmp_path / "pipe") == RUN
    thread.join()
    with open_bytes(tmp_path / "pipe") as file:
        assert file.read() == content


@pytest.mark.parametrize(
    "command",
    ["cat {run} | {us} evaluate {qrels} -", "{us} evaluate {qrels} <(cat {run})", "{us} evaluate - {run} < {qrels}"],
)
def test_commands_take_pipes(command: str, run_file: Path, tmp_path: Path) -> None:
    qrels = tmp_path / "qrels"
    qrels.write_text("".join(f"{query} 0 d1 1\n" for query in RUN))
    us = f"'{sys.executable}' -m cmp_rerank"
    line = command.format(us=us, run=run_file, qrels=qrels) + " -m RR"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "RR\t0.5000\n", "")


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("{us} evaluate {qrels} {run} -m RR >&-", 0, ""),
        ("{us} evaluate {qrels} - -m RR <&-", 2, "-: standard input is closed"),
        ("{us} fuse {run} {run} -o - >&-", 2, "-: standard output is closed"),
        ("{us} evaluate {qrels} {run} -m RR 2>&-", 0, ""),
    ],
)
def test_streams_that_are_closed(line: str, status: int, message: str, run_file: Path, tmp_path: Path) -> None:
    """As of a service, or of a job without a terminal."""
    qrels = tmp_path / "qrels"
    qrels.write_text("".join(f"{query} 0 d1 1\n" for query in RUN))
    command = line.format(us=f"'{sys.executable}' -m cmp_rerank", run=run_file, qrels=qrels)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(f"cmp-rerank: {message}" if message else "")
    assert len(done.stderr.splitlines()) == bool(message)


def test_a_chain_of_commands(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(
            f'{{"_id": "d{i}", "text": "{text}"}}\n'
            for i, text in enumerate(("bees make honey", "pandas eat bamboo"))
        )
    )
    (tmp_path / "queries.tsv").write_text("q1\twho makes honey\nq2\twhat do pandas eat\n")
    (tmp_path / "qrels").write_text("q1 0 d0 1\nq2 0 d1 1\n")
    us = f"'{sys.executable}' -m cmp_rerank"
    retrieve = f"{us} retrieve --corpus corpus.jsonl --queries queries.tsv -o -"
    line = (
        f"{retrieve} | {us} fuse - <({retrieve}) -o - | {us} compare qrels first=- second=<({retrieve}) -m RR --json"
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [mean["mean"] for mean in json.loads(done.stdout)["means"]] == [1.0, 1.0]
    refused = subprocess.run(
        ["bash", "-c", f"{retrieve} --json"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--json needs --out" in refused.stderr


def test_standard_output_is_written_as_a_file_would_be(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    write_run("-", RUN)
    with replacing("-") as file:
        file.write("more\n")
    assert out.getvalue() == run_file.read_text() + "more\n"
    assert not out.closed


def test_standard_output_by_its_name_keeps_what_a_file_has(tmp_path: Path) -> None:
    """As in `(one; another -o /dev/stdout; third) > file`: the file was replaced, and what others print was lost."""
    write_run(tmp_path / "run", {"q": {"d": 1.0}})
    fuse = f"'{sys.executable}' -m cmp_rerank fuse run run -o"
    line = f"{fuse} - > plain; (echo before; {fuse} /dev/stdout; echo after) > named"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (tmp_path / "named").read_text() == f"before\n{(tmp_path / 'plain').read_text()}after\n", done.stderr
    with pytest.raises(ValueError, match="--json needs --out"):
        retrieve(Path("/dev/stdout"), as_json=True)


@contextlib.contextmanager
def drained(pipe: Path) -> Iterator[list[bytes]]:
    """What is written to a new pipe."""
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    yield found
    reader.join(20)


def test_a_pipe_is_written_to_and_stays_a_pipe(run_file: Path, tmp_path: Path) -> None:
    """As a device does: the null device must not become a file."""
    for name in ("pipe.trec", "pipe.gz"):
        with drained(tmp_path / name) as found:
            assert is_stream(tmp_path / name)
            write_run(tmp_path / name, RUN)
        assert (tmp_path / name).is_fifo()
        content = gzip.decompress(found[0]) if name.endswith(".gz") else found[0]
        assert content == run_file.read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "command", ["fuse {run} {run} -o {out}", "rerank {texts} --run {run} --model {model} -o {out}"]
)
def test_commands_write_to_a_pipe(command: str, tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q\tbees\n")
    (tmp_path / "c.tsv").write_text("d\thoney\n")
    write_run(tmp_path / "a.trec", {"q": {"d": 1.0}})
    if "{model}" in command:
        save_checkpoint(tmp_path / "model", bert_config(), wordpiece())
    given = command.format(
        run=tmp_path / "a.trec",
        texts=f"--queries {tmp_path / 'q.tsv'} --corpus {tmp_path / 'c.tsv'}",
        model=tmp_path / "model",
        out=tmp_path / "pipe",
    )
    with drained(tmp_path / "pipe") as found:
        before = sorted(tmp_path.iterdir())
        done = CliRunner().invoke(app, given.split())
    assert done.exit_code == 0, done.output
    assert found[0].startswith(b"q Q0 d 1 ")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "pipe").is_fifo()


def test_rows_are_not_written_over_what_is_no_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    (tmp_path / "rows").write_text("mine")
    for name in ("rows.jsonl", "rows"):
        with pytest.raises(ValueError, match=rf"{name}: there is such a file already"):
            check_target(tmp_path / name)


def test_of_a_link_the_file_that_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, before in (("old.trec", "mine"), ("new.trec", None)):
        target, link = tmp_path / "there" / name, tmp_path / name
        if before is not None:
            target.write_text(before)
        link.symlink_to(target)
        check_place(link)
        write_run(link, {"q": {"d": 1.0}})
        assert link.is_symlink()
        assert read_run(target) == {"q": {"d": 1.0}}
    (tmp_path / "lost.trec").symlink_to(tmp_path / "nowhere" / "lost.trec")
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        check_place(tmp_path / "lost.trec")
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        write_run(tmp_path / "lost.trec", {"q": {"d": 1.0}})


def _links(folder: Path, name: str) -> dict[str, tuple[Path, Path]]:
    """Links of three kinds, and what they name: what is there, what is not yet there, what has another name."""
    (folder / "there").mkdir()
    found = {}
    for kind, target in (
        ("here", folder / f"own{name}"),
        ("new", folder / f"new{name}"),
        ("there", folder / "there" / f"x{name}"),
    ):
        link = folder / f"link-{kind}{name}"
        link.symlink_to(target)
        found[kind] = (link, target)
    return found


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_of_a_link_the_rows_that_it_names_are_written(suffix: str, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"query": ["bees"]})
    links = _links(tmp_path, suffix)
    if suffix:
        links["here"][1].write_text("mine")
    for link, target in links.values():
        write_rows(rows, link, {"made": "here"})
        assert link.is_symlink()
        assert target.is_dir() if not suffix else target.stat().st_size > 4
        assert json.loads(about_path(link).read_text())["made"] == "here"
    assert not list(tmp_path.rglob(".*"))
    (tmp_path / f"lost{suffix}").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        check_target(tmp_path / f"lost{suffix}")


def test_of_a_link_the_folder_that_it_names_is_written(tmp_path: Path) -> None:
    links = _links(tmp_path, "")
    links["here"][1].mkdir()
    (links["here"][1] / "old").touch()
    for link, target in links.values():
        with replacing_folder(link) as folder:
            (folder / "content").touch()
        assert link.is_symlink()
        assert os.listdir(target) == ["content"]
    (tmp_path / "beir").symlink_to(tmp_path / "there" / "beir")
    write_beir(tmp_path / "beir", corpus={"d": "x"}, queries={"q": "y"}, qrels={"test": {"q": {"d": 1}}})
    assert (tmp_path / "beir").is_symlink()
    assert (tmp_path / "there" / "beir" / "corpus.jsonl").exists()


def test_what_a_kill_left_beside_a_whole_folder_is_removed_when_the_folder_is_refused(tmp_path: Path) -> None:
    """All was done but that."""
    whole, left = tmp_path / "rows", tmp_path / f".rows.k2{UNFINISHED}"
    for folder in (whole, left):
        folder.mkdir()
    os.utime(left, (0, 0))
    with pytest.raises(ValueError, match="there is such a folder already"):
        check_place(whole)
    assert list(tmp_path.iterdir()) == [whole]


def test_a_closed_stdout_is_told_where_something_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ValueError, match="standard output is closed; give a file"), replacing("-"):
        pass
