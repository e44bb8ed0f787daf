"""Training on long documents with ModernBERT: time and memory by length, in one pass and by passages.

    python benchmarks/long_input.py --threads 1            # a small model to 8,192 tokens: minutes of a core
    python benchmarks/long_input.py --size base --threads 1 --lengths 256 512 1024 --most 6
    python benchmarks/long_input.py --quick                # short documents, to see that it works

A step is the forward and the backward pass of one document. Memory is how far the resident memory of the process
rises above what it was before the step, weights and gradients left out; on a GPU it is what is allocated. A way is
not measured at a length where a curve through its last three lengths says that it would need more than ``--most``
GiB. What 24 GB can train on is the same curve, with weights, gradients and both moments of AdamW beside it: an
extrapolation, except where a length was measured. Results go to ``benchmarks/results/long_input.json``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import engine
import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from torch import nn

from cmp_rerank import CmpDrop, ComparativeLoss, LongDocumentReranker, MaxP
from cmp_rerank.engine.memory import free

RESULTS = Path(__file__).parent / "results" / "long_input.json"
GIB = 2**30
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 2},
    "base": {},
}
LENGTHS = [512, 1024, 2048, 4096, 8192]
WAYS = (
    "one pass",
    "one pass, checkpointing",
    "one pass, checkpointing, drop",
    "MaxP of 512",
    "MaxP of 512, checkpointing",
)


def resident() -> int:
    """Bytes of memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak(step: Callable[[], float]) -> tuple[float, int]:
    """What a step returns, and how many bytes it took at most beside those before it."""
    gc.collect()
    free()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return step(), torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is resident no more
    Path("/proc/self/clear_refs").write_text("5")  # the greatest so far is what there is now
    before = resident()
    seconds = step()
    status = Path("/proc/self/status").read_text().splitlines()
    return seconds, next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM")) - before


def document(model: CrossEncoder, tokens: int) -> tuple[str, str]:
    """A query, and a document with which it has so many tokens."""
    (query,), (passage,) = (engine.pairs(model, 1, tokens, tokens)[name] for name in ("query", "passage"))
    return query, passage


def trained(model: CrossEncoder, way: str) -> nn.Module:
    """The loss that is trained in one of the ways."""
    inner = model[0].model
    inner.gradient_checkpointing_disable()
    if "checkpointing" in way:
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    chosen: CrossEncoder = model
    if "MaxP" in way:
        chosen = LongDocumentReranker(model, MaxP(), passage_tokens=512)
    chosen.train()
    bce = BinaryCrossEntropyLoss(chosen)
    return ComparativeLoss(chosen, bce, CmpDrop(), strategy="hybrid") if "drop" in way else bce


def one_step(loss: nn.Module, columns: list[list[str]]) -> float:
    """Forward and backward; seconds of the process, on a GPU of the clock."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
        value = loss(columns, torch.tensor([1.0], device=engine.device()))
    value.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def curve(cells: list[dict[str, Any]]) -> np.polynomial.Polynomial:
    """Bytes by tokens, through the last three lengths of a way: some beside the tokens, some for each of them, and
    where attention has masks, some for each pair.

    >>> [round(c) for c in curve([{"tokens": n, "bytes": 7 + 5 * n + n * n} for n in (8, 16, 32, 64)])]
    [7, 5, 1]
    """
    tokens, size = ([cell[name] for cell in cells[-3:]] for name in ("tokens", "bytes"))
    return np.polynomial.Polynomial.fit(tokens, size, len(tokens) - 1).convert()


def main() -> None:
    """Measure, and write after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--most", type=float, default=6.0, help="GiB that a step may take")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.quick:
        given.lengths, given.rounds = [64, 128], 1
    torch.manual_seed(engine.SEED)
    config = transformers.ModernBertConfig(
        max_position_embeddings=max(LENGTHS), **SIZES[given.size], **engine.SPECIAL
    )
    model = engine.random_model(config, max(LENGTHS))
    parameters = sum(p.numel() for p in model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # so that they are there before any step
    run: dict[str, Any] = {
        "model": f"ModernBERT, {given.size}", "parameters": parameters, "lengths": given.lengths,
        "rounds": given.rounds, "ways": {}, "batch": 1,
    }  # fmt: skip
    cells: dict[str, list[dict[str, Any]]] = {way: [] for way in given.ways}
    for tokens in sorted(given.lengths):
        columns = [[text] for text in document(model, tokens)]
        for way in given.ways:
            known = cells[way]
            expected = curve(known)(tokens) if known else 0
            if known and (known[-1]["tokens"] < sorted(given.lengths)[len(known) - 1] or expected > given.most * GIB):
                continue
            loss = trained(model, way)
            if not known:
                one_step(loss, columns)  # what is found out once
            step = partial(one_step, loss, columns)
            seconds, taken = zip(*(peak(step) for _ in range(given.rounds)), strict=True)
            cell = {
                "tokens": tokens, "bytes": statistics.median(taken),
                "us_per_token": round(1e6 * statistics.median(seconds) / tokens, 1),
            }  # fmt: skip
            known.append(cell)
            print(f"{way}: {cell}", flush=True)
            run["ways"] = {
                way: {"cells": each} | (_longest(each, parameters) if len(each) > 2 else {})
                for way, each in cells.items()
            }
            engine.write(given.output, dict(run), program="benchmarks/long_input.py")


def _longest(cells: list[dict[str, Any]], parameters: int) -> dict[str, Any]:
    """What 24 GB can train on, weights, gradients and AdamW included; the window at most."""
    found = curve(cells)
    sizes = [root.real for root in (found - (24e9 - 16 * parameters)).roots() if abs(root.imag) < 1e-6]
    longest = min(int(max(sizes, default=0)), max(LENGTHS))
    if longest <= 0 or min(found) < 0:  # the documents were too short to tell
        return {}
    return {
        "bytes_beside_by_token_by_pair": [round(float(c), 3) for c in found],
        "tokens_of_24_gb": longest,
        "extrapolated": longest > cells[-1]["tokens"],
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
