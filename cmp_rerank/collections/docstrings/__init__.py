"""The docstring collection: known-item search over the docstrings of installed packages."""

from cmp_rerank.collections.docstrings.build import DEFAULT_PACKAGES, docstring_collection

__all__ = ["DEFAULT_PACKAGES", "docstring_collection"]
