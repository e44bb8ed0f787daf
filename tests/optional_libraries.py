"""Libraries that some tests need and some machines lack: what uses one is skipped there, and says what it missed.

``datasets.Dataset.from_dict(...)`` is that of the library. Where there is none, the test that comes to such a line
is skipped, or the whole file where the line stands outside of the tests. The same goes for a test that comes to such
a line in the package; `USERS` lists where that may be, so that no other part comes to need the library unnoticed.
"""

from __future__ import annotations

import doctest
import importlib.util
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner


class _Library:
    """A module that is imported when something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # pytest looks for wrapped functions in all that a conftest has
        return getattr(pytest.importorskip(self._name), attribute)


datasets: Any = _Library("datasets")

PACKAGE = Path(__file__).parents[1] / "cmp_rerank"
#: Where the package uses `datasets`: rows of training data, collections of the hub, and the commands that train.
USERS = {
    PACKAGE / name
    for name in (
        "cli/quiet.py", "collections/hub.py", "ir/dataset_folders.py", "mining/mine.py", "mining/rows.py",
        "mining/write.py",
    )
}  # fmt: skip


#: What the trainers of sentence-transformers say instead.
REFUSED = "you need to install the `accelerate` and `datasets` modules"


REASON = "needs datasets, which is not installed"


def needs_datasets(error: BaseException) -> bool:
    """Whether a test ended in this error, or one that came of it, for want of `datasets` and no other reason."""
    if isinstance(error, doctest.UnexpectedException):
        error = error.exc_info[1]
    before = error.__cause__ or error.__context__
    return _is_missing(error) or (before is not None and needs_datasets(before))


def _is_missing(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        return REFUSED in str(error) and importlib.util.find_spec("datasets") is None
    if not isinstance(error, ModuleNotFoundError) or error.name != "datasets":
        return False
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [file for file in files if PACKAGE in file.parents]
    return not ours or ours[-1] in USERS


def skipping(invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a command, which makes one line of every error; skips the test where that was for want of `datasets`."""

    @wraps(invoke)
    def run(*args: Any, **kwargs: Any) -> Any:
        result = invoke(*args, **kwargs)
        if result.exception is not None and needs_datasets(result.exception):
            pytest.skip(REASON)
        return result

    return run


class SkipWhereMissing:
    """A plugin of pytest that skips such tests and doctests, and those whose commands end so."""

    def __init__(self) -> None:
        CliRunner.invoke = skipping(CliRunner.invoke)  # type: ignore[method-assign]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        """As it is, with a skip in the place of such an error."""
        try:
            yield
        except Exception as error:
            if needs_datasets(error):
                pytest.skip(REASON)
            raise

    pytest_runtest_call = pytest_runtest_setup  # fixtures and tests alike
