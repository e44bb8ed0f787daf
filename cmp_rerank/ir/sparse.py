"""Learned sparse retrieval, such as SPLADE: a SparseEncoder weighs the terms of queries and documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmp_rerank.ir.arguments import Progress, check_bi_encoder, check_count, check_texts
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.embedding import check_model
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.id_list import IdList
from cmp_rerank.ir.index import Found, Index
from cmp_rerank.ir.index_folder import read_manifest
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.ir.postings import texts_in_blocks

if TYPE_CHECKING:
    from scipy import sparse  # imported where it is used: whoever needs no sparse retrieval should not wait for it
    from sentence_transformers import SparseEncoder

_BLOCK = 4096
_ARRAYS = ("data", "indices", "indptr")


class Sparse(Index):
    """Sparse retrieval: the dot product of the term weights of a SparseEncoder, exact.

    The index is in memory while it is built: 8 bytes for each weight that is not 0. An opened one is memory-mapped.

    Args:
        documents: text by document id; read once, in blocks.
        model: a SparseEncoder, or any object with its ``encode_query`` and ``encode_document``.
        batch_size: texts in a batch; they are sorted by length.
        progress: called after each block.

    Raises:
        ValueError: ``documents`` is no mapping of ids to texts, or is empty; the model is none of these, or gives
            NaN.

    Example:
        ::

            from sentence_transformers import SparseEncoder

            sparse = Sparse(corpus, SparseEncoder("naver/splade-cocondenser-ensembledistil"))
            run = sparse.search(queries, depth=100)  # query id -> document id -> score
    """

    kind = "sparse"

    def __init__(
        self,
        documents: Mapping[str, str],
        model: SparseEncoder,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> None:
        from scipy import sparse

        documents = as_texts("documents", documents)
        check_texts("documents", documents)
        check_bi_encoder(model)
        check_count("batch_size", batch_size)
        self._model, self._batch_size = model, batch_size
        ids, parts, done = [], [], 0
        for block in texts_in_blocks(documents, _BLOCK):
            parts.append(self._embed(list(block.values()), "encode_document"))
            ids.append(IdList.of(block))
            done += len(block)
            if progress is not None:
                progress(done, len(documents))
        first = parts[0][0]
        self._ids = IdList.joined(ids)
        # Terms are the rows: a query then reads only the weights of its own terms.
        self._weights = sparse.vstack(parts).T.tocsr()
        self._settings = {
            "shape": list(self._weights.shape),
            "first": next(iter(documents.values())),
            "first_weights": {
                int(term): float(weight) for term, weight in zip(first.indices, first.data, strict=True)
            },
        }

    @classmethod
    def open(cls, folder: PathLike, model: SparseEncoder, batch_size: int = 32) -> Sparse:
        """Open a saved index; it is memory-mapped.

        Args:
            folder: of :meth:`save`.
            model: the one that embedded the documents. The first of them is embedded again, and compared.
            batch_size: queries in a batch.

        Raises:
            ValueError: there is no such index in the folder, or not a whole one; or the model is another one.
        """
        from scipy import sparse

        settings = read_manifest(folder, cls.kind)
        check_bi_encoder(model)
        check_count("batch_size", batch_size)
        place, found = Path(folder), cls.__new__(cls)
        found._settings, found._model, found._batch_size = settings, model, batch_size
        found._ids = IdList.open(place)
        arrays = tuple(np.load(place / f"weights.{name}.npy", mmap_mode="r") for name in _ARRAYS)
        found._weights = sparse.csr_matrix(arrays, shape=tuple(settings["shape"]))
        known = np.zeros(settings["shape"][0])
        for term, weight in settings["first_weights"].items():
            known[int(term)] = weight
        first = settings["first"]
        check_model(found._embed([first], "encode_document").toarray()[0], known, first, place)
        return found

    def search(
        self, queries: Mapping[str, str], depth: int = 100, block: int = 64, progress: Progress | None = None
    ) -> Run:
        """The ``depth`` documents with the highest scores for each query.

        A document that shares no term with the query is not retrieved: a query may return fewer documents, or none.

        Args:
            queries: text by query id.
            depth: at most how many documents a query gets; at least 1.
            block: queries that are searched at once.
            progress: called after each block.

        Returns:
            A run with an entry for every query; ties are decided by document id, descending, also across the cut.

        Raises:
            ValueError: ``queries`` is no mapping of ids to texts, or a number is below 1.
        """
        return self._search(queries, depth, block, progress)

    def _find(self, queries: Sequence[str], depth: int) -> Iterator[Found]:
        scores = self._embed(queries, "encode_query") @ self._weights
        for start, stop in pairwise(scores.indptr.tolist()):
            positive = scores.data[start:stop] > 0
            yield scores.data[start:stop][positive], scores.indices[start:stop][positive]

    def _write(self, folder: Path) -> None:
        for name in _ARRAYS:
            np.save(folder / f"weights.{name}.npy", getattr(self._weights, name))

    def _embed(self, texts: Sequence[str], method: str) -> sparse.csr_matrix:
        """(texts, terms) weights."""
        from scipy import sparse

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        encode = getattr(self._model, method)
        parts = []
        for start in range(0, len(order), self._batch_size):
            batch = [texts[i] for i in order[start : start + self._batch_size]]
            weights = encode(
                batch, batch_size=self._batch_size, show_progress_bar=False, convert_to_sparse_tensor=False
            )
            weights = np.asarray(weights.cpu() if hasattr(weights, "cpu") else weights, dtype=np.float32)
            finite = np.isfinite(weights).all(axis=1)
            if not finite.all():
                raise ValueError(
                    "weights must be finite numbers; the model gave NaN or infinity for the text "
                    f"{batch[int(np.argmin(finite))]!r:.80}; check the model, or load it in 32 bits"
                )
            parts.append(sparse.csr_matrix(weights))
        return sparse.vstack(parts).tocsr()[np.argsort(order)]
