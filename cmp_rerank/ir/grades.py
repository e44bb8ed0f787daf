"""Grades of judgments: whole numbers, also where a file or a program writes them as 1.0."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

#: The largest grade, and its negative the smallest. trec_eval's code counts documents by grade, in an array with an
#: entry for each grade up to the largest, and would take gigabytes, or end the process, beyond it.
LARGEST = 1_000_000


def as_grade(value: Any) -> int:
    """A whole number as an int, also one that is a float.

    Raises:
        ValueError: It is no whole number, or beyond :data:`LARGEST`.

    Example:
        >>> as_grade(2), as_grade(-1.0)
        (2, -1)
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not -math.inf < value < math.inf or value != int(value):
        raise ValueError(f"a grade must be an integer; got {value!r:.80}")
    if abs(value) > LARGEST:
        raise ValueError(f"a grade must be at most {LARGEST:,}, and at least -{LARGEST:,}; got {value!r:.80}")
    return int(value)


def read_grade(raw: bytes) -> int:
    """The grade in a column of a file: 1, or 1.0 as some tools write it, which trec_eval reads as 1.

    Raises:
        ValueError: It is no grade; so is 0.5, which trec_eval reads as 0.

    Example:
        >>> read_grade(b"1.0")
        1
    """
    try:
        number = float(raw)
    except ValueError:
        raise ValueError(f"a grade must be an integer; got {raw[:80]!r}") from None
    return as_grade(number)
