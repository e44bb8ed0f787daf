"""The command itself: its two ways to start, its version, and that help is quick."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from cmp_rerank.cli.main import app


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"cmp-rerank {version('cmp-rerank')}\n")


@pytest.mark.parametrize(("argument", "status", "printed"), [("--version", 0, "cmp-rerank "), ("nothing", 2, "")])
def test_python_m_is_the_command(argument: str, status: int, printed: str) -> None:
    command = [sys.executable, "-m", "cmp_rerank", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith(printed)) == (status, True), done.stderr
    if status:
        assert "Usage: cmp-rerank" in done.stderr


def test_every_command_has_a_help_text() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for command in app.registered_commands:
        assert command.name is not None
        assert command.name in shown
        assert CliRunner().invoke(app, [command.name, "--help"]).exit_code == 0
