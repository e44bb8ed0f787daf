"""A tuned checkpoint through the ONNX backend of an older sentence-transformers, which optimum-onnx needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_arms import ROOT, Tuned, check, export
from sentence_transformers import CrossEncoder
from torch.nn import Identity

PYTHON = ROOT / ".venv-export-onnx" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment with optimum-onnx: `make test-export` makes it"),
]


def test_onnx(tuned: Tuned, tmp_path: Path) -> None:
    exported = export(PYTHON, "onnx", tuned, tmp_path)
    check(exported)
    # The older library opens what the newer one has saved as the same model.
    model = CrossEncoder(str(tuned.checkpoint), device="cpu")
    here = model.predict(tuned.read_pairs(), activation_fn=Identity())
    np.testing.assert_allclose(exported.scores["torch"], here, atol=1e-5)
