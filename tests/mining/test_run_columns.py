"""A run as columns is the run that is read into dictionaries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.ir import blocks_of, rank, read_run, write_run
from cmp_rerank.mining.run_columns import RunColumns

runs = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from([f"d{n}" for n in range(9)]), st.integers(-3, 3).map(float), min_size=1),
    min_size=1,
)


@settings(max_examples=50, deadline=None)
@given(run=runs, rows=st.integers(1, 5))
def test_it_is_the_run(run: dict[str, dict[str, float]], rows: int) -> None:
    columns = RunColumns(blocks_of(run, rows))
    assert columns == run
    assert list(columns) == list(run)
    assert len(columns) == len(run)
    assert "q9" not in columns
    assert columns.get("q9") is None


@pytest.mark.parametrize("grouped", [True, False])
def test_a_file(grouped: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    lines = ["q1 Q0 a 2 1.0 t\n", "q1 Q0 b 1 1.0 t\n", "q2 Q0 c 1 2.5 t\n"]
    path.write_text("".join(lines if grouped else [lines[0], lines[2], lines[1]]))
    assert RunColumns.read(path) == read_run(path) == {"q1": {"a": 1.0, "b": 1.0}, "q2": {"c": 2.5}}
    by_rank = RunColumns.read(path, by_rank=True)
    assert by_rank == {"q1": {"b": -1.0, "a": -2.0}, "q2": {"c": -1.0}}
    given = read_run(path, rank_order="given")
    assert [[document for document, _ in rank(by_rank[query])] for query in given] == [[*given[q]] for q in given]


#: Prints how much memory a run takes. In a process of its own: a thread of Arrow that frees something while tracing
#: stops ends the process (seen once with Python 3.11). The least of several looks: such a thread holds the bytes of
#: the file for a moment after they were read (seen once).
TRACED = """
import sys, time, tracemalloc
from cmp_rerank.ir import read_run
from cmp_rerank.mining.run_columns import RunColumns

read = {"read_run": read_run, "columns": RunColumns.read}[sys.argv[1]]
read(sys.argv[2])  # imports what it needs
tracemalloc.start()
run = read(sys.argv[2])
sizes = [tracemalloc.get_traced_memory()[0]]
while len(sizes) < 20:
    time.sleep(0.02)
    sizes.append(tracemalloc.get_traced_memory()[0])
print(len(run), min(sizes))
"""


def test_it_takes_less_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, {f"q{q}": {f"{q * 7919 + d}": float(-d) for d in range(200)} for q in range(200)})
    sizes = []
    for read in ("read_run", "columns"):
        told = subprocess.run(
            [sys.executable, "-c", TRACED, read, str(path)], capture_output=True, text=True, check=True
        )
        queries, size = map(int, told.stdout.split())
        assert queries == 200
        sizes.append(size)
    # Arrow's columns are not seen here: at most 20 bytes a line.
    assert sizes[1] + 20 * 40_000 < sizes[0] / 3
