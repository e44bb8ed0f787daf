"""One model in several threads: what puts hooks on it waits for its turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
