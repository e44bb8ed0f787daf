"""The guard: a tuned model is compared with what the user had, and what is handed over is not worse."""

from typing import TYPE_CHECKING, Any

from cmp_rerank.guard.choice import Choice, choose
from cmp_rerank.guard.mix import Mix
from cmp_rerank.guard.options import GuardOptions
from cmp_rerank.guard.save import Guarded, load_guard
from cmp_rerank.guard.split import Split
from cmp_rerank.guard.verdict import Verdict

if TYPE_CHECKING:
    from cmp_rerank.guard.callback import GuardCallback
    from cmp_rerank.guard.guarding import guard

__all__ = [
    "Choice",
    "GuardCallback",
    "GuardOptions",
    "Guarded",
    "Mix",
    "Split",
    "Verdict",
    "choose",
    "guard",
    "load_guard",
]

# What needs torch, which takes seconds to import and which nothing else here needs.
_HOME = {
    "GuardCallback": "cmp_rerank.guard.callback",
    "guard": "cmp_rerank.guard.guarding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
