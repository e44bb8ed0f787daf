"""What a misspelt name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, whatever the case of its letters; None where none is similar.

    Example:
        >>> closest("binarycrossentropy", ["MSELoss", "BinaryCrossEntropyLoss"])
        'BinaryCrossEntropyLoss'
    """
    folded = {candidate.casefold(): candidate for candidate in reversed(list(known))}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message that proposes a known name, or nothing where none is similar.

    Example:
        >>> did_you_mean("NDGC@10", ["nDCG@10", "RR@10"])
        '; did you mean nDCG@10?'
        >>> did_you_mean("colour", ["nDCG@10", "RR@10"])
        ''
    """
    meant = closest(name, known)
    return "" if meant is None else f"; did you mean {meant}?"
