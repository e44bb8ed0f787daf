"""Dense retrieval against one pair at a time, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from cmp_rerank.ir import Dense, rank

DOCUMENTS = {
    "d1": "red apple green apple",
    "d2": "green pear",
    "d3": "red red wine and bread and cheese",
    "d4": "bread",
    "d5": "green pear",
}
QUERIES = {"q1": "green apple", "q2": "red bread bread", "q3": "unknown words", "q4": ""}


class CountsOfLetters:
    """A bi-encoder that anybody can check: the normalised counts of some letters."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_document(self, texts: list[str], **options: Any) -> np.ndarray:
        assert options["normalize_embeddings"]
        self.batches.append(len(texts))
        counts = np.array([[text.count(letter) + 0.01 for letter in "abdegnpr"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    encode_query = encode_document


def similarity(a: str, b: str) -> float:
    one, two = CountsOfLetters().encode_document([a, b], normalize_embeddings=True)
    return float(one @ two)


def test_dense_search_and_rerank_are_one_pair_at_a_time() -> None:
    index = Dense(DOCUMENTS, CountsOfLetters(), batch_size=2)  # type: ignore[arg-type]
    run = index.search(QUERIES, depth=3, block=3)
    for query, text in QUERIES.items():
        expected = {name: similarity(text, document) for name, document in DOCUMENTS.items()}
        best = [name for name, _ in rank({name: round(value, 5) for name, value in expected.items()})][:3]
        assert list(run[query]) == best
        assert run[query] == pytest.approx({name: expected[name] for name in best}, abs=1e-5)
    candidates = {"q2": {"d4": 1.0, "d1": 0.5}, "q3": {}}
    assert index.rerank(QUERIES, candidates) == {
        "q2": pytest.approx({name: similarity(QUERIES["q2"], DOCUMENTS[name]) for name in ("d4", "d1")}, abs=1e-5),
        "q3": {},
    }


def test_dense_batches_and_errors() -> None:
    model = CountsOfLetters()
    seen: list[tuple[int, int]] = []
    index = Dense(DOCUMENTS, model, batch_size=2, progress=lambda *done: seen.append(done))  # type: ignore[arg-type]
    assert model.batches == [2, 2, 1]
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert index.search({}) == {}
    with pytest.raises(ValueError, match="document 'nowhere' for query 'q1'"):
        index.rerank(QUERIES, {"q1": {"nowhere": 1.0}})
    with pytest.raises(ValueError, match="query 'q9', which is not among the 4 queries"):
        index.rerank(QUERIES, {"q9": {"d1": 1.0}})
    with pytest.raises(ValueError, match=r"run must map query ids to \{document id: number\}; got a list of 1"):
        index.rerank(QUERIES, [{"d1": 1.0}])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are no documents"):
        Dense({}, model)  # type: ignore[arg-type]


def test_models_of_another_kind_are_refused(tiny_model: CrossEncoder) -> None:
    for model, message in (
        (tiny_model, "got CrossEncoder; a cross-encoder scores pairs: use it with cmp_rerank.evaluation.rerank"),
        (
            "all-MiniLM-L6-v2",
            r"got the string 'all-MiniLM-L6-v2'; load it: SentenceTransformer\('all-MiniLM-L6-v2'\)",
        ),
        (CountsOfLetters, r"got the class CountsOfLetters; create one: CountsOfLetters\(...\)"),
        (object(), "got object; pass a SentenceTransformer"),
    ):
        with pytest.raises(ValueError, match=message):
            Dense(DOCUMENTS, model)  # type: ignore[arg-type]


def test_embeddings_that_are_not_finite_are_refused() -> None:
    class Broken(CountsOfLetters):
        def encode_document(self, texts: list[str], **options: Any) -> np.ndarray:
            embeddings = super().encode_document(texts, **options)
            embeddings[texts.index("bread"), 3] = np.nan
            return embeddings

    with pytest.raises(ValueError, match="the model gave NaN or infinity for the text 'bread'"):
        Dense(DOCUMENTS, Broken())  # type: ignore[arg-type]
