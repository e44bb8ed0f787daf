"""A reranker from a checkpoint: what is none is refused, not given a new random head."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp_rerank.ir.checkpoints import loading_checkpoint
from cmp_rerank.ir.lines import PathLike

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder
    from torch import nn


def load_reranker(
    name: PathLike, *, max_length: int | None = None, device: str | None = None, long_documents: bool | None = None
) -> CrossEncoder:
    """Load a cross-encoder, as a LongDocumentReranker where it was saved as one.

    Args:
        name: A folder, or a name on the hub.
        max_length: The window in tokens; None: as the checkpoint says.
        device: Such as "cpu" or "cuda:0"; None: a GPU where there is one.
        long_documents: Whether documents are divided into passages; None: as the checkpoint says.

    Raises:
        ValueError: There is no such checkpoint, or it is no cross-encoder: sentence-transformers would give it a new
            head of random weights.
    """
    check_checkpoint(name)
    with loading_checkpoint(name):
        model = open_checkpoint(name, long_documents=long_documents, device=device, max_length=max_length)
    check_window(model, max_length)
    return model


def open_checkpoint(name: PathLike, *, long_documents: bool | None = None, **options: Any) -> CrossEncoder:
    """Load a checkpoint as what it was saved as, unchecked: an encoder gets a new head.

    Rerankers that are loaded by a folder or a name are loaded here, so that a LongDocumentReranker stays one.

    Args:
        name: A folder, or a name on the hub.
        long_documents: Whether documents are divided into passages; None: as the checkpoint says.
        options: Arguments of CrossEncoder.
    """
    from sentence_transformers import CrossEncoder

    from cmp_rerank.models.long_document import LongDocumentReranker, saved_arguments
    from cmp_rerank.models.long_document_settings import WHERE, read_settings

    settings = {}
    if long_documents is not False:
        settings = read_settings(name, **{key: options[key] for key in WHERE if key in options})
    if not (long_documents or settings):
        return CrossEncoder(os.fspath(name), **options)
    arguments = saved_arguments(settings)
    return LongDocumentReranker(CrossEncoder(os.fspath(name), **options), **arguments)


def check_window(model: nn.Module, max_length: int | None, name: str = "max_length") -> None:
    """Refuse a window that is longer than a model has positions for: it would fail at the first long pair.

    Args:
        model: The model. One that computes its positions, rotary or relative ones, takes any window.
        max_length: The window in tokens; None: the model's own.
        name: What an error calls it.

    Raises:
        ValueError: With both numbers.
    """
    tables = [
        module
        for path, module in model.named_modules()
        if path.endswith(("position_embeddings", "embed_positions")) and hasattr(module, "num_embeddings")
    ]
    # Models of the family of RoBERTa count from the position after that of padding, those of BART from an offset.
    positions = [
        table.num_embeddings - getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        for table in tables
    ]
    if max_length is not None and positions and max_length > min(positions):
        raise ValueError(
            f"{name} must be at most {min(positions)}, the positions that the model has; got {max_length}; choose "
            "a smaller one, or read longer documents in passages (LongDocumentReranker)"
        )


def check_checkpoint(name: PathLike) -> None:
    """Refuse a checkpoint that is no cross-encoder, by what its files say.

    Raises:
        ValueError: There is none of that name, or it is of another kind.
    """
    config, modules = read_checkpoint(name)
    if modules is not None:
        about = _read(name, "config_sentence_transformers.json")
        kind = about.get("model_type", "SentenceTransformer") if isinstance(about, dict) else "SentenceTransformer"
        if kind != "CrossEncoder":
            raise ValueError(
                f"{os.fspath(name)}: a reranker must be a cross-encoder; got a {kind}, whose head would be random; "
                "rank with it by cmp_rerank.ir.Dense, or fine-tune a cross-encoder from it first"
            )
        return
    kinds = list(map(str, config.get("architectures") or ["a model without a name of its class"]))
    # A language model needs no new head: sentence-transformers reads its logits of "yes" and "no".
    if not kinds[0].endswith("ForCausalLM") and not any("ForSequenceClassification" in kind for kind in kinds):
        raise ValueError(
            f"{os.fspath(name)}: a reranker must be a cross-encoder (a ...ForSequenceClassification or "
            f"...ForCausalLM); got {kinds[0]}, whose head would be random; fine-tune it first"
        )


def read_checkpoint(name: PathLike) -> tuple[Any, Any]:
    """What the files of a checkpoint of any kind say of it, without loading it.

    Args:
        name: A folder, or a name on the hub.

    Returns:
        The content of config.json and modules.json; None for one that there is not.

    Raises:
        ValueError: There is no checkpoint of that name, or it is damaged.
    """
    config, modules = _read(name, "config.json"), _read(name, "modules.json")
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"{os.fspath(name)}: config.json must be an object; got {config!r:.80}; is it whole?")
    if config is None and modules is None:
        what = "this folder holds no checkpoint" if Path(name).is_dir() else "no such checkpoint"
        raise ValueError(f"{os.fspath(name)}: {what}; give a folder with config.json, or a name on the hub")
    return config, modules


def _read(name: PathLike, file: str) -> Any:
    from sentence_transformers.util import load_file_path

    try:
        path = load_file_path(os.fspath(name), file)
    except Exception as error:
        raise ValueError(f"{os.fspath(name)}: no such checkpoint ({str(error).splitlines()[0]})") from error
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); the checkpoint is damaged") from error
