"""The settings of a LongDocumentReranker, in a small file beside the checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sentence_transformers.util import load_file_path

from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.reading import read_json

FILE = "long_document.json"
#: Arguments of CrossEncoder that say which copy of a checkpoint on the hub is meant.
WHERE = ("revision", "token", "cache_folder", "local_files_only")


def write_settings(folder: PathLike, settings: dict[str, Any]) -> None:
    """Write the settings into the folder of a checkpoint."""
    with replacing(Path(folder) / FILE) as file:
        json.dump(settings, file, indent=1)
        file.write("\n")


def read_settings(name: PathLike, **where: Any) -> dict[str, Any]:
    """The settings of a checkpoint; empty for one that was saved without them.

    Args:
        name: A folder, or a name on the hub.
        **where: Which copy on the hub, see `WHERE`.

    Raises:
        ValueError: The file is no JSON object.
    """
    path = load_file_path(os.fspath(name), FILE, **where)
    if path is None:
        return {}
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected an object with the settings; got {settings!r:.80}; delete the file")
    return settings
