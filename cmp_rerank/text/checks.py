"""Checks of arguments. Each message says what is wrong, what was got, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np


def check_whole(name: str, value: Any, least: int | None = 1) -> int:
    """Return a whole number as an ``int``, or raise a ValueError.

    Args:
        name: of the argument.
        value: what was passed; an integer of numpy will do.
        least: the lowest value that is allowed; None: any.

    Raises:
        ValueError: if ``value`` is no integer (True and 2.0 are none), or below ``least``.

    Example:
        >>> check_whole("tokens_per_batch", 2.5)
        Traceback (most recent call last):
        ...
        ValueError: tokens_per_batch must be a whole number, at least 1; got 2.5.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or (least is not None and value < least):
        raise ValueError(
            f"{name} must be a whole number{'' if least is None else f', at least {least}'}; got {value!r}."
        )
    return int(value)


def refuse_mask(what: str, values: Iterable[Any]) -> None:
    """Raise a ValueError where True or False stands among numbers.

    Both are integers of Python, so a mask would pass for the numbers 0 and 1.

    Args:
        what: named in the error.
        values: what was passed.

    Raises:
        ValueError: if one of ``values`` is True or False, of Python or of numpy.

    Example:
        >>> refuse_mask("Support", [False, True])
        Traceback (most recent call last):
        ...
        ValueError: Support: expected numbers of segments or spans; got a mask with False. Pass where it is True.
    """
    for value in values:
        if isinstance(value, (bool, np.bool_)):
            raise ValueError(
                f"{what}: expected numbers of segments or spans; got a mask with {value}. Pass where it is True."
            )


def refuse_class(name: str, value: Any) -> None:
    """Raise a ValueError where a class was passed instead of an object of it.

    A class can be called, so without this check it would pass for a callable and fail much later.

    Args:
        name: of the argument.
        value: what was passed.

    Raises:
        ValueError: if ``value`` is a class.

    Example:
        >>> from cmp_rerank.text.segmenters import Sentences
        >>> refuse_class("segmenter", Sentences)
        Traceback (most recent call last):
        ...
        ValueError: segmenter must be an object; got the class Sentences. Pass Sentences(...) instead.
    """
    if isinstance(value, type):
        raise ValueError(
            f"{name} must be an object; got the class {value.__name__}. Pass {value.__name__}(...) instead."
        )
