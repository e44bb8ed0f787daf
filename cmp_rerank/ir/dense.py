"""Dense retrieval: search by the similarity of embeddings, exact or by an index of faiss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmp_rerank.ir.abandoned import sole_writer
from cmp_rerank.ir.arguments import (
    Progress,
    check_bi_encoder,
    check_count,
    check_run,
    check_texts,
    check_texts_of_run,
)
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.embedding import (
    DTYPES,
    Embedder,
    building_is_done,
    check_model,
    embed_in_memory,
    embed_to_file,
    is_being_built,
    open_embeddings,
    save_embeddings,
)
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.id_list import IdList
from cmp_rerank.ir.index import Found, Index
from cmp_rerank.ir.index_folder import is_index, read_manifest
from cmp_rerank.ir.lines import PathLike, check_parent
from cmp_rerank.ir.nearest import Approximate, Flat, Nearest, empty_index
from cmp_rerank.ir.ranking import check_choice

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Neighbours that are asked for beyond the depth: most ties at the cut are decided without asking again.
_MORE = 16


class Dense(Index):
    """Dense retrieval: the similarity of the embeddings of a bi-encoder.

    faiss finds the documents. Their scores are then computed from the embeddings in double precision, and rounded to
    single. So a document has the same score whichever index found it, and on a CPU or a GPU. The flat index is exact:
    it gives what comparing each pair of embeddings gives, with ties decided by document id, descending.

    Args:
        documents: text by document id; each is embedded once, here; read in blocks, so that they may be larger than
            memory.
        model: a SentenceTransformer, or any object with its ``encode_query`` and ``encode_document``; its own
            ``max_seq_length`` decides what it reads of a text.
        batch_size: texts in a batch; they are sorted by length.
        progress: called after each batch.
        index: "flat" compares everything; "ivf" and "hnsw" look at a part of the documents, and miss some; or any
            index of ``faiss.index_factory``, such as "IVF1024,PQ32".
        parameters: how thoroughly such an index is searched, in faiss's words: "nprobe=32", "efSearch=256"; "flat"
            has none.
        dtype: how embeddings are stored: "float32", or "float16" in half the space.
        similarity: "cosine", "dot", or None: what the model was trained for.
        folder: where embeddings and index are built and stay; the memory then does not grow with the documents,
            except by an index that is not flat. An interrupted call is taken up there. None: in memory.
        seed: of the sample that an index is trained on.

    Raises:
        ImportError: faiss is not installed (the extra ``retrieval``).
        ValueError: ``documents`` is no mapping of ids to texts, or is empty; ``model`` is no bi-encoder; an argument
            is out of its range; or the folder holds something else.

    Example:
        ::

            from sentence_transformers import SentenceTransformer

            dense = Dense(corpus, SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
            run = dense.search(queries, depth=100)  # query id -> document id -> score
            dense.save("dense-index")
    """

    kind = "dense"

    def __init__(
        self,
        documents: Mapping[str, str],
        model: SentenceTransformer,
        batch_size: int = 32,
        progress: Progress | None = None,
        *,
        index: str = "flat",
        parameters: str | None = None,
        dtype: str = "float32",
        similarity: str | None = None,
        folder: PathLike | None = None,
        seed: int = 0,
    ) -> None:
        documents = as_texts("documents", documents)
        check_texts("documents", documents)
        check_bi_encoder(model)
        check_count("batch_size", batch_size)
        check_choice("dtype", dtype, DTYPES)
        self._embedder = Embedder(model, batch_size, similarity)
        # What would fail behind hours of embedding fails here.
        if index == "flat":
            empty_index(index, parameters, len(documents), 1)
        else:
            (some,) = self._embedder.documents([next(iter(documents.values()))])
            empty_index(index, parameters, len(documents), len(some))
        with nullcontext() if folder is None else sole_writer(folder):
            place = None if folder is None else _own_folder(Path(folder))
            if place is None:
                self._ids, self._embeddings, first = embed_in_memory(documents, self._embedder, dtype, progress)
            else:
                self._ids, self._embeddings, first = embed_to_file(documents, self._embedder, dtype, place, progress)
            self._nearest: Nearest = (
                Flat(self._embeddings)
                if index == "flat"
                else Approximate.build(self._embeddings, index, parameters, seed)
            )
            self._settings = {
                "index": index,
                "parameters": parameters,
                "dtype": dtype,
                "similarity": self._embedder.similarity,
                "seed": seed,
                "dimensions": self._embeddings.shape[1],
                "longest": _longest(self._embeddings),
                "first": first,
            }
            if place is not None:
                self._write_nearest(place)
                self._describe(place)
                building_is_done(place)

    @classmethod
    def open(cls, folder: PathLike, model: SentenceTransformer, batch_size: int = 32) -> Dense:
        """Open a saved index; embeddings are memory-mapped.

        Args:
            folder: of :meth:`save`, or that the index was built in.
            model: the one that embedded the documents. The first of them is embedded again, and compared.
            batch_size: queries in a batch.

        Raises:
            ImportError: faiss is not installed.
            ValueError: there is no such index in the folder, or not a whole one; or the model is another one.
        """
        settings = read_manifest(folder, cls.kind)
        check_bi_encoder(model)
        check_count("batch_size", batch_size)
        place, dense = Path(folder), cls.__new__(cls)
        dense._settings = settings
        dense._embedder = Embedder(model, batch_size, settings["similarity"])
        dense._ids = IdList.open(place)
        dense._embeddings = open_embeddings(place, settings["dtype"], settings["dimensions"])
        first = settings["first"]
        check_model(dense._embedder.documents([first])[0], dense._embeddings[0], first, place)
        dense._nearest = Flat(dense._embeddings) if settings["index"] == "flat" else Approximate.open(place)
        return dense

    def search(
        self, queries: Mapping[str, str], depth: int = 100, block: int = 256, progress: Progress | None = None
    ) -> Run:
        """The ``depth`` documents of the highest similarity for each query.

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

    def rerank(self, queries: Mapping[str, str], run: Run) -> Run:
        """The same candidates as in ``run``, scored by similarity.

        Raises:
            ValueError: a query or a document of the run is not known.
        """
        queries = as_texts("queries", queries)
        check_texts("queries", queries, empty=True)
        check_run("run", run)
        check_texts_of_run(run, queries, self._row)
        names = [name for name in run if run[name]]
        embedded = dict(zip(names, self._embedder.queries([queries[name] for name in names]), strict=True))
        scored: dict[str, dict[str, float]] = {}
        for name, found in run.items():
            rows = np.array([self._row[document] for document in found], dtype=np.int64)
            scores = self._scores(embedded[name], rows).tolist() if found else []
            scored[name] = dict(zip(found, scores, strict=True))
        return scored

    @cached_property
    def _row(self) -> dict[str, int]:
        return {document: row for row, document in enumerate(self._ids)}

    def _find(self, queries: Sequence[str], depth: int) -> list[Found]:
        embedded = self._embedder.queries(queries)
        found: list[Found] = [(np.zeros(0), np.zeros(0))] * len(queries)
        open_, k = np.arange(len(queries)), depth + _MORE
        while len(open_):
            k = min(k, len(self))
            rough, rows = self._nearest.search(embedded[open_], k)
            unsure = []
            for place, query in enumerate(open_.tolist()):
                kept = rows[place][rows[place] >= 0]
                scores = self._scores(embedded[query], kept)
                found[query] = scores, kept
                if self._nearest.exact and k < len(self):
                    # What was not found is at most `rough`, up to rounding. Could it be among the best?
                    last = np.partition(scores, k - depth)[k - depth]
                    if rough[place].min() >= last - self._rounding(embedded[query]):
                        unsure.append(query)
            open_, k = np.array(unsure, dtype=np.int64), 4 * k
        return found

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows,) Similarities in float32. Each is a sum of its own: no other row changes its last digits."""
        products = self._embeddings[rows].astype(np.float64) * query.astype(np.float64)
        return products.sum(axis=1).astype(np.float32)

    def _rounding(self, query: np.ndarray) -> float:
        """The most that a similarity in single precision can be off, twice: two of them are compared."""
        unit = float(np.finfo(np.float32).eps)
        return 2 * unit * query.size * float(np.linalg.norm(query)) * self._settings["longest"]

    def _write(self, folder: Path) -> None:
        save_embeddings(folder, self._embeddings)
        self._write_nearest(folder)

    def _write_nearest(self, folder: Path) -> None:
        if isinstance(self._nearest, Approximate):
            self._nearest.save(folder)


def _longest(embeddings: np.ndarray) -> float:
    """The greatest length of an embedding."""
    blocks = (embeddings[start : start + 50_000] for start in range(0, len(embeddings), 50_000))
    return max(float(np.linalg.norm(block.astype(np.float32), axis=1).max()) for block in blocks)


def _own_folder(folder: Path) -> Path:
    """The folder, made where it does not exist; refused where it holds something else than a part of an index."""
    check_parent(folder)
    folder.mkdir(exist_ok=True)
    if is_index(folder):
        raise ValueError(f"{folder} has a whole index already; open it with Dense.open, or name another folder")
    if any(folder.iterdir()) and not is_being_built(folder):
        raise ValueError(
            f"an index needs a folder of its own; got {folder}, which holds something else; name a new one"
        )
    return folder
