"""A tiny collection, and the configuration of a run that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import TEXTS

from cmp_rerank.collections import Collection, Split

SENTENCES = [part.strip() for text in TEXTS[:5] for part in text.replace("!", ".").replace("?", ".").split(".")]
CORPUS = {f"d{i}": sentence for i, sentence in enumerate(filter(None, SENTENCES))}
WORDS = [
    "pandas bamboo", "honey sweet bears", "query passage", "torch light", "rain day", "bridge closed", "bees wings",
    "score orders passages", "river rose", "burns hour", "library tensors", "live china", "nobody hurt", "make honey",
]  # fmt: skip
QUERIES = {f"q{i}": words for i, words in enumerate(WORDS)}


def relevant(words: str) -> str:
    """The document with the most words of a query."""
    return max(CORPUS, key=lambda doc: sum(word in CORPUS[doc].lower() for word in words.split()))


QRELS = {query: {relevant(words): 1} for query, words in QUERIES.items()}


def split(first: int, last: int) -> Split:
    names = list(QUERIES)[first:last]
    return Split({name: QUERIES[name] for name in names}, {name: QRELS[name] for name in names})


def collection() -> Collection:
    return Collection("tiny", CORPUS, {"train": split(0, 6), "dev": split(6, 10), "test": split(10, 14)})


def settings(checkpoint: Path, **sections: Any) -> dict[str, Any]:
    """A configuration of seconds, on the CPU; sections are joined to it key by key."""
    made: dict[str, Any] = {
        "data": {"collection": "tiny"},
        "model": {"name": str(checkpoint)},
        "first_stage": {"depth": 6},
        "negatives": {"negatives": 3, "ranks": [1, 6]},
        "evaluation": {"measures": ["nDCG@10"]},
        "guard": {"interpolations": [0.5], "score_weights": [0.5], "repeats": 2},
        "training": {
            "use_cpu": True,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "max_steps": 4,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "save_total_limit": None,
            "logging_steps": 1,
            "dataloader_pin_memory": False,
        },
    }
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section} if isinstance(section, dict) else section
    return made
