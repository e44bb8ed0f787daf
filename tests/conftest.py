"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import rounding
import tiny_models
import torch
from optional_libraries import SkipWhereMissing
from sentence_transformers import CrossEncoder

DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounding", type=int, metavar="SEED", help="as on a processor that rounds differently")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipWhereMissing())  # for the doctests of the package, too
    if config.getoption("--rounding") is not None:
        rounding.install(config.getoption("--rounding"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and several test processes would fight for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _little_garbage() -> None:
    """Trainers collect garbage, which takes a second for all the modules that are loaded here: leave those out."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random BERT cross-encoder."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    return tiny_models.save_checkpoint(folder, tiny_models.bert_config(), tiny_models.wordpiece())


@pytest.fixture
def tiny_model(tiny_checkpoint: Path) -> CrossEncoder:
    """A small random BERT cross-encoder, fresh for each test."""
    return CrossEncoder(str(tiny_checkpoint), device="cpu")


@pytest.fixture
def shared_data() -> Path:
    """Real collections beside the checkout; the tests that need them are skipped where they are missing."""
    if not DATA.is_dir():
        pytest.skip("the real collections are not here: ../shared/data is missing")
    return DATA
