"""Training data in files that `datasets` reads: JSON lines, parquet or a folder; nothing half-written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp_rerank.ir.abandoned import remove_abandoned
from cmp_rerank.ir.lines import check_parent, replacing, unfinished_folder, write_lines
from cmp_rerank.version import versions_with

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".jsonl", ".parquet", "")


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse, before any work is done, a place where rows cannot be written.

    Raises:
        ValueError: For another suffix than .jsonl, .parquet and none (a folder); a folder that is there already, or
            a file, device or pipe where a folder would be; a place in a folder that is not there.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: training data is written as .jsonl, .parquet or a folder; got the suffix {path.suffix}"
        )
    for each in (path, target):
        check_parent(each)
    remove_abandoned(target)  # of a process that was killed when only this was left to do
    found = "folder" if path.is_dir() else "file"
    if path.is_dir() or (path.exists() and not (path.suffix and path.is_file())):
        raise ValueError(f"{path}: there is such a {found} already; remove it, or choose another name")


def about_path(path: str | os.PathLike[str]) -> Path:
    """Where it is written how the rows of a file or folder were made.

    Example:
        >>> about_path("data/train.jsonl").as_posix(), about_path("data/train").as_posix()
        ('data/train.mining.json', 'data/train.mining.json')
    """
    path = Path(path)
    return path.with_name(f"{path.stem}.mining.json")


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars of datasets, which would show even for work of a moment."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def write_rows(dataset: Dataset, path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """Write a dataset, and how it was made in a file beside it, such as train.mining.json.

    Of a symbolic link, the file or folder that it names is written; how it was made is written beside the link.

    Args:
        dataset: The rows; read in batches, so that it may be larger than memory.
        path: .jsonl, .parquet, or no suffix for a folder that ``datasets.load_from_disk`` reads.
        about: What made it, such as options and counts; versions are added.

    Raises:
        ValueError: As :func:`check_target`.
    """
    check_target(path)
    path, target = Path(path), Path(os.path.realpath(path))
    # In a folder of its own beside the target: what is whole is then renamed.
    with unfinished_folder(target) as partial:
        written = partial / path.name
        if path.suffix == ".jsonl":
            # Not `Dataset.to_json`, which cuts numbers to 10 digits.
            write_lines(written, (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in dataset))
        else:
            with _without_bars():
                (dataset.to_parquet if path.suffix == ".parquet" else dataset.save_to_disk)(written)
        versions = versions_with("datasets", "pyarrow")
        with replacing(about_path(path)) as file:
            json.dump({**about, "versions": versions}, file, indent=1, allow_nan=False)
            file.write("\n")
        # The rows come last: where they are, all is.
        os.replace(written, target)
