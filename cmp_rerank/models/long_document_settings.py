"""The settings of a LongDocumentReranker, in a file of its checkpoint that every model writes anew when it is saved.

So a plain CrossEncoder that is saved over one leaves nothing of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sentence_transformers.util import load_file_path

from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.reading import read_json

FILE, KEY = "config_sentence_transformers.json", "long_documents"
#: Arguments of CrossEncoder that say which copy of a checkpoint on the hub is meant.
WHERE = ("revision", "token", "cache_folder", "local_files_only")


def write_settings(folder: PathLike, settings: dict[str, Any]) -> None:
    """Add the settings to a checkpoint."""
    path = Path(folder) / FILE
    about = read_json(path)
    with replacing(path) as file:
        json.dump({**about, KEY: settings}, file, indent=2, sort_keys=True)


def read_settings(name: PathLike, **where: Any) -> dict[str, Any]:
    """The settings of a checkpoint; empty for one that was saved without them.

    Args:
        name: A folder, or a name on the hub.
        **where: Which copy on the hub, see `WHERE`.

    Raises:
        ValueError: The file is no JSON object, or the settings are none.
    """
    path = load_file_path(os.fspath(name), FILE, **where)
    if path is None:
        return {}
    about = read_json(path)
    settings = about.get(KEY, {}) if isinstance(about, dict) else about
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected an object with settings; got {settings!r:.80}; save the model again")
    return settings
