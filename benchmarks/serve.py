"""Latency and throughput of ``cmp-rerank serve`` under load, against a loop over ``CrossEncoder.predict``.

    python benchmarks/serve.py             # two CPU cores: a quarter of an hour
    python benchmarks/serve.py --quick     # to see that it works; its figures mean little

So many clients ask at the same time, each again as soon as it has its answer. The requests are the same for both:
1, 2, 5 or 10 documents, pairs of 20 to 128 tokens. The server is a process of its own, asked over HTTP. The loop is
kinder than what it stands for: it runs in this process, without HTTP, and takes one request after another. Arms run
in turns, and latencies of all rounds are put together; time is that of the clock, so a machine that others use is
slower for both. Results go to ``benchmarks/results/serve.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import httpx2
import numpy as np
import torch
from engine import minilm, pairs
from sentence_transformers import CrossEncoder

RESULTS = Path(__file__).parent / "results" / "serve.json"
SEED = 0
CLIENTS = (1, 4, 16)
DOCUMENTS = (1, 2, 5, 10)
TOKENS = (20, 128)
#: A request of so many documents is a small one: what a large one before it costs is seen in its latency.
SMALL = 2

Request = tuple[str, list[str]]
Ask = Callable[[Request], list[float]]


def workload(model: CrossEncoder, count: int) -> list[Request]:
    """Requests of all sizes in equal shares, in random order."""
    sizes = [DOCUMENTS[number % len(DOCUMENTS)] for number in range(count)]
    random.Random(SEED).shuffle(sizes)
    data = pairs(model, sum(sizes), *TOKENS)
    texts = iter(data["passage"])
    return [(data["query"][number], [next(texts) for _ in range(size)]) for number, size in enumerate(sizes)]


@contextmanager
def server(folder: str, threads: int) -> Iterator[str]:
    """The command in a process of its own; the address that it says."""
    command = [sys.executable, "-m", "cmp_rerank", "serve", folder, "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        found = next(found for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
        try:
            yield found[0]
        finally:
            process.terminate()


def over_http(client: httpx2.Client) -> Ask:
    """Ask the server."""

    def ask(request: Request) -> list[float]:
        query, texts = request
        answer = client.post("/rerank", json={"query": query, "texts": texts, "raw_scores": True})
        answer.raise_for_status()
        return [one["score"] for one in sorted(answer.json(), key=lambda one: one["index"])]

    return ask


def in_a_loop(model: CrossEncoder) -> Ask:
    """Ask the model, one request after another."""
    turn = threading.Lock()

    def ask(request: Request) -> list[float]:
        query, texts = request
        with turn:
            scores = model.predict(
                [(query, text) for text in texts], activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        return [float(score) for score in scores]

    return ask


def load(ask: Ask, requests: list[Request], clients: int) -> tuple[list[float], float, list[list[float]]]:
    """Seconds of each request, seconds of all, and the scores."""

    def timed(request: Request) -> tuple[float, list[float]]:
        begin = time.perf_counter()
        scores = ask(request)
        return time.perf_counter() - begin, scores

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(timed, requests))
    return [seconds for seconds, _ in answers], time.perf_counter() - begin, [scores for _, scores in answers]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 1) for q in (50, 95, 99)}


def main() -> None:
    """Run all, and write the results after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=24, help="of each arm and number of clients, in a round")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rounds, count = (1, 16) if options.quick else (options.rounds, options.requests)
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        minilm().save_pretrained(folder)
        model = CrossEncoder(folder, device="cpu")
        requests = workload(model, count)
        seconds: dict[tuple[str, int], list[float]] = {}
        wall: dict[tuple[str, int], float] = {}
        with server(folder, options.threads) as url, httpx2.Client(base_url=url, timeout=600) as client:
            arms = {"serve": over_http(client), "loop over predict": in_a_loop(model)}
            expected = [arms["loop over predict"](request) for request in requests[:8]]
            found = [arms["serve"](request) for request in requests[:8]]
            gap = max(
                abs(a - b) for one, two in zip(expected, found, strict=True) for a, b in zip(one, two, strict=True)
            )
            for number in range(rounds):
                for clients in CLIENTS:
                    for name in list(arms)[:: 1 if number % 2 else -1]:
                        took, total, _ = load(arms[name], requests, clients)
                        seconds.setdefault((name, clients), []).extend(took)
                        wall[name, clients] = wall.get((name, clients), 0.0) + total
                        print(f"round {number + 1}, {clients} clients, {name}: {total:.1f} s", flush=True)
                save(options, number + 1, requests, seconds, wall, gap)


def save(
    options: argparse.Namespace,
    rounds: int,
    requests: list[Request],
    seconds: dict[tuple[str, int], list[float]],
    wall: dict[tuple[str, int], float],
    gap: float,
) -> None:
    """Write what is known so far, with what made it."""
    small = [len(texts) <= SMALL for _, texts in requests]
    pairs_asked = sum(len(texts) for _, texts in requests)
    found: dict[str, Any] = {}
    for (name, clients), took in sorted(seconds.items(), key=lambda item: item[0][1]):
        done = len(took) // len(requests)
        found.setdefault(f"{clients} clients", {})[name] = {
            "requests": len(took),
            "milliseconds": percentiles(took),
            f"milliseconds of requests of up to {SMALL} documents": percentiles(
                [one for one, is_small in zip(took, small * done, strict=True) if is_small]
            ),
            "requests a second": round(len(took) / wall[name, clients], 2),
            "pairs a second": round(pairs_asked * done / wall[name, clients], 1),
        }
    result = {
        "what": f"MiniLM-L6 (22 M), requests of {DOCUMENTS} documents, pairs of {TOKENS[0]} to {TOKENS[1]} tokens",
        "clients": found,
        "largest difference of scores": gap,
        "rounds": rounds,
        "seed": SEED,
        "threads": options.threads,
        "command": " ".join(["python benchmarks/serve.py", *sys.argv[1:]]),
        "clock": "seconds of the wall",
        "versions": {
            name: version(name) for name in ("torch", "transformers", "sentence-transformers", "fastapi", "uvicorn")
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
    }
    if not options.quick:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["clients"], indent=1))


if __name__ == "__main__":
    main()
