"""Checks of arguments. Each message says what is wrong, what was got, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any


def check_whole(name: str, value: object, least: int) -> None:
    """Raise ValueError for what is no whole number, or below the least one.

    Example:
        >>> check_whole("top_k", 1.5, 1)
        Traceback (most recent call last):
        ValueError: top_k must be a whole number, 1 or more; got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r:.80}")


def check_threshold(value: object, *, finite: bool = False) -> None:
    """Raise ValueError for a threshold that is no number and not None; NaN is no number."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ValueError(f"threshold must be a {'finite ' if finite else ''}number or None; got {value!r:.80}")
    if finite and math.isinf(value):
        raise ValueError(f"threshold must be a finite number or None; got {value!r}")


def check_list(name: str, value: Any, of: str) -> None:
    """Raise ValueError for what is not a list, or like one: with a length and items by number.

    Args:
        name: Of the argument.
        value: Its value.
        of: What it is a list of.

    Example:
        >>> check_list("questions", (number for number in range(3)), "Question objects")
        Traceback (most recent call last):
        ValueError: questions must be a list of Question objects; got a generator; pass list(questions)
    """
    single = isinstance(value, str | bytes | Mapping)
    if not single and hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return
    advice = f"put it into a list, or pass a list of {of}"
    if not single and isinstance(value, Iterable):
        advice = f"pass list({name})"
    raise ValueError(f"{name} must be a list of {of}; got {described(value)}; {advice}")


def check_predictions(predictions: Any) -> None:
    """Raise ValueError for what is not question id -> text.

    Example:
        >>> check_predictions({"q1": None})
        Traceback (most recent call last):
        ValueError: question 'q1': a prediction must be a text; got None; no answer is ""
    """
    if not isinstance(predictions, Mapping):
        raise ValueError(
            f"predictions must be a mapping of question ids to texts; got {described(predictions)}; "
            "cmp_rerank.reader.answers.predictions makes one of ranked answers"
        )
    for name, prediction in predictions.items():
        if not isinstance(prediction, str):
            raise ValueError(
                f'question {name!r}: a prediction must be a text; got {prediction!r:.80}; no answer is ""'
            )


def described(value: object) -> str:
    """What kind of value it is, for a message: "a generator", "a str", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
