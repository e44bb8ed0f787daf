"""A tuned checkpoint through the OpenVINO backend of sentence-transformers: equal in 32 bits, measured in int8."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from export_arms import Tuned, check, export
from sentence_transformers import CrossEncoder

from cmp_rerank.evaluation import rerank

pytestmark = pytest.mark.slow


def test_openvino(tuned: Tuned, tmp_path: Path) -> None:
    pytest.importorskip("optimum.intel", reason="optimum-intel is not installed: `make test-export`")
    exported = export(sys.executable, "openvino", tuned, tmp_path)
    check(exported)
    # What is exported is reranked with as any other model.
    options = {"file_name": "openvino/openvino_model.xml", "ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    model = CrossEncoder(str(tmp_path / "export"), backend="openvino", device="cpu", model_kwargs=options)
    (query, *_), *_ = pairs = tuned.read_pairs()[:5]
    corpus = {str(place): text for place, (_, text) in enumerate(pairs)}
    found = rerank(model, {"q": query}, corpus, {"q": dict.fromkeys(corpus, 1.0)})["q"]
    assert [found[place] for place in corpus] == pytest.approx(exported.scores["float"][:5].tolist(), abs=1e-5)
