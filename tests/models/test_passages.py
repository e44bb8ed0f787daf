"""A long document tells its passages: offsets in the text, the score of each, settings that a checkpoint keeps."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder

from cmp_rerank import AvgP, FirstP, LongDocumentReranker, MaxP, SumP, TopKAvgP
from cmp_rerank.models.aggregation import AGGREGATIONS, aggregation, described, restored
from cmp_rerank.reranking.loading import open_checkpoint

DOCUMENT = " ".join(tiny_models.TEXTS[i % 6] for i in range(12))
QUERY = "who makes honey"
KINDS = {"first": FirstP(), "max": MaxP(), "sum": SumP(), "avg": AvgP(), "topk": TopKAvgP(3)}
TOKENIZERS = {"wordpiece": tiny_models.wordpiece, "bytes": tiny_models.byte_bpe, "pieces": tiny_models.sentencepiece}


@pytest.fixture(scope="module", params=TOKENIZERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    return tiny_models.cross_encoder(folder, tokenizer=TOKENIZERS[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("plain"))


def test_a_passage_is_what_the_model_has_read(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model, passage_tokens=30)
    scores, (passages,) = reranker.score_documents([(QUERY, DOCUMENT)])
    assert len(passages) > 10
    assert scores[0, 0].item() == max(passage.score for passage in passages)
    assert passages[0].start == 0
    assert passages[-1].end == len(DOCUMENT)
    for before, passage in pairwise(passages):
        assert before.start < passage.start < before.end < passage.end  # half of each is in the next
    # Words that the window cuts in two are read as other tokens when they stand alone: compare where none is.
    compared = 0
    for passage in passages:
        text = DOCUMENT[passage.start : passage.end]
        assert text == text.strip()
        alone = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(alone) == 30 and DOCUMENT[max(0, passage.start - 1)].isspace():
            expected = model.predict([(QUERY, text)], activation_fn=torch.nn.Identity())[0]
            if abs(float(expected) - passage.score) < 1e-4:
                compared += 1
    assert compared >= 3


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab .\n\té熊猫"), max_size=120), st.integers(1, 12), st.integers(1, 12))
def test_passages_cover_the_text_in_order(model: CrossEncoder, text: str, size: int, stride: int) -> None:
    reranker = LongDocumentReranker(model, passage_tokens=size, stride=min(size, stride))
    _, (passages,) = reranker.score_documents([("bees", text)])
    assert len(passages) >= 1
    assert all(0 <= start <= end <= len(text) for start, end, _ in passages)
    assert [p.start for p in passages] == sorted(p.start for p in passages)
    known = model.tokenizer("bees", text, return_offsets_mapping=True, truncation=False)
    which = np.array([-1 if i is None else i for i in known.sequence_ids()])
    covered = np.zeros(len(text), dtype=bool)
    for start, end, _ in passages:
        covered[start:end] = True
    for start, end in np.array(known["offset_mapping"])[which == 1]:
        inside = [i for i in range(start, end) if not text[i].isspace()]
        assert covered[inside].all()


def test_rank_tells_passages_best_first(plain: CrossEncoder) -> None:
    documents = ["Bees make honey.", DOCUMENT, tiny_models.TEXTS[0]]
    reranker = LongDocumentReranker(plain, "avg", passage_tokens=25)
    told = reranker.rank(QUERY, documents, return_passages=True, return_documents=True)
    silent = reranker.rank(QUERY, documents, return_documents=True)
    assert [{k: v for k, v in result.items() if k != "passages"} for result in told] == silent
    for result in told:
        scores = [passage.score for passage in result["passages"]]
        assert scores == sorted(scores, reverse=True)
        logit = np.log(result["score"] / (1 - result["score"]))
        assert logit == pytest.approx(np.mean(scores), abs=1e-3)
        assert all(result["text"][start:end].strip() for start, end, _ in result["passages"])
    assert min(told, key=lambda result: result["corpus_id"])["passages"][0][:2] == (0, len("Bees make honey."))
    _, expected = reranker.score_documents([(QUERY, document) for document in documents])
    for result in told:
        ordered = sorted(result["passages"], key=lambda passage: passage.start)
        assert [p[:2] for p in ordered] == [p[:2] for p in expected[result["corpus_id"]]]


def test_scores_are_those_of_predict(plain: CrossEncoder) -> None:
    pairs = [
        (query, text * (1 + i))
        for i, (query, text) in enumerate(zip(tiny_models.QUERIES, tiny_models.PASSAGES, strict=True))
    ]
    for name in KINDS:
        reranker = LongDocumentReranker(plain, name, passage_tokens=20)
        expected = reranker.predict(pairs, activation_fn=torch.nn.Identity())
        for tokens in (None, 1, 100):
            scores, passages = reranker.score_documents(pairs, tokens_per_batch=tokens)
            assert scores[:, 0].numpy() == pytest.approx(expected, abs=2e-5)
            assert len(passages) == len(pairs)
    scores, passages = reranker.score_documents([])
    assert scores.shape == (0, 1)
    assert passages == []


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_a_name_is_its_object(name: str) -> None:
    assert aggregation(name) == KINDS[name]
    assert restored(json.loads(json.dumps(described(KINDS[name])))) == KINDS[name]
    assert restored(described(TopKAvgP(7))) == TopKAvgP(7)


def test_a_checkpoint_keeps_its_settings(plain: CrossEncoder, tmp_path: Path) -> None:
    made = LongDocumentReranker(plain, TopKAvgP(2), passage_tokens=20, stride=7, max_passages=5)
    made.save_pretrained(str(tmp_path))
    loaded = LongDocumentReranker(tmp_path, device="cpu")
    assert loaded.settings == made.settings
    assert loaded.combine == TopKAvgP(2)
    pair = [(QUERY, DOCUMENT)]
    assert loaded.predict(pair) == pytest.approx(made.predict(pair), abs=1e-5)
    assert LongDocumentReranker(str(tmp_path), "max", device="cpu").settings == made.settings | {
        "combine": {"name": "max"}
    }
    narrow = LongDocumentReranker(tmp_path, passage_tokens=5, device="cpu")
    assert (narrow.passage_tokens, narrow.stride, narrow.max_passages) == (5, None, 5)
    ordinary = CrossEncoder(str(tmp_path), device="cpu")  # others do not need this package
    assert ordinary.predict(pair) == pytest.approx(plain.predict(pair), abs=1e-5)


@pytest.mark.parametrize("method", ["save", "save_pretrained"])  # push_to_hub saves by the first
def test_a_model_that_is_saved_over_another_leaves_nothing_of_it(
    method: str, plain: CrossEncoder, tmp_path: Path
) -> None:
    getattr(LongDocumentReranker(plain, "sum", passage_tokens=20), method)(str(tmp_path))
    opened = open_checkpoint(tmp_path, device="cpu")
    assert isinstance(opened, LongDocumentReranker)
    assert opened.combine == SumP()
    getattr(plain, method)(str(tmp_path))
    assert type(open_checkpoint(tmp_path, device="cpu")) is CrossEncoder


def test_a_checkpoint_without_settings_has_the_defaults(plain: CrossEncoder, tmp_path: Path) -> None:
    plain.save_pretrained(str(tmp_path))
    assert LongDocumentReranker(tmp_path, device="cpu").settings == LongDocumentReranker(plain).settings


def test_a_checkpoint_is_opened_with_any_arguments_of_a_cross_encoder(plain: CrossEncoder, tmp_path: Path) -> None:
    reranker = LongDocumentReranker(plain, "sum", passage_tokens=20, max_passages=2)
    reranker.save_pretrained(str(tmp_path))
    opened = open_checkpoint(tmp_path, device="cpu", trust_remote_code=True, model_kwargs={"dtype": "bfloat16"})
    assert isinstance(opened, LongDocumentReranker)
    assert opened.settings == reranker.settings
    assert (opened.trust_remote_code, opened.dtype) == (True, torch.bfloat16)
    assert type(open_checkpoint(tmp_path, device="cpu", long_documents=False)) is CrossEncoder


def test_the_settings_are_those_of_the_copy_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def find(name: str, file: str, **where: Any) -> None:
        asked.append((name, file, where))
        raise OSError("no such revision")

    monkeypatch.setattr("cmp_rerank.models.long_document_settings.load_file_path", find)
    with pytest.raises(OSError, match="no such revision"):
        open_checkpoint("some/model", revision="v1", device="cpu")
    assert asked == [("some/model", "config_sentence_transformers.json", {"revision": "v1"})]


def test_a_function_is_saved_by_name_and_asked_for(plain: CrossEncoder, tmp_path: Path) -> None:
    def lowest(scores: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(~real[..., None], torch.inf).amin(dim=1)

    LongDocumentReranker(plain, lowest).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"lowest', a function of its own; got no combine"):
        LongDocumentReranker(tmp_path, device="cpu")
    assert LongDocumentReranker(tmp_path, lowest, device="cpu").combine is lowest


def test_what_is_refused(plain: CrossEncoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"combine must be one of .*'max'.* got 'maxx'"):
        LongDocumentReranker(plain, "maxx")
    with pytest.raises(ValueError, match="device go with a name or a folder; got a model"):
        LongDocumentReranker(plain, device="cpu")
    with pytest.raises(ValueError, match=r"Input 0 must be a pair of texts"):
        LongDocumentReranker(plain).score_documents(["text"])  # type: ignore[list-item]
    plain.save_pretrained(str(tmp_path))
    for content in ("[]", '{"long_documents": []}'):
        (tmp_path / "config_sentence_transformers.json").write_text(content)
        with pytest.raises(ValueError, match=r"config_sentence_transformers\.json: expected an object"):
            LongDocumentReranker(tmp_path, device="cpu")
