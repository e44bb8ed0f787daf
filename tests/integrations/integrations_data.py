"""Checkpoints of every kind that search stacks are given, and what they should make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny_models
from sentence_transformers import CrossEncoder
from torch.nn import Identity
from transformers import AutoModelForQuestionAnswering

from cmp_rerank import LongDocumentReranker

QUERY = "who makes honey"
DOCUMENTS = [*tiny_models.TEXTS, tiny_models.TEXTS[2] * 20, "Bees."]
SCORES = [8.0 - place / 2 for place in range(len(DOCUMENTS))]


class Checkpoints(NamedTuple):
    """Folders: a plain cross-encoder, one with the settings of long documents, one that the guard mixes, a reader."""

    plain: str
    long: str
    mixed: str
    reader: str


def make_checkpoints(folder: Path) -> Checkpoints:
    model = tiny_models.cross_encoder(folder / "plain")
    LongDocumentReranker(model, "max", passage_tokens=20).save_pretrained(str(folder / "long"))
    tiny_models.cross_encoder(folder / "mixed")
    mix = {"weight": 0.5, "scale": "minmax", "depth": 5, "batch_size": 8, "measure": "nDCG@10", "validation": 0.5}
    (folder / "mixed" / "guard.json").write_text(json.dumps(mix))
    tiny_models.save_checkpoint(
        folder / "reader", tiny_models.bert_config(), tiny_models.wordpiece(), AutoModelForQuestionAnswering, 2
    )
    return Checkpoints(*(str(folder / name) for name in Checkpoints._fields))


def logits(folder: str, long: bool = False) -> list[float]:
    """Scores of the documents by the model's own `predict`."""
    model: Any = LongDocumentReranker(folder, device="cpu") if long else CrossEncoder(folder, device="cpu")
    return model.predict([(QUERY, document) for document in DOCUMENTS], activation_fn=Identity()).tolist()


def best_first(scores: list[float]) -> list[int]:
    return np.argsort(-np.array(scores), kind="stable").tolist()


def mixed(folder: Path | str) -> list[tuple[int, float]]:
    """Places and scores, best first, as the guard's own `rerank` joins them."""
    from cmp_rerank.guard.save import load_guard

    ids = [f"d{9 - place}" for place in range(len(DOCUMENTS))]
    run = load_guard(folder, device="cpu").rerank(
        {"q": QUERY}, dict(zip(ids, DOCUMENTS, strict=True)), {"q": dict(zip(ids, SCORES, strict=True))}
    )
    return [(9 - int(name[1:]), score) for name, score in run["q"].items()]
