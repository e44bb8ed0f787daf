"""Cost of the masks: against F.dropout alone, and of a whole forward pass against the model's own dropout.

    python benchmarks/masks.py            # some minutes on a CPU
    python benchmarks/masks.py --quick    # few repeats and small shapes, to see that it works

All arms of a comparison run in turns, so that whatever else the machine does hits them alike; figures are medians of
times, and medians of ratios within a turn. Results go to ``benchmarks/results/masks.json``, on an accelerator to
``masks-cuda.json``.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from cmp_rerank.ablations.drop import CmpDrop, DropHooks
from cmp_rerank.hooks.masks import Rows, nested_dropout, unit_keys

RESULTS = Path(__file__).parent / "results"
SEED = 0
RATE = 0.1
SHAPES = [(16, 128, 384), (16, 256, 384), (16, 128, 768), (8, 512, 1024)]
MODELS = ["MiniLM-L6", "BERT-base", "ModernBERT-base"]
Arms = dict[str, Callable[[], Any]]


def timed(arms: Arms, base: str, turns: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median milliseconds of each arm, and its median ratio to the base arm of the same turn."""

    def run(arm: Callable[[], Any]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        arm()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    for arm in arms.values():  # warm up: allocations, kernels that are compiled on first use
        run(arm)
        run(arm)
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(turns):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]  # nobody always comes first
            times[name].append(run(arms[name]))
    ratios = {name: [t / b for t, b in zip(times[name], times[base], strict=True)] for name in arms}
    return {
        name: {
            "ms": round(statistics.median(times[name]), 4),
            "ratio": round(statistics.median(ratios[name]), 4),
            "ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios[name], n=4)[::2]],
        }
        for name in arms
    }


def masks(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, turns: int) -> dict[str, Any]:
    """One site: F.dropout, and nested dropout with keys at hand; both also with their backward pass."""
    batch, tokens, hidden = shape
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
    grad = torch.randn(shape, generator=generator).to(device, dtype)
    seeds = torch.arange(batch, device=device)
    positions = torch.arange(tokens, device=device).repeat(batch, 1)
    units = unit_keys(hidden, 0, device)
    rows = Rows.of(seeds, positions, [RATE] * batch)

    def library() -> Tensor:
        return functional.dropout(x, RATE, training=True)

    def nested() -> Tensor:
        return nested_dropout(x, rows, units)

    def backward(forward: Callable[[], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(forward(), x, grad)

    def without_graph(forward: Callable[[], Tensor]) -> Callable[[], Any]:
        def run() -> Tensor:
            with torch.no_grad():
                return forward()

        return run

    arms: Arms = {
        "F.dropout": without_graph(library),
        "nested_dropout": without_graph(nested),
        "keys of the rows, once a pass": lambda: Rows.of(seeds, positions, [RATE] * batch),
    }
    both: Arms = {"F.dropout": backward(library), "nested_dropout": backward(nested)}
    if device.type == "cuda":
        compiled = torch.compile(nested_dropout)
        arms["nested_dropout, compiled"] = without_graph(lambda: compiled(x, rows, units))
        both["nested_dropout, compiled"] = backward(lambda: compiled(x, rows, units))
    return {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "forward": timed(arms, "F.dropout", turns, device),
        "forward and backward": timed(both, "F.dropout", turns, device),
    }


def model_of(name: str) -> Any:
    """Random weights: the time does not depend on them."""
    torch.manual_seed(SEED)
    if name == "MiniLM-L6":
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=1))
    if name == "BERT-base":
        return transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=1))
    return transformers.ModernBertForSequenceClassification(transformers.ModernBertConfig(num_labels=1))


def forward(name: str, shape: tuple[int, int], device: torch.device, turns: int, autocast: bool) -> dict[str, Any]:
    """A whole model: own dropout against CmpDrop, in the forward pass and with the backward pass."""
    batch, tokens = shape
    model = model_of(name).to(device).train()
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 20_000, shape, generator=generator).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seeds = torch.arange(batch, device=device)
    positions = torch.arange(tokens, device=device).repeat(batch, 1)

    def logits() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            return model(**inputs).logits.float().sum()  # type: ignore[no-any-return]

    def ablated(drop: CmpDrop, depth: int) -> Callable[[], Tensor]:
        ablation = DropHooks(model, drop, lambda: model(**{k: v[:2, :16] for k, v in inputs.items()}))

        def run() -> Tensor:
            with ablation.installed(), ablation.rows(seeds, positions, [depth] * batch):
                return logits()

        return run

    arms: dict[str, Callable[[], Tensor]] = {
        "own dropout": logits,
        "no dropout": ablated(CmpDrop(), 0),
        "CmpDrop": ablated(CmpDrop(), 1),
        "CmpDrop, layer outputs": ablated(CmpDrop(site="layer"), 1),
        "CmpDrop, heads": ablated(CmpDrop(unit="head"), 1),
        "CmpDrop, whole layers": ablated(CmpDrop(unit="layer"), 1),
    }

    def without_graph(arm: Callable[[], Tensor]) -> Callable[[], Any]:
        def run() -> Tensor:
            with torch.no_grad():
                return arm()

        return run

    def backward(arm: Callable[[], Tensor]) -> Callable[[], Any]:
        def run() -> None:
            arm().backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)

        return run

    return {
        "model": name,
        "shape": shape,
        "autocast": "bfloat16" if autocast else "off",
        "parameters": sum(p.numel() for p in model.parameters()),
        "forward": timed({k: without_graph(arm) for k, arm in arms.items()}, "own dropout", turns, device),
        "forward and backward": timed({k: backward(arm) for k, arm in arms.items()}, "own dropout", turns, device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1, as in a dataloader worker)")
    parser.add_argument("--out", type=Path, help="where to write; default: benchmarks/results/")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(arguments.threads)
    cuda = device.type == "cuda"
    turns = 5 if arguments.quick else 200 if cuda else 60
    passes = 2 if arguments.quick else 50 if cuda else 9
    shapes = SHAPES[:1] if arguments.quick else SHAPES
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    models = arguments.models[:1] if arguments.quick else arguments.models
    batches = [(64, 128), (64, 512)] if cuda else [(16, 128)] if not arguments.quick else [(4, 32)]
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/masks.py", *sys.argv[1:]]),
        "config": {"seed": SEED, "rate": RATE, "turns": turns, "passes": passes, "threads": arguments.threads},
        "machine": {
            "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_at_start": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "masks": [],
        "models": [],
    }
    for shape in shapes:
        for dtype in dtypes:
            found = masks(shape, dtype, device, turns)
            result["masks"].append(found)
            ratios = {part: found[part]["nested_dropout"]["ratio"] for part in ("forward", "forward and backward")}
            print(f"{'x'.join(map(str, shape)):>12} {found['dtype']:>9}  nested / F.dropout: {ratios}", flush=True)
    for name in models:
        for batch in batches:
            found = forward(name, batch, device, passes, autocast=cuda)
            result["models"].append(found)
            for part in ("forward", "forward and backward"):
                ratios = {arm: times["ratio"] for arm, times in found[part].items()}
                print(f"{name} {batch[0]}x{batch[1]}, {part}, to own dropout: {ratios}", flush=True)
    result["machine"]["load_at_end"] = [round(load, 2) for load in os.getloadavg()]
    out = arguments.out or RESULTS / ("masks-cuda.json" if cuda else "masks.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(out)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
