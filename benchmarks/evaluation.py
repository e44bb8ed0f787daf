"""Evaluate 7,000 queries x 1,000 documents in 5 measures, from files: this package, ir_measures, trec_eval.

    python benchmarks/evaluation.py [--trec-eval NAME=PATH ...] [--queries 7000] [--repeats 3]

Each program is started as a user would start it, one after the other in turns, and timed from outside: wall
clock, processor time of the process, and its largest memory. The medians are compared. trec_eval is
built from https://github.com/usnistgov/trec_eval by `make`; without a path it is left out. All programs
must print the same values, or the benchmark fails. The rate of reading alone is measured in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

SEED = 0
RESULT = Path(__file__).parent / "results" / "evaluation.json"
MEASURES = ["nDCG@10", "RR", "AP", "R@100", "P@5"]
TREC_MEASURES = ["ndcg_cut.10", "recip_rank", "map", "recall.100", "P.5"]
READ = """
import sys, time
from cmp_rerank.ir import stream_run, read_run
start = time.perf_counter()
if sys.argv[2] == "stream":
    rows = sum(len(block) for block in stream_run(sys.argv[1]))
else:
    rows = sum(map(len, read_run(sys.argv[1]).values()))
print(rows, time.perf_counter() - start)
"""


def make(folder: Path, queries: int, depth: int) -> None:
    """A run with scores of six decimals, ids as in MS MARCO, and up to 20 judgments for a query."""
    rng = np.random.default_rng(SEED)
    with (folder / "run.trec").open("w") as run, (folder / "qrels").open("w") as qrels:
        for q in range(queries):
            docs = rng.choice(8_841_823, depth, replace=False).tolist()
            scores = np.sort(rng.gamma(9, 1.5, depth))[::-1].tolist()
            query = 1_000_000 + 3 * q
            run.writelines(
                f"{query} Q0 {d} {i} {s:.6f} bm25\n" for i, (d, s) in enumerate(zip(docs, scores, strict=True), 1)
            )
            judged = np.unique((depth * rng.random(rng.integers(1, 20)) ** 2).astype(int)).tolist()
            qrels.writelines(f"{query} 0 {docs[i]} {rng.integers(0, 4)}\n" for i in judged)
            qrels.write(f"{query} 0 {9_000_000 + q} 1\n")


def run(command: list[str]) -> dict[str, object]:
    """Wall clock and processor seconds, peak memory, and what was printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise RuntimeError(f"{command} failed with status {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "cpu": cpu, "megabytes": usage.ru_maxrss / 1024, "printed": printed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trec-eval", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--queries", type=int, default=7000)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    trec = dict(entry.split("=", 1) for entry in arguments.trec_eval)
    if not trec and (found := shutil.which("trec_eval")):
        trec = {"trec_eval": found}
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, arguments.queries, arguments.depth)
        files = [str(folder / "qrels"), str(folder / "run.trec")]
        commands = {
            "cmp-rerank": [
                str(binaries / "cmp-rerank"),
                "evaluate",
                *files,
                *(word for measure in MEASURES for word in ("-m", measure)),
            ],
            "ir_measures": [str(binaries / "ir_measures"), *files, *MEASURES],
        }
        for label, path in trec.items():
            flags = [word for measure in TREC_MEASURES for word in ("-m", measure)]
            commands[label] = [path, "-c", *flags, *files]
        results: dict[str, list[dict[str, object]]] = {label: [] for label in commands}
        for _ in range(arguments.repeats):
            for label, command in commands.items():
                results[label].append(run(command))
        values = {
            label: sorted(line.split()[-1] for line in str(r[0]["printed"]).splitlines())
            for label, r in results.items()
        }
        if len({tuple(v) for v in values.values()}) != 1:
            raise RuntimeError(f"the programs do not agree: {values}")
        (folder / "run.trec.gz").write_bytes(gzip.compress((folder / "run.trec").read_bytes(), 6))
        rates = {}
        for label, path, how in (
            ("stream", "run.trec", "stream"),
            ("stream, gzip", "run.trec.gz", "stream"),
            ("read_run, all in memory", "run.trec", "read"),
        ):
            measured = run([sys.executable, "-c", READ, str(folder / path), how])
            rows, seconds = str(measured["printed"]).split()
            rates[label] = {
                "lines": int(rows),
                "seconds": round(float(seconds), 2),
                "lines_per_second": round(int(rows) / float(seconds)),
                "megabytes": round(float(str(measured["megabytes"]))),
            }
        half = folder / "half.trec"
        with (folder / "run.trec").open() as whole, half.open("w") as file:
            file.writelines(
                line for _, line in zip(range(arguments.queries // 2 * arguments.depth), whole, strict=False)
            )
        rates["stream, half of the file"] = {
            "megabytes": round(float(str(run([sys.executable, "-c", READ, str(half), "stream"])["megabytes"])))
        }

    def median(label: str, what: str) -> float:
        return statistics.median(float(str(r[what])) for r in results[label])

    report = {
        "config": {
            "queries": arguments.queries,
            "documents": arguments.depth,
            "measures": MEASURES,
            "repeats": arguments.repeats,
            "seed": SEED,
        },
        "programs": {
            label: {what: round(median(label, what), 2) for what in ("wall", "cpu", "megabytes")}
            for label in commands
        },
        "time_of_others_relative_to_cmp_rerank": {
            label: {what: round(median(label, what) / median("cmp-rerank", what), 2) for what in ("wall", "cpu")}
            for label in commands
            if label != "cmp-rerank"
        },
        "reading": rates,
        "versions": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("cmp-rerank", "ir-measures", "pytrec-eval-terrier", "numpy", "pyarrow")},
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
