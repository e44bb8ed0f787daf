"""What differs between two settings of one work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, value and other value of what differs.

    Example:
        >>> differences({"k1": 0.9, "b": 0.4}, {"k1": 1.2, "b": 0.4})
        [('k1', 0.9, 1.2)]
    """
    return [(name, one.get(name), other.get(name)) for name in {**one, **other} if one.get(name) != other.get(name)]


def in_words(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, in words.

    Example:
        >>> in_words({"k1": 0.9}, {"k1": 1.2})
        ['k1 was 0.9, now 1.2']
    """
    return [f"{name} was {old!r}, now {new!r}" for name, old, new in differences(before, now)]
