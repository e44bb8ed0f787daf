"""The embeddings nearest to those of queries: all compared, or found by an index of faiss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_FILE = "index.faiss"
# Rows that are compared or added at once; 77 MB with 384 dimensions.
_BLOCK = 50_000
# The most neighbours that faiss finds on a GPU.
_GPU_LIMIT = 2048


class Nearest(Protocol):
    """Finds rows by inner product."""

    #: Whether nothing with a higher inner product is missed.
    exact: bool

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inner products (queries, k) in float32, and rows (queries, k); row -1 where fewer than k are found."""


class Flat:
    """All embeddings are compared with each query, a block of them at a time; they may be memory-mapped.

    Args:
        embeddings: (n, dimensions)

    Raises:
        ImportError: faiss is not installed.
    """

    exact = True

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings
        self._knn = _brute_force()

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each query; see :class:`Nearest`."""
        scores = np.zeros((len(queries), 0), dtype=np.float32)
        rows = np.zeros((len(queries), 0), dtype=np.int64)
        for start in range(0, len(self._embeddings), _BLOCK):
            part = np.ascontiguousarray(self._embeddings[start : start + _BLOCK], dtype=np.float32)
            found, places = self._knn(queries, part, min(k, len(part)))
            scores, rows = np.hstack([scores, found]), np.hstack([rows, places + start])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        return scores, rows


class Approximate:
    """An index of faiss.

    Args:
        index: With the inner product as its metric.
        written: (bytes,) The file that it was opened from. What is memory-mapped in an index, faiss writes as the
            name of the file it is in.
    """

    exact = False

    def __init__(self, index: Any, written: np.ndarray | None = None) -> None:
        self._index, self._written = index, written
        self._searched = _on_gpu(index)

    @classmethod
    def build(cls, embeddings: np.ndarray, factory: str, parameters: str | None, seed: int) -> Approximate:
        """Train an index and add all embeddings, a block at a time.

        Args:
            embeddings: (n, dimensions); may be memory-mapped.
            factory: "ivf", "hnsw", or the description of any index for ``faiss.index_factory``.
            parameters: How thoroughly is searched, as ``faiss.ParameterSpace`` reads it, such as "nprobe=32"; None: a
                middle way for "ivf" and "hnsw", and what faiss does for others.
            seed: Of the sample that the index is trained on.

        Raises:
            ImportError: faiss is not installed.
            ValueError: There is no such index or parameter, or there are too few embeddings to train it.
        """
        index = empty_index(factory, parameters, len(embeddings), embeddings.shape[1])
        if not index.is_trained:
            size = min(len(embeddings), 256 * isqrt(len(embeddings)))
            sample = np.sort(np.random.default_rng(seed).choice(len(embeddings), size, replace=False))
            try:
                index.train(np.ascontiguousarray(embeddings[sample], dtype=np.float32))
            except RuntimeError as error:
                raise ValueError(
                    f"the index {factory!r} must be trained on some of the documents; got {len(embeddings):,}; "
                    f"take a smaller one, or 'flat'; faiss says: {_said(error)}"
                ) from error
        for start in range(0, len(embeddings), _BLOCK):
            index.add(np.ascontiguousarray(embeddings[start : start + _BLOCK], dtype=np.float32))
        return cls(index)

    @classmethod
    def open(cls, folder: Path) -> Approximate:
        """A saved index; inverted lists are memory-mapped."""
        faiss, path = _faiss(), folder / _FILE
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP), np.memmap(path, dtype=np.uint8, mode="r"))

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        if self._written is not None:
            self._written.tofile(folder / _FILE)
        else:
            _faiss().write_index(self._index, str(folder / _FILE))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each query that the index finds; see :class:`Nearest`."""
        index = self._searched if k <= _GPU_LIMIT else self._index
        scores, rows = index.search(queries, k)
        return scores, rows


def empty_index(factory: str, parameters: str | None, n: int, dimensions: int) -> Any:
    """The index of faiss that :meth:`Approximate.build` fills; to be had before anything is embedded.

    Args:
        factory: As there, and so are the parameters.
        parameters: As there.
        n: How many embeddings it will hold.
        dimensions: Of each.

    Raises:
        ImportError: faiss is not installed.
        ValueError: There is no such index or parameter.
    """
    faiss = _faiss()
    described, usual = _described(factory, n)
    try:
        index = faiss.index_factory(dimensions, described, faiss.METRIC_INNER_PRODUCT)
        if parameters or usual:
            faiss.ParameterSpace().set_index_parameters(index, parameters or usual)
    except RuntimeError as error:
        raise ValueError(
            f"index must be 'flat', 'ivf', 'hnsw' or an index of faiss with parameters that it knows; got "
            f"{factory!r} and {parameters!r}; faiss says: {_said(error)}"
        ) from error
    return index


def _said(error: RuntimeError) -> str:
    return str(error).splitlines()[-1].strip()


def _described(factory: str, n: int) -> tuple[str, str]:
    """What faiss calls the index, and the usual parameters of its search."""
    if factory == "ivf":
        # The usual number of lists is 4 sqrt(n); faiss wants 39 embeddings or more to train each.
        lists = max(1, min(4 * isqrt(n), n // 39))
        return f"IVF{lists},Flat", f"nprobe={max(min(lists, 16), lists // 16)}"
    if factory == "hnsw":
        return "HNSW32,Flat", "efSearch=128"
    if factory == "flat":
        return "Flat", ""
    return factory, ""


def _brute_force() -> Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """The function of faiss that compares everything, on a GPU where it has one."""
    faiss = _faiss()
    on_cpu = partial(faiss.knn, metric=faiss.METRIC_INNER_PRODUCT)
    if not faiss.get_num_gpus():
        return on_cpu
    on_gpu = partial(faiss.knn_gpu, faiss.StandardGpuResources(), metric=faiss.METRIC_INNER_PRODUCT)
    return lambda queries, part, k: (on_gpu if k <= _GPU_LIMIT else on_cpu)(queries, part, k)


def _on_gpu(index: Any) -> Any:
    """A copy of the index on the GPUs, or the index itself where there is none, or it has no counterpart there."""
    faiss = _faiss()
    if not faiss.get_num_gpus():
        return index
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError:  # such as HNSW
        return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "Dense retrieval needs the extra 'retrieval': pip install 'cmp-rerank[retrieval]'."
        ) from error
    return faiss
