"""Files that can be read only once: format detection and several readers must lose nothing of them."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cmp_rerank.ir import read_run, write_run
from cmp_rerank.ir.lines import open_bytes, replacing

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
    assert "--measure and --json need --out" in refused.stderr


def test_standard_output_is_written_as_a_file_would_be(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    write_run("-", RUN)
    with replacing("-") as file:
        file.write("more\n")
    assert out.getvalue() == run_file.read_text() + "more\n"
    assert not out.closed
