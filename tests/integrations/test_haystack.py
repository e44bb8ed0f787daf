"""Haystack: a ranker and a reader, alone, in a pipeline, and in one that was saved."""

from __future__ import annotations

import pytest

pytest.importorskip("haystack", reason="needs haystack-ai")

from haystack import Document, Pipeline
from integrations_data import DOCUMENTS, QUERY, SCORES, Checkpoints, best_first, mixed

from cmp_rerank import Reader
from cmp_rerank.integrations.haystack import HaystackReader, HaystackReranker

GIVEN = [
    Document(id=f"d{place}", content=text, score=score)
    for place, (text, score) in enumerate(zip(DOCUMENTS, SCORES, strict=True))
]


def places(documents: list[Document]) -> list[int]:
    return [int(document.id[1:]) for document in documents]


def test_the_ranker_orders_as_predict(case: tuple[str, list[float]]) -> None:
    folder, scores = case
    ranker = HaystackReranker(folder, top_k=4, device="cpu")
    found = ranker.run(QUERY, GIVEN)["documents"]
    assert places(found) == best_first(scores)[:4]
    assert [document.score for document in found] == pytest.approx([scores[i] for i in places(found)], abs=1e-5)
    assert [document.score for document in GIVEN] == SCORES
    assert len(ranker.run(QUERY, GIVEN, top_k=2)["documents"]) == 2
    assert ranker.run(QUERY, [])["documents"] == []


def test_the_guard_joins_scores(checkpoints: Checkpoints) -> None:
    found = HaystackReranker(checkpoints.mixed, device="cpu").run(QUERY, GIVEN)["documents"]
    assert list(zip(places(found), [document.score for document in found], strict=True)) == [
        (place, pytest.approx(score)) for place, score in mixed(checkpoints.mixed)
    ]


def test_a_pipeline_of_both_and_once_more_from_its_file(checkpoints: Checkpoints) -> None:
    pipeline = Pipeline()
    pipeline.add_component("reranker", HaystackReranker(checkpoints.plain, top_k=3, device="cpu"))
    pipeline.add_component("reader", HaystackReader(checkpoints.reader, top_k=2))
    pipeline.connect("reranker.documents", "reader.documents")
    given = {"reranker": {"query": QUERY, "documents": GIVEN}, "reader": {"query": QUERY}}
    answers = pipeline.run(given)["reader"]["answers"]
    kept = HaystackReranker(checkpoints.plain, top_k=3, device="cpu").run(QUERY, GIVEN)["documents"]
    expected = Reader.from_pretrained(checkpoints.reader).answer(QUERY, [each.content for each in kept], 2)
    assert [answer.data for answer in answers] == [span.text for span in expected]
    for answer, span in zip(answers, expected, strict=True):
        assert answer.document.id == kept[span.passage].id
        where = answer.document_offset
        assert answer.document.content[where.start : where.end] == answer.data
        assert answer.score == pytest.approx(span.probability)
    # Haystack loads classes of other packages only where their module is named.
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["cmp_rerank.integrations.haystack"])
    assert again.run(given)["reader"]["answers"] == answers


def test_the_reader_is_loaded_on_the_device_that_is_named(checkpoints: Checkpoints) -> None:
    reader = HaystackReader(checkpoints.reader, device="meta")
    for made in (reader, HaystackReader.from_dict(reader.to_dict())):
        made.warm_up()
        assert made._reader.model.device.type == "meta"


@pytest.mark.parametrize("count", [1, 3])
def test_yes_and_no_stand_in_no_document(checkpoints: Checkpoints, count: int) -> None:
    reader = Reader.from_pretrained(checkpoints.reader, yes_no=True, max_length=96, stride=8)
    answers = HaystackReader(reader, top_k=3000).run(QUERY, GIVEN[:count])["answers"]
    outside = [answer for answer in answers if answer.document is None]
    assert {answer.data for answer in outside} == {"yes", "no"}
    assert all(answer.document_offset is None for answer in outside)
    for answer in answers:
        if answer.document is not None:
            assert answer.document.content[answer.document_offset.start : answer.document_offset.end] == answer.data


def test_a_loaded_model_cannot_be_saved(checkpoints: Checkpoints) -> None:
    reader = HaystackReader(Reader.from_pretrained(checkpoints.reader))
    assert reader.run(QUERY, [])["answers"] == []
    with pytest.raises(ValueError, match="saved with the name of a checkpoint; got Reader"):
        reader.to_dict()
