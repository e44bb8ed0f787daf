"""Tokens a second, and the share of the device's matrix peak, of a BERT-base-sized model: training and scoring.

    python -m benchmarks.gpu.peak                  # for a GPU, in bf16: minutes
    python -m benchmarks.gpu.peak --small          # a tiny model and short rows, on any device: to see that it works

Training steps are forward, backward and AdamW over rows that are tokenised already, all of one length or of mixed
lengths. The arms are the kernels of attention that the model can use, passes without padding, compiled passes, and a
drop compared with the full model. Scoring is `rerank_run`'s scorer against ``CrossEncoder.predict``. All arms take
turns, and medians count. The share of the peak is that of the multiplications and additions in the matrix products of
the real tokens, see ``benchmarks/products.py``, in those of one large product in the same time. An arm that this
machine lacks something for has the reason in place of figures. Results go to ``benchmarks/results/peak.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import engine
import products
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from cmp_rerank import CmpDrop
from cmp_rerank.ablations import Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise
from cmp_rerank.reranking.precision import in_precision
from cmp_rerank.reranking.scorers import scorer_of

RESULTS = engine.RESULTS.with_name("gpu") / "peak.json"
#: Name: the attention of transformers, whether passes are unpadded or compiled, ablation steps.
ARMS: dict[str, tuple[str, bool, bool, int]] = {
    "sdpa": ("sdpa", False, False, 0),
    "eager": ("eager", False, False, 0),
    "flash_attention_2": ("flash_attention_2", False, False, 0),
    "unpadded": ("sdpa", True, False, 0),
    "compiled": ("sdpa", False, True, 0),
    "drop, stacked": ("sdpa", False, False, 1),
    "drop, stacked, unpadded": ("sdpa", True, False, 1),
    "drop, stacked, compiled": ("sdpa", False, True, 1),
}
AMP = torch.cuda.is_available()


def matrix_peak(side: int) -> float:
    """Multiplications and additions a second of one large product, in bf16 on a GPU."""
    a = torch.randn(side, side, device=engine.device(), dtype=torch.bfloat16 if AMP else torch.float32)
    for _ in range(3):
        a @ a
    seconds = statistics.median(timed(lambda: a @ a) for _ in range(10))
    return float(2 * side**3 / seconds)


def timed(run: Callable[[], object]) -> float:
    """Seconds of the clock."""
    if AMP:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if AMP:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(
    model: CrossEncoder, arm: tuple[str, bool, bool, int], texts: list[tuple[str, str]], compiler: str
) -> Callable[[], None]:
    """A training step of an arm, which has been taken once."""
    attention, unpadded, compiled, steps = arm
    plan = Plan([CmpDrop(steps=steps)] if steps else [])
    examples = tokenise(model, texts, plan)
    views = [plan.views(example) for example in examples]
    scorer = Scorer(CrossEncoderAdapter(), plan.on_model, strategy="stacked", unpadded=unpadded)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    called: nn.Module = torch.compile(model, dynamic=True, backend=compiler) if compiled else model  # type: ignore[assignment]

    def run() -> None:
        model[0].model.set_attn_implementation(attention)
        with torch.autocast("cuda", torch.bfloat16, enabled=AMP):
            scores = scorer(called, examples, views)
        scores.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    run()
    if unpadded and not scorer.uses(Unpadded):
        raise ValueError("the model cannot run unpadded: see the log")
    return run


def measured(
    model: CrossEncoder, texts: list[tuple[str, str]], rounds: int, peak: float, compiler: str
) -> dict[str, Any]:
    """All arms of training on some texts."""
    found: dict[str, Any] = {}
    steps: dict[str, Callable[[], None]] = {}
    flops: dict[str, int] = {}
    for name, arm in ARMS.items():
        torch.manual_seed(engine.SEED)
        try:
            steps[name] = step(model, arm, texts, compiler)
        except (ImportError, RuntimeError, ValueError) as error:
            found[name] = {"missing": (str(error).splitlines() or [type(error).__name__])[0][:200]}
            print(f"  {name}: {found[name]}", flush=True)
        if name in steps and not arm[2]:
            with products.recorded(model) as seen:
                steps[name]()
            flops[arm[3]] = max(flops.get(arm[3], 0), products.flop(seen))
    tokens = sum(len(example) for example in tokenise(model, texts, Plan([])))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            if AMP:
                torch.cuda.reset_peak_memory_stats()
            seconds[name].append(timed(run))
            if AMP:
                found.setdefault(name, {})["allocated_bytes"] = torch.cuda.max_memory_allocated()
    for name, taken in seconds.items():
        found.setdefault(name, {}).update(
            time=round(statistics.median(a / b for a, b in zip(taken, seconds["sdpa"], strict=True)), 4),
            tokens_per_s=round(tokens * (1 + ARMS[name][3]) / statistics.median(taken)),
            share_of_peak=round(flops[ARMS[name][3]] / statistics.median(taken) / peak, 4),
        )
        print(f"  {name}: {found[name]}", flush=True)
    return found


def scoring(model: CrossEncoder, texts: list[tuple[str, str]], rounds: int) -> dict[str, Any]:
    """Pairs a second of the ways to score."""
    model.eval()
    model[0].model.set_attn_implementation("sdpa")
    arms: dict[str, Callable[[], object]] = {
        "CrossEncoder.predict": partial(model.predict, texts, show_progress_bar=False),
        "rerank_run": partial(scorer_of(model), texts),
        "rerank_run, bf16": partial(scorer_of(in_precision(model, "bf16")), texts),
    }
    for run in arms.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, run in arms.items():
            seconds[name].append(timed(run))
    return {name: {"pairs_per_s": round(len(texts) / statistics.median(taken))} for name, taken in seconds.items()}


def main() -> None:
    """Measure all, and write after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.small:
        given.rows, given.rounds = 4, 1
    torch.manual_seed(engine.SEED)
    model = engine.MODELS["tiny" if given.small else "bert-base"]()
    lengths = {"mixed": (12, 24)} if given.small else {"equal": (512, 512), "mixed": (64, 512)}
    compiler = "eager" if given.small else "inductor"  # a tiny model takes minutes to compile on a CPU
    peak = matrix_peak(256 if given.small else 8192)
    run: dict[str, Any] = {
        "model": "tiny" if given.small else "bert-base", "lengths": list(lengths.values()), "batch": given.rows,
        "rounds": given.rounds, "peak_tflops": round(peak / 1e12, 3),
    }  # fmt: skip
    for name, (low, high) in lengths.items():
        data = engine.pairs(model, given.rows, low, high)
        texts = list(zip(data["query"], data["passage"], strict=True))
        print(name, flush=True)
        model.train()
        run[f"training, {name}"] = measured(model, texts, given.rounds, peak, compiler)
        run[f"scoring, {name}"] = scoring(model, texts, given.rounds)
        print(f"  {run[f'scoring, {name}']}", flush=True)
        engine.write(given.output, dict(run), program="-m benchmarks.gpu.peak")


if __name__ == "__main__":
    main()
