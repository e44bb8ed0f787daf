"""LangChain: its own loader for a plain checkpoint, and the adapters for what that does not see."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")

from integrations_data import DOCUMENTS, QUERY, Checkpoints, best_first, logits
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from cmp_rerank import Reader
from cmp_rerank.integrations.langchain import LangChainReader, LangChainReranker

GIVEN = [Document(page_content=text, id=f"d{place}", metadata={"n": place}) for place, text in enumerate(DOCUMENTS)]


class Fixed(BaseRetriever):
    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return GIVEN


def test_the_compressor_orders_as_predict(case: tuple[str, list[float]]) -> None:
    folder, scores = case
    compressor = LangChainReranker(model=folder, top_n=4, device="cpu")
    found = compressor.compress_documents(GIVEN, QUERY)
    order = best_first(scores)[:4]
    assert [document.metadata["n"] for document in found] == order
    assert [document.id for document in found] == [f"d{place}" for place in order]
    assert [document.metadata["relevance_score"] for document in found] == pytest.approx(
        [scores[place] for place in order], abs=1e-5
    )
    assert "relevance_score" not in GIVEN[0].metadata
    assert compressor.compress_documents([], QUERY) == []
    assert len(LangChainReranker(model=folder, top_n=None, device="cpu").compress_documents(GIVEN, QUERY)) == len(
        GIVEN
    )


def test_a_mixture_needs_scores_that_documents_do_not_have(checkpoints: Checkpoints) -> None:
    with pytest.raises(ValueError, match="candidates without scores"):
        LangChainReranker(model=checkpoints.mixed, device="cpu").compress_documents(GIVEN, QUERY)
    alone = LangChainReranker(model=checkpoints.mixed, mix=False, top_n=2, device="cpu")
    assert [each.metadata["n"] for each in alone.compress_documents(GIVEN, QUERY)] == best_first(
        logits(checkpoints.plain)
    )[:2]


def test_in_a_retriever(case: tuple[str, list[float]]) -> None:
    pytest.importorskip("langchain_classic")
    from langchain_classic.retrievers import ContextualCompressionRetriever

    folder, scores = case
    retriever = ContextualCompressionRetriever(
        base_compressor=LangChainReranker(model=folder, top_n=3, device="cpu"), base_retriever=Fixed()
    )
    assert [document.metadata["n"] for document in retriever.invoke(QUERY)] == best_first(scores)[:3]


def test_its_own_loader_takes_a_plain_checkpoint(checkpoints: Checkpoints) -> None:
    pytest.importorskip("langchain_community")
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    model = HuggingFaceCrossEncoder(model_name=checkpoints.plain, model_kwargs={"device": "cpu"})
    found = CrossEncoderReranker(model=model, top_n=4).compress_documents(GIVEN, QUERY)
    assert [document.metadata["n"] for document in found] == best_first(logits(checkpoints.plain))[:4]


@pytest.mark.parametrize("loaded", [False, True])
def test_a_reader_gives_answers_and_where_they_stand(checkpoints: Checkpoints, loaded: bool) -> None:
    reader = Reader.from_pretrained(checkpoints.reader, device="cpu")
    found = LangChainReader(model=reader if loaded else checkpoints.reader, top_n=2).compress_documents(GIVEN, QUERY)
    expected = reader.answer(QUERY, DOCUMENTS, 2)
    assert [answer.page_content for answer in found] == [span.text for span in expected]
    assert [answer.metadata["n"] for answer in found] == [span.passage for span in expected]
    for answer in found:
        start, end = answer.metadata["start"], answer.metadata["end"]
        assert DOCUMENTS[answer.metadata["n"]][start:end] == answer.page_content
        assert 0 < answer.metadata["relevance_score"] <= 1
    for nothing in ([], [Document(page_content=" ")]):
        assert LangChainReader(model=reader).compress_documents(nothing, QUERY) == []


def test_a_reader_is_loaded_on_the_device_that_is_named(checkpoints: Checkpoints) -> None:
    loaded = LangChainReader(model=checkpoints.reader, device="meta")
    assert loaded._reader.model.device.type == "meta"


@pytest.mark.parametrize("count", [1, 3])
def test_yes_and_no_are_of_no_document(checkpoints: Checkpoints, count: int) -> None:
    reader = Reader.from_pretrained(checkpoints.reader, "cpu", yes_no=True, max_length=96, stride=8)
    found = LangChainReader(model=reader, top_n=3000).compress_documents(GIVEN[:count], QUERY)
    outside = [answer for answer in found if "n" not in answer.metadata]
    assert {answer.page_content for answer in outside} == {"yes", "no"}
    assert all(answer.id is None and set(answer.metadata) == {"relevance_score"} for answer in outside)
    for answer in found:
        if answer not in outside:
            start, end = answer.metadata["start"], answer.metadata["end"]
            assert DOCUMENTS[answer.metadata["n"]][start:end] == answer.page_content
