"""BM25 against its formula, and what it refuses."""

from __future__ import annotations

import builtins
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional_libraries import datasets

from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir import ANSERINI, BM25, Dense, first_stage, rank, read_corpus, read_qrels, read_queries
from cmp_rerank.text.terms import TERM_RULES, term_splitter

DOCUMENTS = {
    "d1": "red apple green apple",
    "d2": "green pear",
    "d3": "red red wine and bread and cheese",
    "d4": "bread",
    "d5": "green pear",
}
QUERIES = {"q1": "green apple", "q2": "red bread bread", "q3": "unknown words", "q4": ""}


def slow_bm25(query: str, k1: float, b: float) -> dict[str, float]:
    """Lucene's BM25, written down as the formula: idf * tf / (tf + k1 (1 - b + b length / mean length))."""
    texts = {name: text.split() for name, text in DOCUMENTS.items()}
    mean = sum(map(len, texts.values())) / len(texts)
    scores = {}
    for name, text in texts.items():
        tf, score = Counter(text), 0.0
        for term in query.split():
            df = sum(term in other for other in texts.values())
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            score += idf * tf[term] / (tf[term] + k1 * (1 - b + b * len(text) / mean))
        if score > 0:
            scores[name] = score
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (1.2, 0.0), (2.0, 1.0)])
def test_bm25_is_its_formula(k1: float, b: float) -> None:
    run = BM25(DOCUMENTS, k1=k1, b=b, language=None, stopwords=False).search(QUERIES)
    assert list(run) == list(QUERIES)
    assert run["q3"] == {}
    assert run["q4"] == {}
    for query in ("q1", "q2"):
        expected = slow_bm25(QUERIES[query], k1, b)
        assert len(expected) > 2
        assert run[query] == pytest.approx(expected, rel=1e-5)
        assert list(run[query]) == [document for document, _ in rank(run[query])]


def test_ties_across_the_cut_go_to_the_higher_id() -> None:
    documents = dict.fromkeys(("b", "d", "a", "c"), "same text") | {"z": "other text here"}
    run = BM25(documents).search({"q": "same"}, depth=2)
    assert list(run["q"]) == ["d", "c"]


def test_stemming_and_stop_words() -> None:
    documents = {"a": "retrieving the documents", "b": "something else"}
    assert list(BM25(documents).search({"q": "retrieval of document"})["q"]) == ["a"]
    assert BM25(documents, language=None).search({"q": "document"})["q"] == {}
    assert BM25(documents).search({"q": "the"})["q"] == {}
    assert list(BM25(documents, stopwords=False).search({"q": "the"})["q"]) == ["a"]


def test_documents_without_a_single_term_find_nothing() -> None:
    assert BM25({"a": "the of", "b": ""}).search({"q": "anything"}) == {"q": {}}
    assert BM25(DOCUMENTS).search({}) == {}


def test_progress_ends_at_the_number_of_queries() -> None:
    seen: list[tuple[int, int]] = []
    BM25(DOCUMENTS).search({str(i): "red" for i in range(250)}, progress=lambda *done: seen.append(done))
    assert seen == [(100, 250), (200, 250), (250, 250)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -1.0}, "k1 must be a number of at least 0; got -1.0"),
        ({"k1": math.nan}, "k1 must be a number of at least 0; got nan"),
        ({"b": 1.5}, "b must be a number between 0 and 1; got 1.5"),
        ({"b": "0.5"}, "b must be a number between 0 and 1; got '0.5'"),
        ({"b": True}, "b must be a number between 0 and 1; got True"),
        ({"language": "klingon"}, "got 'klingon'"),
        ({"tokens": "letters"}, "tokens must be one of 'words', 'lucene'; got 'letters'"),
        ({"lengths": "byte"}, "lengths must be one of 'exact', 'lucene'; got 'byte'"),
    ],
)
def test_bm25_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BM25(DOCUMENTS, **options)


@given(
    st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.text("ab c", max_size=9), min_size=1, max_size=12),
    st.lists(st.sampled_from(["a", "b", "aa", "bab", "c"]), max_size=4),
    st.integers(1, 5),
)
def test_the_best_are_those_of_a_slow_loop_with_ties_by_id(
    documents: dict[str, str], query: list[str], depth: int
) -> None:
    options: dict[str, Any] = {"language": None, "stopwords": False, "tokens": "lucene"}
    found = BM25(documents, **options).search({"q": " ".join(query)}, depth)["q"]
    everything = BM25(documents, **options).search({"q": " ".join(query)}, len(documents))["q"]
    assert list(found.items()) == rank(everything)[:depth]
    assert set(everything) == {name for name, text in documents.items() if set(text.split()) & set(query)}


def test_an_index_is_the_same_from_its_folder_and_for_bm25s(tmp_path: Path) -> None:
    built = BM25(DOCUMENTS, **ANSERINI)
    built.save(tmp_path / "index")
    opened = BM25.open(tmp_path / "index")
    assert opened.search(QUERIES) == built.search(QUERIES)
    assert opened.settings == built.settings == ANSERINI
    assert len(opened) == len(built) == len(DOCUMENTS)
    theirs = bm25s.BM25.load(tmp_path / "index", mmap=True, show_progress=False)
    assert isinstance(theirs.scores["data"], np.memmap)
    rows, scores = theirs.retrieve([["green", "appl"]], k=3, show_progress=False)
    expected = opened.search({"q": "green apple"}, 3)["q"]
    assert scores[0].tolist() == pytest.approx(list(expected.values()))
    assert {list(DOCUMENTS)[row] for row in rows[0].tolist()} == set(expected)


