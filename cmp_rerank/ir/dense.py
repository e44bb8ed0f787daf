"""Dense retrieval: exact search by the cosine similarity of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cmp_rerank.ir.arguments import (
    Progress,
    check_bi_encoder,
    check_count,
    check_run,
    check_texts,
    check_texts_of_run,
)
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import best_documents, tie_places

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Dense:
    """Dense retrieval: cosine similarity of the embeddings of a bi-encoder, exact.

    Args:
        documents: text by document id; each is embedded once, here.
        model: a SentenceTransformer, or any object with its ``encode_query`` and ``encode_document``; its own
            ``max_seq_length`` decides what it reads of a text.
        batch_size: texts in a batch; they are sorted by length.
        progress: called after each batch.

    Raises:
        ValueError: ``documents`` is no mapping of ids to texts, or is empty; ``model`` is no bi-encoder.
    """

    def __init__(
        self,
        documents: Mapping[str, str],
        model: SentenceTransformer,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> None:
        check_texts("documents", documents)
        check_bi_encoder(model)
        check_count("batch_size", batch_size)
        self._model = model
        self._batch_size = batch_size
        self._ids = np.array(list(documents), dtype=object)
        self._places = tie_places(self._ids)
        self._row = {document: row for row, document in enumerate(documents)}
        self._embeddings = self._embed(list(documents.values()), "encode_document", progress)

    def search(self, queries: Mapping[str, str], depth: int = 100, block: int = 256) -> Run:
        """The ``depth`` documents of the highest similarity for each query; ``block`` queries at a time."""
        check_count("depth", depth)
        check_count("block", block)
        check_texts("queries", queries, empty=True)
        run: dict[str, dict[str, float]] = {}
        names = list(queries)
        for start in range(0, len(names), block):
            part = names[start : start + block]
            similarities = self._embed([queries[name] for name in part], "encode_query") @ self._embeddings.T
            for name, scores in zip(part, similarities, strict=True):
                run[name] = best_documents(scores, self._ids, self._places, depth)
        return run

    def rerank(self, queries: Mapping[str, str], run: Run) -> Run:
        """The same candidates as in ``run``, scored by similarity.

        Raises:
            ValueError: a query or a document of the run is not known.
        """
        check_texts("queries", queries, empty=True)
        check_run("run", run)
        check_texts_of_run(run, queries, self._row)
        names = [name for name in run if run[name]]
        embeddings = dict(zip(names, self._embed([queries[name] for name in names], "encode_query"), strict=True))
        scored: dict[str, dict[str, float]] = {}
        for name, found in run.items():
            rows = [self._row[document] for document in found]
            scores = self._embeddings[rows] @ embeddings[name] if rows else []
            scored[name] = {document: float(score) for document, score in zip(found, scores, strict=True)}
        return scored

    def _embed(self, texts: Sequence[str], method: str, progress: Progress | None = None) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        encode = getattr(self._model, method)
        parts = []
        for start in range(0, len(order), self._batch_size):
            batch = [texts[i] for i in order[start : start + self._batch_size]]
            parts.append(
                encode(batch, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False)
            )
            if progress is not None:
                progress(min(start + self._batch_size, len(order)), len(order))
        if not parts:
            return np.zeros((0, 1), dtype=np.float32)
        embeddings = np.concatenate(parts)
        if not np.isfinite(embeddings).all():
            wrong = order[int(np.argmin(np.isfinite(embeddings).all(axis=1)))]
            raise ValueError(
                "embeddings must be finite numbers; the model gave NaN or infinity for the text "
                f"{texts[wrong]!r:.80}; check the model, or load it in 32 bits"
            )
        restored = np.empty_like(embeddings)
        restored[order] = embeddings
        return restored
