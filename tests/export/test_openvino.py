"""A tuned checkpoint through the OpenVINO backend of sentence-transformers: equal in 32 bits, measured in int8."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from export_arms import Tuned, check, export

pytestmark = pytest.mark.slow


def test_openvino(tuned: Tuned, tmp_path: Path) -> None:
    pytest.importorskip("optimum.intel", reason="optimum-intel is not installed: `make test-export`")
    check(export(sys.executable, "openvino", tuned, tmp_path))
