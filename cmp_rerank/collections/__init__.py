"""Collections: one interface to corpus, queries, judgments, splits and runs of any source."""

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.files import open_texts
from cmp_rerank.collections.loading import kinds, load, register_collection
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.splits import divide, divided
from cmp_rerank.collections.store import TextStore
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.mappings import Texts

__all__ = [
    "Collection",
    "LoadOptions",
    "Split",
    "TextStore",
    "Texts",
    "as_texts",
    "divide",
    "divided",
    "kinds",
    "load",
    "open_texts",
    "register_collection",
]
