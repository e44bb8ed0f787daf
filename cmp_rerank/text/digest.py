"""A short hash of contents, for the ``repr`` of objects with too much data to write out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def content_digest(contents: Mapping[Any, Any]) -> str:
    """A hash of the keys and values of a mapping, whatever their order.

    Prepared examples are cached under the ``repr`` of what prepared them. So the ``repr`` of two objects with
    different contents must differ.

    Args:
        contents: a mapping whose keys can be sorted; of keys and values, the ``repr`` counts.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> content_digest({"b": [(0, 2)], "a": []}) == content_digest({"a": [], "b": [(0, 2)]})
        True
        >>> content_digest({"a": []}) == content_digest({"a": [(0, 2)]})
        False
    """
    content = repr(sorted(contents.items(), key=lambda item: item[0])).encode(errors="surrogatepass")
    return hashlib.blake2b(content, digest_size=8).hexdigest()
