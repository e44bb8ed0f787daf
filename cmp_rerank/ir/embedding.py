"""Embeddings of a bi-encoder: computed in blocks, kept in memory or in a file, and taken up where they stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmp_rerank.ir.arguments import Progress
from cmp_rerank.ir.id_list import IdList
from cmp_rerank.ir.index_folder import BUILDING, checksum_of
from cmp_rerank.ir.lines import write_lines
from cmp_rerank.ir.postings import texts_in_blocks
from cmp_rerank.ir.ranking import check_choice

logger = logging.getLogger(__name__)
DTYPES = ("float32", "float16")
SIMILARITIES = ("cosine", "dot")
_FILE = "embeddings.bin"
# Texts that are sorted by length and then kept at once. More would waste more work when it is interrupted.
_BLOCK = 4096


class Embedder:
    """A bi-encoder with its batch size and its similarity.

    Args:
        model: a SentenceTransformer, or any object with its ``encode_query`` and ``encode_document``.
        batch_size: texts in a batch; they are sorted by length.
        similarity: "cosine" (embeddings get length 1), "dot", or None: what the model was trained for.

    Raises:
        ValueError: the similarity is not one of these.
    """

    def __init__(self, model: Any, batch_size: int, similarity: str | None) -> None:
        self._model, self._batch_size = model, batch_size
        similarity = getattr(model, "similarity_fn_name", "cosine") if similarity is None else similarity
        check_choice("similarity", similarity, SIMILARITIES)
        self.similarity = similarity

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimensions) ``float32``."""
        return self._embed(texts, "encode_query", None, 0, 0)

    def documents(
        self, texts: Sequence[str], progress: Progress | None = None, done: int = 0, total: int = 0
    ) -> np.ndarray:
        """(n, dimensions) ``float32``; ``done`` of ``total`` documents were embedded before, for the progress."""
        return self._embed(texts, "encode_document", progress, done, total)

    def _embed(
        self, texts: Sequence[str], method: str, progress: Progress | None, done: int, total: int
    ) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        encode = getattr(self._model, method)
        parts = []
        for start in range(0, len(order), self._batch_size):
            batch = [texts[i] for i in order[start : start + self._batch_size]]
            parts.append(
                encode(
                    batch,
                    batch_size=self._batch_size,
                    normalize_embeddings=self.similarity == "cosine",
                    show_progress_bar=False,
                )
            )
            if progress is not None:
                progress(done + min(start + self._batch_size, len(order)), total)
        if not parts:
            return np.zeros((0, 1), dtype=np.float32)
        embeddings = np.concatenate(parts).astype(np.float32, copy=False)
        if not np.isfinite(embeddings).all():
            wrong = order[int(np.argmin(np.isfinite(embeddings).all(axis=1)))]
            raise ValueError(
                "embeddings must be finite numbers; the model gave NaN or infinity for the text "
                f"{texts[wrong]!r:.80}; check the model, or load it in 32 bits"
            )
        restored = np.empty_like(embeddings)
        restored[order] = embeddings
        return restored


def embed_in_memory(
    documents: Mapping[str, str], embedder: Embedder, dtype: str, progress: Progress | None
) -> tuple[IdList, np.ndarray, str]:
    """Embed all documents.

    Returns:
        The ids; (n, dimensions) embeddings of type ``dtype``; and the text of the first document, by which a model
        can be told from another one.
    """
    ids: list[IdList] = []
    parts: list[np.ndarray] = []
    first, done = "", 0
    for block in texts_in_blocks(documents, _BLOCK):
        texts = list(block.values())
        first = first if ids else texts[0]
        ids.append(IdList.of(block))
        parts.append(stored(embedder.documents(texts, progress, done, len(documents)), dtype))
        done += len(texts)
    return IdList.joined(ids), np.concatenate(parts), first


def embed_to_file(
    documents: Mapping[str, str], embedder: Embedder, dtype: str, folder: Path, progress: Progress | None
) -> tuple[IdList, np.ndarray, str]:
    """Embed all documents into a file, from where an interrupted call for the same documents stopped.

    Args:
        documents: text by document id.
        embedder: for the documents.
        dtype: of the file, one of `DTYPES`.
        folder: for the file, and for a note how far it is, which is left there until :func:`building_is_done`.
        progress: called after each batch.

    Returns:
        As :func:`embed_in_memory`; the embeddings are memory-mapped.

    Raises:
        ValueError: the folder has a part for other documents, another model or other settings; or the model gives
            embeddings that are not finite.
    """
    digest, ids, first, done = hashlib.blake2b(digest_size=16), list[IdList](), "", 0
    settings = {"dtype": dtype, "similarity": embedder.similarity, "documents": len(documents), "block": _BLOCK}
    state = _State.read(folder) or _State(settings, 0, 0, "", 0)
    if state.settings != settings:
        raise _other(folder, f"was begun with {state.settings}; got {settings}")
    state.write(folder)
    with (folder / _FILE).open("r+b" if (folder / _FILE).exists() else "w+b") as file:
        for block in texts_in_blocks(documents, _BLOCK):
            texts = list(block.values())
            for pair in block.items():
                digest.update(json.dumps(pair).encode())
            ids.append(IdList.of(block))
            if not done:
                first = texts[0]
            done += len(texts)
            if done <= state.rows:
                if done == state.rows:
                    if digest.hexdigest() != state.digest:
                        raise _other(folder, f"holds {done:,} documents, which are not the first ones of those given")
                    file.truncate(done * state.dimensions * np.dtype(dtype).itemsize)
                    known = _mapped(folder, dtype, done, state.dimensions)[0]
                    check_model(embedder.documents([first])[0], known, first, folder)
                    file.seek(0, os.SEEK_END)
                continue
            if not state.rows:
                file.truncate(0)
            embedded = stored(embedder.documents(texts, progress, done - len(texts), len(documents)), dtype)
            raw = embedded.tobytes()
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
            checksum = zlib.crc32(raw, state.checksum)
            state = _State(settings, done, embedded.shape[1], digest.hexdigest(), checksum)
            state.write(folder)
    return IdList.joined(ids), _mapped(folder, dtype, done, state.dimensions), first


