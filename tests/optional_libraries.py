"""Libraries that some tests need and some machines lack: what uses one is skipped there, and says what it missed.

``datasets.Dataset.from_dict(...)`` is that of the library. Where there is none, the test that comes to such a line
is skipped, or the whole file where the line stands outside of the tests.
"""

from __future__ import annotations

from typing import Any

import pytest


class _Library:
    """A module that is imported when something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(pytest.importorskip(self._name), attribute)


datasets: Any = _Library("datasets")
