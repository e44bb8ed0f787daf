"""One model in several threads: what puts hooks on it waits for its turn, and leaves calls by others alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_TURNS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()  # type: ignore[type-arg]
_GUARD = threading.Lock()


@contextmanager
def turn(model: nn.Module) -> Iterator[None]:
    """Inside, no other thread has a turn with this model. A thread may take a turn within its own.

    Args:
        model: The model itself, without wrappers.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> with turn(model), turn(model), turn(nn.Linear(1, 1)):
        ...     pass
    """
    with _GUARD:
        lock = _TURNS.setdefault(model, threading.RLock())
    with lock:
        yield


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for calls of a module by this thread; in others the module runs as if the hook were not there.

    A call elsewhere may find a hook that is just put on, or taken off. Torch may then hand it other arguments than it
    asked for.

    Example:
        >>> seen = []
        >>> hook = in_this_thread(lambda module, args: seen.append(args))
        >>> elsewhere = threading.Thread(target=hook, args=("module", "args", "and", "more"))
        >>> elsewhere.start(), elsewhere.join(), hook("module", "args"), seen
        (None, None, None, ['args'])
    """
    mine = threading.get_ident()

    def run(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == mine else None

    return run
