"""Fine-tune rerankers and readers with comparative loss, and measure whether it helped."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmp_rerank.ablations import CmpCrop, CmpDrop
    from cmp_rerank.losses import ComparativeLoss
    from cmp_rerank.models.long_document import LongDocumentReranker
    from cmp_rerank.training import RerankerTrainer

__all__ = ["CmpCrop", "CmpDrop", "ComparativeLoss", "LongDocumentReranker", "RerankerTrainer"]

# Where each public name lives. Imported on first use: the commands that need no model start without torch.
_HOME = {
    "CmpCrop": "cmp_rerank.ablations",
    "CmpDrop": "cmp_rerank.ablations",
    "ComparativeLoss": "cmp_rerank.losses",
    "LongDocumentReranker": "cmp_rerank.models.long_document",
    "RerankerTrainer": "cmp_rerank.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
