"""``docstrings`` and ``docstrings:numpy,scipy``: the docstring collection by its name."""

from __future__ import annotations

from cmp_rerank.collections.base import Collection
from cmp_rerank.collections.docstrings.build import DEFAULT_PACKAGES, docstring_collection
from cmp_rerank.collections.options import LoadOptions


def open_docstrings(where: str, options: LoadOptions) -> Collection:
    """The docstring collection of some packages.

    Args:
        where: Names of packages, separated by commas; nothing: the default ones.
        options: The seed of the splits, and the folder of the cache.

    Returns:
        The collection, with the splits train, dev and test.

    Raises:
        ValueError: As :func:`docstring_collection`.
    """
    packages = tuple(name.strip() for name in where.split(",")) if where else DEFAULT_PACKAGES
    return docstring_collection(packages, seed=options.seed, cache_dir=options.cache_dir)
