"""A small collection whose judgments are what a hidden model ranks first, so that a good tuned model is known."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from cmp_rerank.evaluation import rerank

WORDS = ["pandas", "bamboo", "honey", "bees", "torch", "river", "bridge", "rain", "bears", "wings"]


@dataclass
class Tiny:
    corpus: dict[str, str]
    queries: dict[str, str]
    first_stage: dict[str, dict[str, float]]
    qrels: dict[str, dict[str, int]]
    good: CrossEncoder
    bad: CrossEncoder

    def inputs(self, part: slice = slice(None)) -> dict[str, Any]:
        chosen = list(self.queries)[part]
        return {
            "queries": self.queries,
            "qrels": {query: self.qrels[query] for query in chosen},
            "first_stage": {query: self.first_stage[query] for query in chosen},
        }


def tiny_collection(start: CrossEncoder, queries: int = 60) -> Tiny:
    rng = random.Random(0)
    corpus = {f"d{i}": " ".join(rng.sample(WORDS, 4)) for i in range(30)}
    texts = {f"q{i:02}": " ".join(rng.sample(WORDS, 2)) for i in range(queries)}
    first_stage = {query: {doc: rng.random() for doc in rng.sample(sorted(corpus), 10)} for query in texts}
    good, bad = copy.deepcopy(start), copy.deepcopy(start)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in good.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * parameter.std() * 0.3)
        for name, parameter in bad.named_parameters():
            if "classifier" in name:
                parameter.neg_()
    run = rerank(good, texts, corpus, first_stage)
    qrels = {query: {max(scores, key=scores.__getitem__): 1} for query, scores in run.items()}
    return Tiny(corpus, texts, first_stage, qrels, good, bad)
