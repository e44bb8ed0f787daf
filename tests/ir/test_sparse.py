"""Sparse retrieval against one pair at a time, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
from transformers import BertForMaskedLM
from vectors import Vectors

from cmp_rerank.ir import Sparse, rank, sparse

NUMBERS = st.integers(0, 2)
TEXTS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=30).map(
    lambda rows: {f"d{i * 7 % 31}": " ".join(map(str, row)) for i, row in enumerate(rows)}
)
DOCUMENTS = dict(zip("abcd", tiny_models.PASSAGES, strict=True))
QUERIES = dict(zip("1234", tiny_models.QUERIES, strict=True))


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> SparseEncoder:
    """A small random SPLADE."""
    folder = tmp_path_factory.mktemp("splade")
    torch.manual_seed(0)
    tokenizer = tiny_models.wordpiece()
    config = tiny_models.bert_config()
    config.vocab_size = len(tokenizer)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SparseEncoder(
        modules=[Transformer(str(folder), transformer_task="fill-mask"), SpladePooling()], device="cpu"
    )


def test_search_is_one_pair_at_a_time(splade: SparseEncoder, tmp_path: Path) -> None:
    index = Sparse(DOCUMENTS, splade, batch_size=3)
    run = index.search(QUERIES, depth=3, block=3)
    for query, text in QUERIES.items():
        weights = splade.encode_query([text], convert_to_sparse_tensor=False)[0]
        expected = {
            name: float(weights @ splade.encode_document([document], convert_to_sparse_tensor=False)[0])
            for name, document in DOCUMENTS.items()
        }
        assert run[query] == pytest.approx(dict(rank(expected)[:3]), rel=1e-4)
    index.save(tmp_path / "index")
    opened = Sparse.open(tmp_path / "index", splade)
    assert opened.search(QUERIES, depth=3, block=3) == run
    assert not opened._weights.data.flags.writeable  # it is the file
    assert len(opened) == 4


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.tuples(NUMBERS, NUMBERS, NUMBERS), st.integers(1, 5), st.integers(1, 9))
def test_ties_go_to_the_higher_id_and_what_shares_nothing_is_not_found(
    documents: dict[str, str], query: tuple[int, ...], depth: int, block: int
) -> None:
    scores = {
        name: sum(a * float(b) for a, b in zip(query, text.split(), strict=True)) for name, text in documents.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_BLOCK", block)
        found = Sparse(documents, Vectors(), 2).search({"q": " ".join(map(str, query))}, depth)["q"]  # type: ignore[arg-type]
    assert list(found.items()) == [pair for pair in rank(scores) if pair[1] > 0][:depth]


def test_bad_models_are_refused(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a cross-encoder scores pairs"):
        Sparse(DOCUMENTS, tiny_model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model gave NaN or infinity for the text 'nan 2'"):
        Sparse({"a": "1 2", "b": "nan 2"}, Vectors())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are no documents"):
        Sparse({}, Vectors())  # type: ignore[arg-type]
    Sparse({"a": "1 0"}, Vectors()).save(tmp_path / "index")  # type: ignore[arg-type]

    class Other(Vectors):
        def encode_query(self, texts: list[str], **options: Any) -> np.ndarray:
            return super().encode_query(texts, **options)[:, ::-1]

    with pytest.raises(ValueError, match="built with another model"):
        Sparse.open(tmp_path / "index", Other())  # type: ignore[arg-type]
