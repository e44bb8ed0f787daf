"""The options of opening a collection, whatever its kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cmp_rerank.collections.base import MISSING_TEXTS
from cmp_rerank.collections.splits import check_shares
from cmp_rerank.ir.ranking import check_choice


@dataclass(frozen=True)
class LoadOptions:
    """How a collection is read; the options of :func:`load`.

    Args:
        missing_texts: Judged documents and queries without a text: "error", or "drop": leave out and count them.
        titles: Whether titles are put before texts, with a space between.
        split: Divide all judged queries anew: a share for "dev" and as much for "test", or a share for each name;
            the others are in "train". None: the splits of the source.
        seed: Of the division.
        cache_dir: Where large texts are stored for memory-mapping; None: ``cmp_rerank`` in the user's cache folder.

    Raises:
        ValueError: An option is out of its range.

    Example:
        >>> LoadOptions(missing_texts="drop", split={"dev": 0.1, "test": 0.2}).titles
        True
        >>> LoadOptions(missing_texts="keep")
        Traceback (most recent call last):
        ValueError: missing_texts must be one of 'error', 'drop'...
    """

    missing_texts: str = "error"
    titles: bool = True
    split: float | Mapping[str, float] | None = None
    seed: int = 0
    cache_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_choice("missing_texts", self.missing_texts, MISSING_TEXTS)
        check_shares(self.split)