def test_scripts_with_marks_or_without_spaces_are_found() -> None:
    texts = {"hi": "हिन्दी भाषा", "bn": "বাংলা ভাষা", "ta": "தமிழ் மொழி", "zh": "熊猫吃竹子。", "ja": "パンダは竹を食べる"}
    for options in ({}, ANSERINI):
        found = BM25(texts, **options).search({"hi": "हिन्दी", "bn": "বাংলা", "ta": "தமிழ்"})
        assert {query: list(documents) for query, documents in found.items()} == {name: [name] for name in found}
    assert list(BM25(texts, **ANSERINI).search({"q": "熊猫"})["q"]) == ["zh"]
    assert list(BM25(texts, **ANSERINI).search({"q": "パンダ"})["q"]) == ["ja"]


@pytest.mark.parametrize("rules", [None, 1, TERM_RULES + 1])
def test_an_index_by_other_rules_of_terms_is_refused(tmp_path: Path, rules: int | None) -> None:
    built = BM25(DOCUMENTS)
    built._made_by = {} if rules is None else {"term_rules": rules}  # type: ignore[misc]
    built.save(tmp_path / "index")
    message = (
        rf"index: the rules of what a term is must be {TERM_RULES}; got an index by rules {rules or 1}; build the"
    )
    for use in (BM25.open, lambda folder: first_stage("bm25", DOCUMENTS, folder=folder)):
        with pytest.raises(ValueError, match=message):
            use(tmp_path / "index")


def test_an_index_without_terms_is_saved_too(tmp_path: Path) -> None:
    BM25({"a": "the of", "b": ""}).save(tmp_path / "index")
    assert BM25.open(tmp_path / "index").search({"q": "anything"}) == {"q": {}}


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Vitamin C, e.g. 2.5 mg/day", ["vitamin", "c", "e.g", "2.5", "mg", "dai"]),
        ("the U.S.A., IL-6 and Crohn\u2019s", ["u.s.a", "il", "6", "crohn"]),
        ("O'Neill's 1,000,000 non_linear terms.", ["o'neil", "1,000,000", "non_linear", "term"]),
        ("dogs' \u4e2d, us as s", ["dog", "\u4e2d", "us", "s"]),
    ],
)
def test_terms_of_lucene(text: str, terms: list[str]) -> None:
    assert term_splitter("porter", True, "lucene")([text]) == [terms]


@pytest.mark.parametrize("options", [{}, dict(ANSERINI)])
def test_an_index_goes_to_other_processes(options: dict[str, Any], tmp_path: Path) -> None:
    bm25 = BM25(DOCUMENTS, **options)
    bm25.save(tmp_path / "index")
    for index in (bm25, BM25.open(tmp_path / "index")):
        copied = pickle.loads(pickle.dumps(index))
        assert copied.search(QUERIES) == bm25.search(QUERIES)
        assert (copied.settings, list(copied.ids)) == (bm25.settings, list(bm25.ids))


def test_scifact_as_anserini_published_it(shared_data: Path) -> None:
    """Anserini's page of its regression beir-v1.0.0-scifact.flat has nDCG@10 0.6789 and R@100 0.9253."""
    folder = shared_data / "scifact"
    qrels, queries = read_qrels(folder / "qrels/test.tsv"), read_queries(folder / "queries.jsonl")
    bm25 = BM25(read_corpus(folder / "corpus.jsonl"), **ANSERINI)
    means = evaluate(bm25.search({query: queries[query] for query in qrels}), qrels, "nDCG@10 R@100").means
    assert {measure: round(mean, 4) for measure, mean in means.items()} == {"nDCG@10": 0.6789, "R@100": 0.9253}


def test_bad_depth_and_no_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no documents; got an empty mapping"):
        BM25({})
    with pytest.raises(ValueError, match="depth must be a whole number of at least 1; got 0"):
        BM25(DOCUMENTS).search(QUERIES, depth=0)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (["a text"], r"must map ids to texts; got a list of 1; give each text an id: \{str\(i\): text"),
        ((text for text in ["a text"]), "must map ids to texts; got a generator; give each text an id"),
        ("corpus.jsonl", "got the string 'corpus.jsonl'; read the file with cmp_rerank.ir.read_corpus"),
        (Path("corpus.jsonl"), "read the file with cmp_rerank.ir.read_corpus"),
        (None, "must map ids to texts; got None; make a dictionary of it"),
        ({1: "a text"}, r"must map ids \(strings\) to texts \(strings\); got the string 'a text' for the id 1"),
        ({"d1": ["a", "text"]}, "got a list of 2 for the id 'd1'; convert both to strings"),
    ],
)
def test_texts_of_another_shape_are_refused(documents: Any, message: str) -> None:
    for name, use in (
        ("documents", BM25),
        ("documents", lambda texts: Dense(texts, None)),  # type: ignore[arg-type]
        ("queries", BM25(DOCUMENTS).search),
    ):
        with pytest.raises(ValueError, match=f"^{name} .*{message}"):
            use(documents)


def test_a_dataset_is_taken_for_its_texts() -> None:
    documents = datasets.Dataset.from_dict({"id": list(DOCUMENTS), "text": list(DOCUMENTS.values())})
    queries = datasets.Dataset.from_dict({"id": list(QUERIES), "text": list(QUERIES.values())})
    assert BM25(documents).search(queries) == BM25(DOCUMENTS).search(QUERIES)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [2.5, True, -1, "3"])
def test_depth_is_a_whole_number(depth: Any) -> None:
    with pytest.raises(ValueError, match=f"depth must be a whole number of at least 1; got {depth!r}"):
        BM25(DOCUMENTS).search(QUERIES, depth=depth)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "bm25s":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"cmp-rerank\[retrieval\]"):
        BM25(DOCUMENTS)
