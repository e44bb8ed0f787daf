"""A start that learns from scores, and not from judgments: BM25's, and the cosine of the encoder's own embeddings.

Their sum orders the documents of real collections better than BM25 alone does. A cross-encoder is taught it on
questions of SQuAD.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cmp_rerank.ir.bm25 import BM25

from .real import DEPTH, Row, squad_paragraphs

#: How many times the cosine is added to BM25's score: of 5, 10, 20, 40 and 80 the best on the validation part of
#: SciFact. And what the sum is divided by, so that its softmax says more than which document is first.
COSINE, TEMPERATURE = 20.0, 4.0

#: Questions that are drawn, of a few of which BM25 does not find the paragraph; and the documents of each.
QUESTIONS, LISTED = 5000, 4

#: Texts -> embeddings (texts, width) of length 1.
Embed = Callable[[Sequence[str]], np.ndarray]


def distilled_start(data: Path) -> list[Row]:
    """SQuAD's questions with their paragraph and 3 of BM25's first others; labels are the scores of the teacher."""
    paragraphs, asked = squad_paragraphs(data)
    chosen = random.Random("distilled").sample(asked, min(QUESTIONS, len(asked)))
    return rows_of(chosen, paragraphs, pretrained_embeddings())


def pretrained_embeddings() -> Embed:
    """Those of the encoder that all starts begin with."""
    from sentence_transformers import SentenceTransformer

    from cmp_rerank.demo.encoder import pretrained_encoder

    model = SentenceTransformer(pretrained_encoder(), device="cpu")

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(model.encode(list(texts), normalize_embeddings=True, show_progress_bar=len(texts) > 1000))

    return embed


def rows_of(asked: Sequence[tuple[str, str]], paragraphs: Mapping[str, str], embed: Embed) -> list[Row]:
    """A row for each question whose paragraph BM25 finds: the paragraph, and others of BM25's first, drawn by it.

    Args:
        asked: Each question, and the name of its paragraph.
        paragraphs: Name -> text.
        embed: Of the teacher.

    Returns:
        Rows whose labels, times 10, are the scores of the teacher: the loss takes their softmax as its target.
    """
    found = BM25(paragraphs).search({str(i): text for i, (text, _) in enumerate(asked)}, DEPTH)
    lists: dict[str, list[tuple[str, float]]] = {}  # question -> names and BM25's scores
    for i, (text, own) in enumerate(asked):
        run = found[str(i)]
        others = [name for name in sorted(run, key=lambda name: -run[name]) if name != own]
        if own in run and len(others) >= LISTED - 1:
            drawn = sorted(random.Random(text).sample(range(len(others)), LISTED - 1))
            lists[text] = [(name, run[name]) for name in (own, *(others[place] for place in drawn))]
    names = sorted({name for own in lists.values() for name, _ in own})
    texts = dict(zip(names, embed([paragraphs[name] for name in names]), strict=True))
    return [
        {
            "query": text,
            "docs": [paragraphs[name] for name, _ in own],
            "labels": [
                round((score + COSINE * float(texts[name] @ query)) / TEMPERATURE / 10, 5) for name, score in own
            ],
        }
        for (text, own), query in zip(lists.items(), embed(list(lists)), strict=True)
    ]
