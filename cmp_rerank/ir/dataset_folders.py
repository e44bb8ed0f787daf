"""Folders of the library `datasets`: opened only where the files in them are whole."""

from __future__ import annotations

import os
from typing import Any

from cmp_rerank.ir.lines import PathLike


def open_dataset(folder: PathLike) -> Any:
    """What ``save_to_disk`` has written to a folder: a ``Dataset`` or a ``DatasetDict``, on disk.

    Its tables are mapped into memory as they are: what is damaged in them would end the process as soon as it is
    touched. So all of them are read once, here, and checked.

    Args:
        folder: The folder.

    Returns:
        The dataset.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: With the folder: there is no dataset in it, or it is damaged.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> folder = tempfile.mkdtemp()
        >>> Dataset.from_dict({"query": ["who"]}).save_to_disk(folder)
        >>> open_dataset(folder)[0]
        {'query': 'who'}
    """
    name = os.fspath(folder)
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise ImportError(f"{name}: reading this needs datasets: pip install datasets") from error
    try:
        loaded = load_from_disk(name)
        for part in [loaded] if isinstance(loaded, Dataset) else loaded.values():
            part.data.table.validate(full=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"{name} must be a folder written by datasets.Dataset.save_to_disk; got one without a table"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of json, pyarrow and datasets itself: any, for what its own files may hold
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{name}: the dataset in this folder is damaged ({first:.120}); save it again") from error
    return loaded
