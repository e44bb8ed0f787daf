"""A reader in use: against the model called by hand, batched against single, and the checkpoint it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import PASSAGES, QUERIES, TEXTS
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from cmp_rerank.reader.answers import AnswerSpan, RankedAnswers, best_answers
from cmp_rerank.reader.reader import OPTIONS_FILE, Reader, ReaderOptions
from cmp_rerank.reader.records import Question


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-reader")
    auto = AutoModelForQuestionAnswering
    return tiny_models.save_checkpoint(folder, tiny_models.bert_config(), tiny_models.wordpiece(), auto, 2)


@pytest.fixture(scope="module")
def reader(checkpoint: Path) -> Reader:
    return Reader.from_pretrained(checkpoint, "cpu")


def test_against_the_model_called_by_hand(reader: Reader) -> None:
    question, passage = QUERIES[0], PASSAGES[0]
    encoded = reader.tokenizer(question, passage, return_offsets_mapping=True, return_tensors="pt")
    offsets, inside = encoded.pop("offset_mapping")[0].tolist(), [part == 1 for part in encoded.sequence_ids(0)]
    with torch.no_grad():
        output = reader.model.eval()(**encoded)
    start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
    spans = [
        (start[s] + end[e] - start[0] - end[0], offsets[s][0], offsets[e][1])
        for s in range(len(start))
        for e in range(s, min(len(start), s + 30))
        if inside[s] and inside[e]
    ]
    expected = sorted(spans, reverse=True)[:5]
    answers = reader.answer(question, passage, top_k=5)
    assert [(answer.passage, answer.start, answer.end) for answer in answers] == [(0, s, e) for _, s, e in expected]
    np.testing.assert_allclose([answer.score for answer in answers], [value for value, _, _ in expected], rtol=1e-4)
    for answer in answers:
        assert answer.text == passage[answer.start : answer.end]
        assert 0 < answer.probability < 1


def test_batched_equals_single(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    contexts: list[Any] = [PASSAGES[0], [TEXTS[1], TEXTS[2]], PASSAGES[2:], "It rose."]
    together = reader.answer(QUERIES, contexts, top_k=4)
    for question, context, answers in zip(QUERIES, contexts, together, strict=True):
        alone = reader.answer(question, context, top_k=4)
        assert [answer[3:] for answer in alone] == [answer[3:] for answer in answers]
        np.testing.assert_allclose([a.score for a in alone], [a.score for a in answers], atol=1e-4)
    assert capsys.readouterr().err == ""
    small = Reader(reader.model, reader.tokenizer, reader.options, tokens_per_chunk=1)
    again = small.answer(QUERIES, contexts, top_k=4, show_progress_bar=True)
    assert [[a[3:] for a in answers] for answers in again] == [[a[3:] for a in answers] for answers in together]
    assert "Questions" in capsys.readouterr().err


def test_long_passages_are_read_whole(reader: Reader) -> None:
    passage = " ".join(TEXTS[:5] * 4)
    short = Reader(reader.model, reader.tokenizer, ReaderOptions(max_length=48, stride=16))
    question = Question("q", QUERIES[0], (passage, TEXTS[0]))
    windows = short.windows([question])
    assert len(windows) > 4
    for number, text in enumerate(question.passages):
        encoded = reader.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        seen = {tuple(pair) for window in windows for pair in window.offsets[window.passage == number].tolist()}
        assert seen == set(encoded["offset_mapping"])
    # The best answer of the question is the best of any window, the last one of the long passage too.
    last = max(i for i, window in enumerate(windows) if 0 in window.passage)
    (token,) = np.flatnonzero(windows[last].offsets[:, 1] == len(passage))
    starts, ends = short.logits(windows)
    starts[last][token] += 100
    (found,) = best_answers(windows, [question], starts, ends)
    assert (found.spans[0].passage, found.spans[0].start) == (0, windows[last].offsets[token, 0])
    answers = short.answer(QUERIES[0], [passage, TEXTS[0]], top_k=20)
    for answer in answers:
        assert [passage, TEXTS[0]][answer.passage][answer.start : answer.end] == answer.text


def test_a_passage_without_tokens_has_no_answer(reader: Reader) -> None:
    questions, contexts = [QUERIES[0], "Who?", QUERIES[1]], [[PASSAGES[0]], ["\u200b\u200d"], [PASSAGES[1]]]
    first, empty, last = reader.answer(questions, contexts)
    assert empty == []
    assert [a[3:] for a in first] == [a[3:] for a in reader.answer(QUERIES[0], PASSAGES[0])]
    assert [a[3:] for a in last] == [a[3:] for a in reader.answer(QUERIES[1], PASSAGES[1])]
    (nothing,) = reader.answer("Who?", "\u200b", no_answer=True)
    assert (nothing.text, nothing.probability) == ("", 1.0)


def test_ids_differ_in_all_blocks(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmp_rerank.reader.reader._BLOCK", 1)
    question = Question("same", "Who?", (PASSAGES[0],))
    with pytest.raises(ValueError, match="ids of questions must differ; got 'same' again at place 1"):
        reader.predict([question, question])


def test_no_answer_stands_where_its_score_says(reader: Reader) -> None:
    plain = reader.answer(QUERIES[0], PASSAGES[0], top_k=20)
    middle = (plain[1].score + plain[2].score) / 2
    # An answer must exceed the threshold: at exactly its score, "no answer" comes first.
    for threshold, place in ((middle, 2), (plain[0].score + 1, 0), (plain[2].score, 2), (plain[0].score, 0)):
        options = ReaderOptions(threshold=threshold, max_length=128, stride=40)
        answers = Reader(reader.model, reader.tokenizer, options).answer(
            QUERIES[0], PASSAGES[0], top_k=20, no_answer=True
        )
        assert [answer.text for answer in answers].index("") == place
        assert answers[place][3:] == (-1, 0, 0)
        assert answers[place].score == 0.0
        rest = [answer for answer in answers if answer.text]
        np.testing.assert_allclose([a.score for a in rest], [a.score for a in plain[:19]], atol=1e-5)
        total = answers[place].probability + sum(answer.probability for answer in plain)
        assert total == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-100, 100), max_size=5),
    st.floats(-100, 100),
    st.one_of(st.none(), st.floats(-1, 1), st.integers(-1, 1)),
)
@example([-0.7], -5.4, 0)
@example([-3.0], -2.7, -0.3)
def test_no_answer_comes_first_exactly_where_the_text_is_empty(
    reader: Reader, scores: list[float], null: float, threshold: float | int | None
) -> None:
    """Of raw sums of logits, too, whose differences are rounded. A whole number is a threshold beside the margin."""
    spans = tuple(AnswerSpan(str(i), score, 0.1, 0, i, i + 1) for i, score in enumerate(sorted(scores, reverse=True)))
    answers = RankedAnswers("q", spans, spans[0].score - null if spans else -np.inf, 0.1)
    if isinstance(threshold, int) and spans:
        threshold = float(np.nextafter(answers.margin, answers.margin + threshold))
    chosen = Reader(reader.model, reader.tokenizer, replace(reader.options, scale="raw", threshold=threshold))
    top = chosen.top(answers, 10, no_answer=True)
    assert top[0].text == answers.text(threshold or 0.0)
    assert [span for span in top if span.text] == list(spans)
    assert chosen.top(answers, 10) == list(spans)


def test_the_model_is_left_as_it_was(reader: Reader) -> None:
    reader.model.train()
    answers = reader.answer(QUERIES[0], PASSAGES[0])
    assert reader.model.training
    assert reader.answer(QUERIES[0], PASSAGES[0]) == answers  # no dropout meanwhile
    reader.model.eval()


def test_a_checkpoint_is_an_ordinary_one(reader: Reader, tmp_path: Path) -> None:
    options = ReaderOptions(max_length=64, stride=20, pack=True, yes_no=True, threshold=1.5)
    Reader(reader.model, reader.tokenizer, options).save_pretrained(tmp_path)
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, reader.model.state_dict()[name]), name
    assert AutoTokenizer.from_pretrained(tmp_path).is_fast
    assert Reader.from_pretrained(tmp_path, "cpu").options == options
    assert Reader.from_pretrained(tmp_path, "cpu", stride=10).options.stride == 10
    (tmp_path / OPTIONS_FILE).write_text(json.dumps({"window": 3}))
    with pytest.raises(ValueError, match=r"must hold the options of a reader.*window"):
        Reader.from_pretrained(tmp_path)


def test_options_come_from_the_hub_with_the_checkpoint(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    options = ReaderOptions(max_length=64, stride=20, threshold=1.5)
    for name, chosen in (("with", options), ("without", None)):
        cached = tmp_path / f"models--someone--{name}"
        Reader(reader.model, reader.tokenizer, chosen).save_pretrained(cached / "snapshots" / ("0" * 40))
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)
    (tmp_path / "models--someone--without" / "snapshots" / ("0" * 40) / OPTIONS_FILE).unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert Reader.from_pretrained("someone/with", "cpu").options == options
    assert Reader.from_pretrained("someone/without", "cpu").options == reader.options


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"max_length": "96"}, "max_length must be a whole number, 1 or more; got '96'"),
        ({"max_length": True}, "max_length must be .* got True"),
        ({"stride": -1}, "stride must be a whole number, 0 or more; got -1"),
        ({"max_tokens": None}, "max_tokens must be .* got None"),
        ({"pack": 1}, "pack must be True or False; got 1"),
        ({"yes_no": None}, "yes_no must be True or False; got None"),
        ({"threshold": float("nan")}, "threshold must be a finite number or None; got nan"),
        ({"threshold": "1"}, "threshold must be a finite number or None; got '1'"),
        ([], "must hold the options of a reader"),
    ],
)
def test_wrong_options(saved: Any, message: str, reader: Reader, tmp_path: Path) -> None:
    if saved:
        with pytest.raises(ValueError, match=message):
            ReaderOptions(**saved)
    reader.save_pretrained(tmp_path)
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=f"must hold the options of a reader .*{message if saved else ''}"):
        Reader.from_pretrained(tmp_path)


def test_without_options_the_window_is_the_models(reader: Reader) -> None:
    assert reader.options.max_length == 128  # of the tokenizer
    assert reader.options.stride < 64


def test_generators_of_questions_and_passages_are_listed(reader: Reader) -> None:
    expected = reader.answer(QUERIES[:2], [[PASSAGES[0], TEXTS[1]], PASSAGES[1]])
    contexts: list[Any] = [(text for text in (PASSAGES[0], TEXTS[1])), PASSAGES[1]]
    assert reader.answer((query for query in QUERIES[:2]), iter(contexts)) == expected
    assert reader.answer(QUERIES[0], (text for text in (PASSAGES[0],))) == reader.answer(QUERIES[0], PASSAGES[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "text"), "question must be a text or a list of questions; got None"),
        (({"q": "Who?"}, ["text"]), "question must be a text or a list of questions; got a dict"),
        (("Who?", None), "passages must be a text or a list of texts; got None"),
        (("Who?", {"d1": "text"}), "passages must be a text or a list of texts; got a dict"),
        ((["Who?"], 7), "passages must be a text or a list of texts or of lists of passages; got an int"),
        ((["Who?"], [7]), "passages must be a text or a list of texts; got an int"),
        (([7], ["text"]), "question '0': the question must be a text that is not empty; got 7"),
        (("Who?", ["text", 7]), "question '0': passages must be texts; got 7 at place 1"),
        (("Who?", "text", 1.5), "top_k must be a whole number, 1 or more; got 1.5"),
        (("Who?", "text", True), "top_k must be a whole number, 1 or more; got True"),
    ],
)
def test_wrong_questions_and_passages(arguments: tuple[Any, ...], message: str, reader: Reader) -> None:
    with pytest.raises(ValueError, match=message):
        reader.answer(*arguments)


def test_what_predict_refuses(reader: Reader) -> None:
    questions: Any = [Question("q", "Who?", ("Bees.",))]
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ((question for question in questions), {}, r"got a generator; pass list\(questions\)"),
        (questions[0], {}, "questions must be a list of Question objects; got a Question; put it into a list"),
        (["Who?"], {}, "questions must be Question objects; got 'Who\\?' at place 0"),
        ([], {"n_best": 1.5}, "n_best must be a whole number, 1 or more; got 1.5"),
    ]
    for asked, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            reader.predict(asked, **options)
    with pytest.raises(ValueError, match="windows must be a list of windows; got a generator"):
        reader.logits(window for window in reader.windows(questions))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_k must be a whole number, 1 or more; got 0"):
        reader.top(reader.predict(questions)[0], 0)


@pytest.mark.parametrize("tokens", [0, 2.5, True, "64"])
def test_wrong_arguments_of_a_reader(tokens: Any, reader: Reader) -> None:
    with pytest.raises(ValueError, match="tokens_per_chunk must be a whole number, 1 or more; got"):
        Reader(reader.model, reader.tokenizer, tokens_per_chunk=tokens)
    with pytest.raises(ValueError, match="options must be a ReaderOptions object or None; got a dict"):
        Reader(reader.model, reader.tokenizer, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model must be a model of PyTorch; got a .*; Reader\.from_pretrained"):
        Reader(reader.tokenizer, reader.model)


def test_options_of_numpy_can_be_saved(reader: Reader, tmp_path: Path) -> None:
    options = ReaderOptions(max_length=np.int64(64), stride=np.int32(20), threshold=np.float32(1.5))  # type: ignore[arg-type]
    Reader(reader.model, reader.tokenizer, options).save_options(tmp_path)
    assert ReaderOptions(**json.loads((tmp_path / OPTIONS_FILE).read_text())) == options


def test_what_is_refused(reader: Reader, checkpoint: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="the context is empty; got 2 passages"):
        reader.answer("Who?", ["", " "])
    with pytest.raises(ValueError, match="the question must be a text that is not empty; got ' '"):
        reader.answer(" ", ["text"])
    with pytest.raises(ValueError, match=r"each of 2 questions needs a text or a list of passages; got 1$"):
        reader.answer(["Who?", "Why?"], [["text"]])
    with pytest.raises(ValueError, match="each of 2 questions needs a text or a list of passages; got one text"):
        reader.answer(["Who?", "Why?"], "ab")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="top_k must be a whole number, 1 or more; got 0"):
        reader.answer("Who?", "text", top_k=0)
    with pytest.raises(ValueError, match=r"options of a reader must be among max_length, .*; got window"):
        Reader.from_pretrained(checkpoint, window=3)
    with pytest.raises(ValueError, match="tokens_per_chunk must be a whole number, 1 or more; got 0"):
        Reader.from_pretrained(checkpoint, tokens_per_chunk=0)
    with pytest.raises(
        ValueError,
        match=r"must be an extractive reader; got a checkpoint without qa_outputs\.bias, qa_outputs\.weight; train",
    ):
        Reader.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match="'soft'"):
        ReaderOptions(scale="soft")
