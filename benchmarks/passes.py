"""What it costs to start a pass: the same rows in fewer and in more passes, forward and backward, on a CPU.

    python benchmarks/passes.py [--rounds 5] [--models minilm multilingual]

Rows have one length, so nothing is padded. Time is CPU time of the process, per round and number of passes, with the
gradients of embeddings made once for all passes and, next to it, by each of them. The slope of the medians over the
number of passes is the price of one; in tokens it is what `cmp_rerank.engine.rows.cut` counts. Results go to
``benchmarks/results/passes.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import engine
import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder

from cmp_rerank import CmpDrop
from cmp_rerank.ablations import Plan, View
from cmp_rerank.engine.embedding_gradients import EmbeddingGradients
from cmp_rerank.engine.modifier import AblationHooks
from cmp_rerank.engine.passes import Passes
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ROWS, LENGTH = 32, 100
ROWS_OF_A_PASS = (8, 4, 2, 1)
WAYS = ("once", "each")


def multilingual() -> CrossEncoder:
    """As large as multilingual MiniLM-L12: 250,000 tokens in its vocabulary (118 M); random weights."""
    config = transformers.XLMRobertaConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=12
    )
    model = engine.random_model(config)
    model[0].model.resize_token_embeddings(250_002, mean_resizing=False)
    return model


MODELS = {
    "minilm": engine.minilm,
    "multilingual": multilingual,
    "modernbert-quarter": engine.modernbert_quarter,
}


def measure(model: CrossEncoder, rounds: int) -> dict[str, Any]:
    """CPU seconds by way, rows of a pass and round; and the price of a pass."""
    model.train()
    plan = Plan([CmpDrop()])
    data = engine.pairs(model, 1, LENGTH, LENGTH)
    (example,) = tokenise(model, list(zip(data["query"], data["passage"], strict=True)), plan)
    rows = [(example, View(np.arange(len(example)), (level,))) for level in (0, 1)] * (ROWS // 2)
    adapter = CrossEncoderAdapter()
    hooks = plan.on_model[0].hooks(model, lambda: Passes(model, adapter, LENGTH).run(rows[:2]))
    ablation = AblationHooks(hooks, 0, adapter, model)
    seconds: dict[str, dict[int, list[float]]] = {way: {size: [] for size in ROWS_OF_A_PASS} for way in WAYS}
    for number in range(rounds + 1):
        for size in ROWS_OF_A_PASS:
            for way in WAYS:
                once = [EmbeddingGradients(model)] if way == "once" else []
                passes = Passes(model, adapter, LENGTH, [*once, ablation])
                start = time.process_time()
                with passes.ready():
                    scores = torch.cat([passes.run(rows[i : i + size]) for i in range(0, ROWS, size)])
                scores.mean().backward()
                taken = time.process_time() - start
                model.zero_grad()
                if number:  # the first one warms up
                    seconds[way][size].append(taken)
    prices = {}
    for way in WAYS:
        slope, base = np.polyfit(
            [ROWS / size for size in ROWS_OF_A_PASS],
            [statistics.median(seconds[way][size]) for size in ROWS_OF_A_PASS],
            1,
        )
        prices[way] = {"milliseconds": 1e3 * slope, "tokens": slope / base * ROWS * len(example)}
    ratio = {
        size: statistics.median(a / b for a, b in zip(*(seconds[way][size] for way in WAYS), strict=True))
        for size in ROWS_OF_A_PASS
    }
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_of_a_row": len(example),
        "price": prices,
        "once_to_each": ratio,
        "seconds": seconds,
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=engine.RESULTS.with_name("passes.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result: dict[str, Any] = {
        "config": {
            "rows": ROWS, "rounds": given.rounds, "threads": given.threads, "seed": engine.SEED, "device": "cpu"
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
        "models": {},
    }  # fmt: skip
    for name in given.models:
        found = result["models"][name] = measure(MODELS[name]().to("cpu"), given.rounds)
        for way in WAYS:
            price = found["price"][way]
            print(f"{name}, {way}: a pass costs {price['milliseconds']:.0f} ms, as {price['tokens']:.0f} tokens")
        print(f"{name}, once to each: " + ", ".join(f"{k} rows {v:.2f}" for k, v in found["once_to_each"].items()))
    part = given.output.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.rename(given.output)
    print(f"Written to {given.output}")


if __name__ == "__main__":
    main()
