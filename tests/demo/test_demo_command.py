"""The command, and after it the commands of the README, one after the other, as a newcomer types them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tiny_demo import RECIPE
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.demo import job, recipe

ROOT = Path(__file__).parents[2]
#: The commands from a corpus to a guarded reranker.
PATH = re.search(
    r"## From a corpus to a guarded reranker\n.*?```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
)
#: What is added to a command, so that it takes seconds.
QUICK = {
    "retrieve": ["--depth", "20"],
    "train": ["--set", "training.use_cpu=true", "--set", "guard.repeats=2"],
}
HUB_NAME = re.compile(r"cross-encoder/[\w.\-]+")


@pytest.fixture(scope="module")
def demo(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result]]:
    """A folder in which `cmp-rerank demo --fast` was run, and what that printed."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "FAST", replace(RECIPE, name="fast"))
        patch.chdir(folder)
        arguments = ["demo", "--fast", "--model", str(tiny_checkpoint), "--cache", "cache"]
        yield folder, CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "80"})


def test_it_ends_with_a_table_the_verdicts_and_where_to_look_next(demo: tuple[Path, Result]) -> None:
    folder, result = demo
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in result.stdout
    metrics = json.loads((folder / "cmp-rerank-demo" / "fast" / "metrics.json").read_text())
    table = [line for line in lines if re.search(r"\d\.\d{3} +\d\.\d{3}", line)]
    assert [re.split(r"  +", line.strip())[0] for line in table] == metrics["against_first_stage"]["systems"]
    for line in table:
        system, shown, *_ = re.split(r"  +", line.strip())
        (mean,) = (
            e["mean"]
            for e in metrics["against_first_stage"]["means"]
            if (e["system"], e["measure"]) == (system, "nDCG@10")
        )
        assert shown == f"{mean:.3f}"
    text = " ".join(result.stdout.split())
    for arm in recipe.ARMS:
        assert f"{arm}: {metrics['arms'][arm]['verdict']['sentence']}" in text
        assert f"cmp-rerank-demo/fast/{metrics['arms'][arm]['model']}" in "".join(lines)
    assert "comparative against plain, what is handed over: nDCG@10" in text
    assert "cmp-rerank train my.yaml -o my-run" in text
    assert (folder / "cmp-rerank-demo" / "fast" / "report.html").exists()


def test_json_is_the_metrics(demo: tuple[Path, Result], tiny_checkpoint: Path) -> None:
    folder, _ = demo
    result = CliRunner().invoke(
        app, ["demo", "--fast", "--model", str(tiny_checkpoint), "--cache", "cache", "--json"], catch_exceptions=False
    )
    assert json.loads(result.stdout) == json.loads((folder / "cmp-rerank-demo" / "fast" / "metrics.json").read_text())


def test_the_commands_of_the_readme_run_one_after_the_other(demo: tuple[Path, Result], tiny_checkpoint: Path) -> None:
    assert PATH is not None
    commands = PATH[1].replace("\\\n", " ").splitlines()
    values: dict[str, str] = {}
    names = []
    for line in commands:
        words = shlex.split(HUB_NAME.sub(str(tiny_checkpoint), line), comments=True)
        if not words:
            continue
        words = [re.sub(r"\$(\w+)", lambda match: values[match[1]], word) for word in words]
        if "=" in words[0]:
            name, _, value = words[0].partition("=")
            values[name] = value
            continue
        assert words[0] == "cmp-rerank"
        names.append(words[1])
        if words[1] == "demo":
            continue  # run already
        result = CliRunner().invoke(app, [*words[1:], *QUICK.get(words[1], [])], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    assert set(names) == {"demo", "retrieve", "mine", "train", "guard", "rerank", "evaluate", "compare"}


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_demo", interrupt)
    result = CliRunner().invoke(app, ["demo", "--fast", "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "the same command goes on" in " ".join(result.stderr.split())


def test_a_folder_of_something_else_is_one_line_and_status_2(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--model", str(tiny_checkpoint)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "this is no folder of the demo" in result.stderr


def test_help_teaches() -> None:
    text = " ".join(CliRunner().invoke(app, ["demo", "--help"], terminal_width=80).output.split())
    for part in ("--out", "--seed", "--fast", "BM25", "cmp-rerank demo --fast", "config.yaml", "10 minutes"):
        assert part in text
