"""A bi-encoder for tests: a text is the numbers of its vector."""

from __future__ import annotations

from typing import Any

import numpy as np


class Vectors:
    """Embeds "1 2 -3" as (1, 2, -3); counts what it embeds."""

    def __init__(self, similarity_fn_name: str = "dot") -> None:
        self.similarity_fn_name = similarity_fn_name
        self.embedded: list[str] = []

    def encode_document(self, texts: list[str], **options: Any) -> np.ndarray:
        self.embedded += texts
        return self.encode_query(texts, **options)

    def encode_query(self, texts: list[str], **options: Any) -> np.ndarray:
        vectors = np.array([[float(number) for number in text.split()] for text in texts], dtype=np.float32)
        if options.get("normalize_embeddings"):
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors
