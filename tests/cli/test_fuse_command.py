"""`cmp-rerank fuse`: runs from files, fused as the library does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.ir import combine, fuse, read_run, write_run

run_command = CliRunner().invoke
RUNS = [{"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"c": 0.5, "d": 0.25}, "p": {"a": 1.0}}]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for place, run in enumerate(RUNS):
        write_run(tmp_path / f"{place}.run", run)
    return [str(tmp_path / f"{place}.run") for place in range(2)]


def test_it_does_what_the_library_does(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "fused.run"
    for options, expected in (
        ([], fuse(RUNS)),
        (["--k", "1", "--weights", "1,0.5"], fuse(RUNS, 1, [1, 0.5])),
        (["--by", "z", "--weights", "2,1", "--depth", "2"], combine(RUNS, [2, 1], scale="z", depth=2)),
        (["--by", "max"], combine(RUNS)),
    ):
        result = run_command(app, ["fuse", *files, "-o", str(out), *options])
        assert result.exit_code == 0, result.output
        assert read_run(out) == expected
        assert result.stdout == f"{sum(map(len, expected.values()))} documents for 2 queries written to {out}\n"
    assert out.read_text().endswith(" fused\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "ranks"], "--by must be one of 'rank', 'max', 'minmax', 'z', 'none'; got 'ranks'"),
        (["--weights", "1;2"], "--weights takes numbers with commas between; got '1;2'"),
        (["--weights", "1"], "weights must be a list with a number for each of the 2 runs; got a list of 1"),
        (["--weights", "nan,1"], "weight 1 must be a number of at least 0; got nan"),
        (["--by", "minmax", "--k", "5"], "--k is for --by rank; got --by minmax; leave it out"),
        (["nowhere.run", "--tag", "my tag"], "the tag 'my tag' cannot stand in a file of columns"),
        (["nowhere.run"], "nowhere.run: no such file"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    files: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    result = run_command(app, ["fuse", *files, "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
