"""A corpus as large as MS MARCO's: built, opened, read at random, ranked through and reranked.

    python benchmarks/large_collection.py [--passages 200000] [--folder /tmp] [--out results.json]

The result in `results/collections.json` is of 8,841,823 passages (the number of MS MARCO's), which takes 7 GB of disk
and some minutes. The passages are made of random words, 60 each. Each step runs in a process of its own, as a user
would start it. Its peak memory is given twice: private memory, which a system cannot take back, and all of its memory
with the pages of mapped files, which it can.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SEED = 0
WORDS, PIECES, PIECE_WORDS, PASSAGE_PIECES = 50_000, 20_000, 20, 3
MEMORY = """
import heapq, json, random, re, sys, threading, time
start = time.perf_counter()
folder, passages = sys.argv[1], int(sys.argv[2])

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

peak, result = [0.0], {}

def watch():
    while True:
        peak[0] = max(peak[0], status("RssAnon"))
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
from cmp_rerank.collections import load
result["import_seconds"] = time.perf_counter() - start
before = status("RssAnon")
start = time.perf_counter()
collection = load(f"msmarco:{folder}", cache_dir=f"{folder}/cache")
corpus = collection.corpus
corpus[str(passages - 1)]
result["open_seconds"] = time.perf_counter() - start
start = time.perf_counter()
"""
STEPS = {
    "build": "",
    "open": "",
    "random_reads": """
draw = random.Random(1)
wanted = [str(draw.randrange(passages)) for _ in range(200_000)]
start = time.perf_counter()
size = sum(len(corpus[name]) for name in wanted)
result["reads_per_second"] = len(wanted) / (time.perf_counter() - start)
start = time.perf_counter()
for first in range(0, len(wanted), 1000):
    corpus.get_many(wanted[first : first + 1000])
result["reads_per_second_by_thousands"] = len(wanted) / (time.perf_counter() - start)
""",
    "cold_reads": """
draw = random.Random(2)
wanted = [str(draw.randrange(passages)) for _ in range(20_000)]
start = time.perf_counter()
size = sum(len(corpus[name]) for name in wanted)
result["reads_per_second"] = len(wanted) / (time.perf_counter() - start)
""",
    "rank_and_rerank": """
from cmp_rerank.evaluation import rerank
queries = collection.queries("dev")
terms = {query: set(text.split()) for query, text in queries.items()}
best = {query: [] for query in queries}
for name, text in corpus.items():
    words = set(text.split())
    for query, wanted in terms.items():
        found = (len(wanted & words), name)
        if len(best[query]) < 100:
            heapq.heappush(best[query], found)
        elif found > best[query][0]:
            heapq.heapreplace(best[query], found)
run = {query: {name: float(score) for score, name in found} for query, found in best.items()}
ranked = time.perf_counter() - start
result["passages_per_second"] = passages / ranked

class Overlap:
    def predict(self, pairs):
        return [len(set(query.split()) & set(text.split())) for query, text in pairs]

start = time.perf_counter()
again = rerank(Overlap(), queries, corpus, run)
result["rerank_seconds"] = time.perf_counter() - start
assert again == run, "the same scores, from texts that were read again by their ids"
result["rank_seconds"] = ranked
result["found"] = all(grades.keys() <= again[query].keys() for query, grades in collection.qrels("dev").items())
""",
}
END = """
result["private_before_mb"] = before
result["private_peak_mb"] = max(peak[0], status("RssAnon"))
result["peak_with_file_pages_mb"] = status("VmHWM")
print(json.dumps(result))
"""


def make(folder: Path, passages: int) -> None:
    """collection.tsv of random words, and 5 queries whose passages are known."""
    draw = random.Random(SEED)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(WORDS)]
    pieces = [" ".join(draw.choices(words, k=PIECE_WORDS)) for _ in range(PIECES)]
    with (folder / "collection.tsv").open("w", buffering=1 << 20) as file:
        for number in range(passages):
            text = " ".join([pieces[int(draw.random() * PIECES)] for _ in range(PASSAGE_PIECES)])
            file.write(f"{number}\t{text} p{number}\n")
    names = [draw.randrange(passages) for _ in range(5)]
    (folder / "queries.dev.tsv").write_text("".join(f"q{name}\tpassage p{name} zzz\n" for name in names))
    (folder / "qrels.dev.tsv").write_text("".join(f"q{name}\t0\t{name}\t1\n" for name in names))


def forget(folder: Path) -> None:
    """Take files out of the page cache, so that they are read from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where the files are made; they are removed in the end")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        start = time.perf_counter()
        make(folder, options.passages)
        result = {"passages": options.passages, "make_seconds": time.perf_counter() - start}
        result["file_gb"] = (folder / "collection.tsv").stat().st_size / 1e9
        for name, code in STEPS.items():
            if name == "cold_reads":
                forget(folder / "cache")
            command = [sys.executable, "-c", MEMORY + code + END, str(folder), str(options.passages)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result[name] = json.loads(done.stdout)
            print(name, done.stdout, end="", flush=True)
        store = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
        result["store_gb"] = store / 1e9
    finally:
        shutil.rmtree(folder)
    result |= {
        "seed": SEED,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "load_average": os.getloadavg(),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
