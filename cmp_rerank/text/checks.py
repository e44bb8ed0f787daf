"""Checks of arguments that take any object of the right shape."""

from __future__ import annotations

from typing import Any


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