def is_being_built(folder: Path) -> bool:
    """Whether the folder has embeddings of some of the documents."""
    return (folder / BUILDING).is_file()


def building_is_done(folder: Path) -> None:
    """Remove the note how far the embeddings are."""
    (folder / BUILDING).unlink(missing_ok=True)


def save_embeddings(folder: Path, embeddings: np.ndarray) -> None:
    """Write embeddings as :func:`embed_to_file` does."""
    with (folder / _FILE).open("wb") as file:
        for start in range(0, len(embeddings), _BLOCK):
            file.write(embeddings[start : start + _BLOCK].tobytes())


def open_embeddings(folder: Path, dtype: str, dimensions: int) -> np.ndarray:
    """The embeddings of the file, memory-mapped."""
    rows = (folder / _FILE).stat().st_size // (dimensions * np.dtype(dtype).itemsize)
    return _mapped(folder, dtype, rows, dimensions)


def check_model(new: np.ndarray, known: np.ndarray, text: str, folder: Path) -> None:
    """Refuse a model that embeds a text in another way than the one that an index was built with.

    Args:
        new: (dimensions,) The embedding by the model.
        known: (dimensions,) The embedding in the index.
        text: Of both.
        folder: Of the index.

    Raises:
        ValueError: the dimensions differ, or the cosine of both embeddings is below 0.99. Rounding in 16 bits, and
            other texts in the batch, change it by less than a tenth of that.
    """
    new, known = new.astype(np.float64), known.astype(np.float64)
    if new.shape != known.shape or new @ known < 0.99 * np.linalg.norm(new) * np.linalg.norm(known):
        raise _other(folder, f"was built with another model: it embeds the text {text!r:.60} differently")


def stored(embeddings: np.ndarray, dtype: str) -> np.ndarray:
    """The embeddings as they are stored."""
    with np.errstate(over="ignore"):
        kept = embeddings.astype(dtype, copy=False)
    if not np.isfinite(kept).all():
        raise ValueError(f"embeddings must fit into {dtype}; got {np.abs(embeddings).max():g}; use dtype='float32'")
    return kept


class _State:
    """How far the embeddings of a folder are."""

    def __init__(self, settings: Mapping[str, Any], rows: int, dimensions: int, digest: str, checksum: int) -> None:
        self.settings, self.rows, self.dimensions, self.digest = dict(settings), rows, dimensions, digest
        self.checksum = checksum

    @classmethod
    def read(cls, folder: Path) -> _State | None:
        """How far they are; None where there are none, or other ones than were written."""
        if not is_being_built(folder):
            return None
        try:
            content = json.loads((folder / BUILDING).read_text(encoding="utf-8"))
            own = content.pop("own_checksum")
            if own != checksum_of(content):
                raise ValueError(f"{BUILDING} is not what was written")
            state = cls(**content)
            if state.rows and not state._is_whole(folder / _FILE):
                raise ValueError(f"{_FILE} is not what was written")
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            logger.warning("%s: the index that was begun here is damaged (%s); it is begun again", folder, error)
            return None
        return state

    def _is_whole(self, path: Path) -> bool:
        left, checksum = self.rows * self.dimensions * np.dtype(self.settings["dtype"]).itemsize, 0
        with path.open("rb") as file:
            while left and (part := file.read(min(left, 1 << 20))):
                left, checksum = left - len(part), zlib.crc32(part, checksum)
        return not left and checksum == self.checksum

    def write(self, folder: Path) -> None:
        content = {**vars(self), "own_checksum": checksum_of(vars(self))}
        write_lines(folder / BUILDING, [json.dumps(content) + "\n"])


def _mapped(folder: Path, dtype: str, rows: int, dimensions: int) -> np.ndarray:
    return np.memmap(folder / _FILE, dtype=dtype, mode="r", shape=(rows, dimensions))


def _other(folder: Path, what: str) -> ValueError:
    return ValueError(f"{folder}: the index {what}; build it in another folder, or delete this one")
