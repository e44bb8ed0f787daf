"""Fixtures that all tests share.

The process that deals the tests out to others imports this file, too; it has no use for torch, which takes seconds.
"""

from __future__ import annotations

import copy
import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jinja2
import pytest
from optional_libraries import SkipWhereMissing

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounding", type=int, metavar="SEED", help="as on a processor that rounds differently")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipWhereMissing())  # for the doctests of the package, too
    if config.getoption("--rounding") is not None:
        import rounding

        rounding.install(config.getoption("--rounding"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and several test processes would fight for the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _little_garbage() -> None:
    """Trainers collect garbage, which takes a second for all the modules that are loaded here: leave those out."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cards_are_compiled_once() -> Iterator[None]:
    """Each model that is saved has a card; most of the time of saving goes to compiling its template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", functools.lru_cache(jinja2.Environment.compile))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random BERT cross-encoder."""
    import tiny_models

    folder = tmp_path_factory.mktemp("tiny-bert")
    return tiny_models.save_checkpoint(folder, tiny_models.bert_config(), tiny_models.wordpiece())


@pytest.fixture(scope="session")
def _tiny_model(tiny_checkpoint: Path) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(tiny_checkpoint), device="cpu")


@pytest.fixture
def tiny_model(_tiny_model: CrossEncoder) -> CrossEncoder:
    """A small random BERT cross-encoder, fresh for each test; a copy takes a fifth of the time of loading it."""
    return copy.deepcopy(_tiny_model)


@pytest.fixture
def shared_data() -> Path:
    """Real collections beside the checkout; the tests that need them are skipped where they are missing."""
    if not DATA.is_dir():
        pytest.skip("the real collections are not here: ../shared/data is missing")
    return DATA
