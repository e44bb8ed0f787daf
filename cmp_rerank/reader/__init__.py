"""Readers: extractive question answering, trained comparatively."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmp_rerank.reader.answers import best_answers
    from cmp_rerank.reader.features import make_windows
    from cmp_rerank.reader.reader import Reader
    from cmp_rerank.reader.records import GoldAnswer, Question
    from cmp_rerank.reader.windows import WholePassages, Window, WindowCounts, Windows

__all__ = [
    "GoldAnswer",
    "Question",
    "Reader",
    "WholePassages",
    "Window",
    "WindowCounts",
    "Windows",
    "best_answers",
    "make_windows",
]

# Where each name lives. Imported on first use: reading files and measuring predictions start without a trainer.
_HOME = {
    "GoldAnswer": "records",
    "Question": "records",
    "Reader": "reader",
    "WholePassages": "windows",
    "Window": "windows",
    "WindowCounts": "windows",
    "Windows": "windows",
    "best_answers": "answers",
    "make_windows": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
