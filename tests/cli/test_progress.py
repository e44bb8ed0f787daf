"""What long work shows on stderr."""

from __future__ import annotations

import io
import sys

import pytest

from cmp_rerank.cli import progress as module
from cmp_rerank.cli.progress import progress


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(clock: Clock, seconds: float) -> None:
    with progress("Scoring [x]", "pairs") as show:
        for done in range(1, 101):
            clock.now += seconds / 100
            show(done, 100)


def test_lines_with_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 50.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[3] == "[   20.0 s] Scoring [x]: 40 of 100 pairs, 2.0/s, 30 s left"


def test_the_time_left_is_told_by_what_was_done_here(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Training") as show:
        clock.now = 100.0  # the start is evaluated; and 60 steps were taken before an interruption
        for done in range(61, 101):
            clock.now += 1
            show(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[2] for line in lines[1:3]] == ["1.0/s, 30 s left", "1.0/s, 20 s left"]


def test_where_stderr_is_closed_nothing_is_shown(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it printed to stdout, which has the results."""
    monkeypatch.setattr(sys, "stderr", None)
    work(clock, 50.0)
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


def test_short_work_shows_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 1.9)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "shown"), [(1.0, False), (50.0, True)])
def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, shown: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work(clock, seconds)
    assert ("100/100" in terminal.getvalue()) == shown
    assert ("2.0 pairs/s" in terminal.getvalue()) == shown
    assert ("Scoring [x]" in terminal.getvalue()) == shown


def test_quick_work_after_a_slow_start_prints_its_end_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Mining", "queries") as show:
        clock.now = 3.0
        for done in range(11):
            clock.now += 0.01
            show(done, 10)
    assert [line.split("] ")[1].split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "Mining: 1 of 10 queries",
        "Mining: 10 of 10 queries",
    ]


def test_a_bar_within_another_is_a_line_of_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("Training", "steps") as outer:
        for step in range(1, 3):
            clock.now += 10
            outer(step, 4)
            with progress("Validation", "pairs") as inner:
                for done in range(5):
                    clock.now += 1
                    inner(done, 5)
                (bar,) = module._shown
                bar.refresh()
            assert [task.description for task in bar.tasks] == ["Training"]
    assert module._shown == []
    shown = terminal.getvalue()
    assert "Training" in shown
    assert "Validation" in shown
    assert "4/5" in shown


def test_a_bar_within_work_that_shows_none_yet_is_on_its_own(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is evaluated before the first training step."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("Training", "steps") as outer:
        outer(0, 4)
        work(clock, 50.0)
        assert module._shown == []
        assert "100/100" in terminal.getvalue()
        outer(3, 4)
    assert "3/4" in terminal.getvalue()
