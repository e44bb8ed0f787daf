"""Real text to train and test on without a download: a known-item collection made of docstrings.

``docstring_collection()`` builds it from the sources of installed packages; ``Collection`` is what it returns,
and reads and writes BEIR folders.
"""

from cmp_rerank.data.collection import Collection
from cmp_rerank.data.docstrings import DEFAULT_PACKAGES, docstring_collection

__all__ = ["DEFAULT_PACKAGES", "Collection", "docstring_collection"]
