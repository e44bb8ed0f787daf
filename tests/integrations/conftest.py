"""Fixtures of the integrations."""

from __future__ import annotations

import pytest
from integrations_data import Checkpoints, logits, make_checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return make_checkpoints(tmp_path_factory.mktemp("stack"))


@pytest.fixture(params=["plain", "long"])
def case(request: pytest.FixtureRequest, checkpoints: Checkpoints) -> tuple[str, list[float]]:
    """A checkpoint, and the scores of the documents."""
    folder = getattr(checkpoints, request.param)
    return folder, logits(folder, request.param == "long")
