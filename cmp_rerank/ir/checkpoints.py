"""Loading a checkpoint of any kind: what its library says of damaged files becomes one line with the name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cmp_rerank.ir.lines import PathLike


@contextlib.contextmanager
def loading_checkpoint(name: PathLike) -> Iterator[None]:
    """Turn any error of loading a checkpoint into a ValueError that names it.

    Weights, settings and tokenizers are read by several libraries, and each has errors of its own for files that are
    cut or changed: OSError, KeyError, SafetensorError and more. That memory is short, or a library is missing, is no
    fault of the checkpoint.

    Args:
        name: A folder, or a name on the hub.

    Raises:
        ValueError: With the name, and the first line of what went wrong.

    Example:
        >>> with loading_checkpoint("models/tuned"):
        ...     raise KeyError("model_type")
        Traceback (most recent call last):
        ValueError: models/tuned: this checkpoint cannot be loaded (KeyError: 'model_type'); is it whole? ...
    """
    try:
        yield
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        if "out of memory" in str(error) or (isinstance(error, ValueError) and os.fspath(name) in str(error)):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(
            f"{os.fspath(name)}: this checkpoint cannot be loaded ({type(error).__name__}: {first.strip():.160}); "
            "is it whole? Save or download it again"
        ) from error
