"""Mining against a slow loop, what must always hold, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_oracle import mine_slowly
from optional_libraries import datasets

from cmp_rerank.collections import TextStore
from cmp_rerank.ir import write_run
from cmp_rerank.mining import Mined, MiningOptions, mine
from cmp_rerank.mining.run_columns import RunColumns

CORPUS = {f"d{number:02}": f"text {number}" for number in range(40)}
QUERIES = {f"q{number}": f"query {number}" for number in range(6)}

documents = st.sampled_from(list(CORPUS))
judgments = st.dictionaries(documents, st.integers(-1, 3), min_size=1, max_size=8)
all_qrels = st.dictionaries(st.sampled_from(list(QUERIES)), judgments, min_size=1)
scores = st.dictionaries(documents, st.integers(-6, 6).map(float), max_size=25)
all_runs = st.dictionaries(st.sampled_from(list(QUERIES)), scores)
bands = st.tuples(st.integers(1, 6), st.integers(0, 15)).map(lambda band: (band[0], band[0] + band[1]))
limits = st.none() | st.integers(-4, 4).map(float)


class Overlap:
    """A model that anybody can check: the number of the document, as a share of the corpus."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def predict(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.seen += [text for _, text in pairs]
        return [int(text.split()[1]) / 40 for _, text in pairs]


def mined_ids(mined: Mined) -> dict[str, dict[str, float]]:
    """Query id -> document id -> label, in the order of the rows."""
    return {
        row["query_id"]: dict(zip(row["doc_ids"], row["labels"], strict=True))
        for row in mined.rows.to_list()  # type: ignore[attr-defined]
    }


def mined_or_nothing(*args: Any, **options: Any) -> dict[str, dict[str, float]]:
    try:
        return mined_ids(mine(*args, **options, ids=True))
    except ValueError as error:
        if not str(error).startswith("no row is left; got 0 rows from 0 of"):
            raise
        return {}


@settings(max_examples=60, deadline=None)
@given(
    qrels=all_qrels,
    run=all_runs,
    options=st.fixed_dictionaries(
        {
            "negatives": st.integers(1, 5),
            "relevant": st.integers(1, 2),
            "ranks": bands,
            "judgments": st.sampled_from(["any", "judged", "unjudged"]),
            "min_score": limits,
            "max_score": st.none() | st.integers(4, 6).map(float),
            "absolute_margin": st.none() | st.integers(0, 2).map(float),
            "relative_margin": st.none() | st.just(0.25),
            "short": st.sampled_from(["keep", "drop"]),
        }
    ),
)
def test_the_top_of_a_band_is_what_a_slow_loop_finds(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], options: dict[str, Any]
) -> None:
    expected = mine_slowly(qrels, run, **options)
    found = mined_or_nothing(QUERIES, CORPUS, qrels, run, pick="top", **options)
    assert list(found) == list(expected)
    for query, (positives, negatives) in expected.items():
        assert {document for document, label in found[query].items() if label == 1} == positives
        assert [document for document, label in found[query].items() if label == 0] == negatives


@settings(max_examples=25, deadline=None)
@given(
    qrels=all_qrels,
    runs=st.lists(all_runs, min_size=1, max_size=3),
    negatives=st.integers(1, 6),
    random=st.sampled_from([0.0, 0.3, 1.0]),
    band=bands,
    pick=st.sampled_from(["random", "top"]),
    seed=st.integers(0, 2),
)
def test_what_always_holds(
    qrels: dict[str, dict[str, int]],
    runs: list[dict[str, dict[str, float]]],
    negatives: int,
    random: float,
    band: tuple[int, int],
    pick: Any,
    seed: int,
) -> None:
    options = MiningOptions(negatives=negatives, random=random, ranks=band, pick=pick, seed=seed, ids=True)
    relevant = {query: {d for d, grade in judged.items() if grade > 0} for query, judged in qrels.items()}
    if not any(relevant.values()):
        return
    mined = mine(QUERIES, CORPUS, qrels, runs, options=options)
    found = mined_ids(mined)
    assert list(found) == [query for query in qrels if relevant[query]]
    for query, labels in found.items():
        assert {document for document, label in labels.items() if label} == relevant[query]
        assert len(labels) == len(relevant[query]) + negatives
    counts = mined.counts
    assert counts.rows == counts.mined == len(found) == len(mined.dataset)
    assert counts.positives == sum(map(len, (relevant[query] for query in found)))
    assert sum(counts.negatives.values()) == negatives * len(found)
    assert counts.queries == counts.mined + counts.without_positive
    # The same again, and the same for each query alone, whatever the other queries are.
    for query, labels in found.items():
        assert mined_ids(mine(QUERIES, CORPUS, {query: qrels[query]}, runs, options=options)) == {query: labels}


def test_the_seed_matters_and_random_draws_cover_the_band() -> None:
    run = {"q0": {f"d{number:02}": float(-number) for number in range(20)}}

    def negative(**options: Any) -> str:
        found = mined_ids(mine(QUERIES, CORPUS, {"q0": {"d00": 1}}, run, negatives=1, ids=True, **options))["q0"]
        return next(document for document, label in found.items() if not label)

    assert {negative(seed=seed, ranks=(3, 6)) for seed in range(40)} == {"d03", "d04", "d05", "d06"}
    assert len({negative(seed=seed, random=1.0) for seed in range(30)}) > 10
    assert negative(ranks=(3, 6), pick="top") == "d03"


def test_runs_share_the_negatives_and_stand_in_for_each_other() -> None:
    one = {"q0": {f"d{number:02}": float(-number) for number in range(1, 9)}}
    two = {"q0": {f"d{number:02}": float(-number) for number in range(20, 23)}}
    runs: dict[str, Any] = {"bm25": one, "dense": two}
    qrels = {"q0": {"d00": 1}}
    mined = mine(QUERIES, CORPUS, qrels, runs, negatives=5, shares=(4, 1))
    assert mined.counts.negatives == {"bm25": 4, "dense": 1, "random": 0}
    mined = mine(QUERIES, CORPUS, qrels, runs, negatives=10, random=0.1, short="error")
    assert mined.counts.negatives == {"bm25": 6, "dense": 3, "random": 1}  # 5, 4 and 1 are asked for
    mined = mine(QUERIES, CORPUS, qrels, runs, negatives=12)
    assert mined.counts.negatives == {"bm25": 8, "dense": 3, "random": 1}
    assert mined.counts.filled == 1
    assert "random negatives that stand in where runs had too few: 1" in mined.notes()
    assert mined.counts.summary() == (
        "1 rows from 1 of 1 queries: 1 positives, 12 negatives (bm25 8, dense 3, random 1)"
    )


def test_grades_are_labels_and_choose_the_positives() -> None:
    qrels = {"q0": {"d00": 1, "d01": 3, "d02": 2, "d03": 0, "d04": -1}}
    run = {"q0": {"d00": 9.0, "d03": 2.0, "d04": 3.0, "d05": 1.0}}

    def found(**options: Any) -> dict[str, float]:
        options = {"negatives": 3, "pick": "top", "ids": True} | options
        return mined_ids(mine(QUERIES, CORPUS, qrels, run, **options))["q0"]

    assert found(labels="grades") == {"d01": 3, "d02": 2, "d00": 1, "d04": 0, "d03": 0, "d05": 0}
    assert list(found(labels="grades")) == ["d01", "d02", "d00", "d04", "d03", "d05"]  # best first
    assert found(labels="scaled", relevant=2) == {"d01": 1, "d02": 2 / 3, "d04": 0, "d03": 0, "d05": 0}
    assert found(positives=1) == {"d01": 1, "d04": 0, "d03": 0, "d05": 0}
    assert found(negatives=1, judgments="unjudged") == {"d00": 1, "d01": 1, "d02": 1, "d05": 0}


def test_judged_negatives_need_no_run() -> None:
    qrels = {"q0": {"d00": 1, "d01": 0, "d02": 0}}
    mined = mine(QUERIES, CORPUS, qrels, negatives=2, judgments="judged", ids=True)
    assert mined_ids(mined) == {"q0": {"d00": 1, "d01": 0, "d02": 0}}
    with pytest.raises(ValueError, match=r"no row is left; .*queries left out, too few negatives: 1"):
        mine(QUERIES, CORPUS, qrels, negatives=3, judgments="judged")


def test_a_model_filters_and_scores_no_more_than_it_must() -> None:
    run = {"q0": {f"d{number:02}": float(number) for number in range(40)}}
    qrels = {"q0": {"d20": 1, "d30": 1}}
    model = Overlap()
    mined = mine(
        QUERIES, CORPUS, qrels, run, model=model, absolute_margin=2.5 / 40, negatives=3, pick="top", ids=True
    )
    # Of the ranking 39, 38, ... those above 17.5 are too close to the lower positive.
    assert list(mined_ids(mined)["q0"])[2:] == ["d17", "d16", "d15"]
    assert mined.counts.filtered == 39 - 17 - 2
    assert len(model.seen) == len(set(model.seen)) == 2 + mined.counts.filtered + 3
    relative = mine(QUERIES, CORPUS, qrels, run, model=model, relative_margin=0.5, negatives=1, pick="top", ids=True)
    assert list(mined_ids(relative)["q0"])[2:] == ["d10"]


def test_a_model_filters_random_negatives_and_a_run_does_not() -> None:
    run = {"q0": {"d20": 1.0}}
    qrels = {"q0": {"d20": 1}}
    mined = mine(QUERIES, CORPUS, qrels, run, model=Overlap(), absolute_margin=0.0, negatives=8, random=1.0, ids=True)
    assert max(list(mined_ids(mined)["q0"])[1:]) < "d20"
    assert mined.counts.filtered > 0
    mined = mine(QUERIES, CORPUS, qrels, run, absolute_margin=0.0, negatives=39, random=1.0)
    assert mined.counts.filtered == 0
    # A filter that refuses everything does not go through millions of documents.
    with pytest.raises(ValueError, match=r"queries left out, too few negatives: 1; .*by their scores: 20"):
        mine(QUERIES, CORPUS, qrels, run, model=Overlap(), max_score=-1.0, negatives=2, random=1.0)


def test_many_queries_in_any_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmp_rerank.mining import miner

    run = {query: {f"d{(7 * n + place) % 40:02}": float(n) for n in range(20)} for place, query in enumerate(QUERIES)}
    qrels = {query: {f"d{place:02}": 1} for place, query in enumerate(QUERIES)}
    found = []
    for number in (1, 2, 128):
        monkeypatch.setattr(miner, "QUERIES_AT_ONCE", number)
        mined = mine(
            QUERIES,
            CORPUS,
            qrels,
            run,
            model=Overlap(),
            absolute_margin=0.0,
            teacher=Overlap(),
            ids=True,
            negatives=2,
        )
        found.append((mined_ids(mined), mined.counts))
    assert found[0] == found[1] == found[2]


def test_a_positive_that_no_run_has() -> None:
    run = {"q0": {"d01": 2.0, "d02": 1.0}, "q1": {"d05": 3.0, "d06": 2.0, "d07": 1.0}}
    qrels = {"q0": {"d00": 1}, "q1": {"d05": 1}, "q2": {"d09": 1}}
    mined = mine(QUERIES, CORPUS, qrels, run, absolute_margin=1.5, negatives=1, pick="top", ids=True)
    found = mined_ids(mined)
    assert list(found["q0"]) == ["d00", "d01"]  # no score to hold it against
    assert list(found["q1"]) == ["d05", "d07"]
    assert mined.counts.unscored_positives == 2
    assert mined.counts.not_in_runs == 1
    assert mined.notes() == [
        "queries that no run has: 1",
        "queries without a margin, no run has a score of their positives: 2",
        "documents left out by their scores: 1",
        "random negatives that stand in where runs had too few: 1",
    ]


def test_a_query_that_runs_out() -> None:
    run = {"q0": {"d01": 2.0}, "q1": {"d01": 2.0, "d02": 1.0}, "q2": {}}
    qrels = {query: {"d00": 1} for query in run}
    arguments = (QUERIES, CORPUS, qrels, run)
    keep = mine(*arguments, negatives=2, short="keep", ids=True)
    assert [len(labels) for labels in mined_ids(keep).values()] == [2, 3]
    assert (keep.counts.fewer, keep.counts.too_few, keep.counts.not_in_runs) == (1, 1, 1)
    drop = mine(*arguments, negatives=2, short="drop", ids=True)
    assert list(mined_ids(drop)) == ["q1"]
    assert drop.counts.too_few == 2
    filled = mine(*arguments, negatives=2, ids=True)
    assert filled.counts.negatives == {"run": 3, "random": 3}
    with pytest.raises(ValueError, match="query 'q0' needs 2 negatives; got 1; widen ranks"):
        mine(*arguments, negatives=2, short="error")
    # More than the corpus has.
    with pytest.raises(ValueError, match=r"no row is left; got 0 rows from 0 of 3 queries.*too few negatives: 3"):
        mine(*arguments, negatives=40)


def test_rows_of_each_format() -> None:
    run = {"q0": {"d02": 2.0, "d03": 1.0}}
    arguments = (QUERIES, CORPUS, {"q0": {"d00": 1, "d01": 1}}, run)
    options: dict[str, Any] = {"negatives": 2, "pick": "top"}
    pairs = mine(*arguments, format="pairs", **options).dataset
    assert pairs.column_names == ["query", "document", "label"]
    assert [(row["document"], row["label"]) for row in pairs.to_list()] == [  # type: ignore[attr-defined]
        ("text 0", 1), ("text 1", 1), ("text 2", 0), ("text 3", 0),
    ]  # fmt: skip
    tuples = mine(*arguments, format="tuples", **options).dataset
    assert [tuple(row.values()) for row in tuples.to_list()] == [  # type: ignore[attr-defined]
        ("query 0", "text 0", "text 2", "text 3"), ("query 0", "text 1", "text 2", "text 3"),
    ]  # fmt: skip
    taught = mine(*arguments, format="tuples", teacher=Overlap(), ids=True, **options).dataset
    assert taught.column_names == ["query", "positive", "negative_1", "negative_2", "labels", "query_id", "doc_ids"]
    assert [row["labels"] for row in taught.to_list()] == [  # type: ignore[attr-defined]
        [0.0, 2 / 40, 3 / 40], [1 / 40, 2 / 40, 3 / 40],
    ]  # fmt: skip
    lists = mine(*arguments, **options).dataset
    assert lists.to_list() == [  # type: ignore[attr-defined]
        {"query": "query 0", "docs": ["text 0", "text 1", "text 2", "text 3"], "labels": [1.0, 1.0, 0.0, 0.0]}
    ]


def test_a_run_is_taken_in_any_form(tmp_path: Path) -> None:
    run = {"q0": {"d01": 2.0, "d02": 1.0}}
    path = tmp_path / "bm25.trec"
    write_run(path, run)
    qrels = {"q0": {"d00": 1}}
    forms: list[tuple[Any, list[str]]] = [
        (run, ["run"]), (path, ["bm25"]), (str(path), ["bm25"]), ([run, path], ["run 1", "run 2"]),
        ({"a": run}, ["a"]), ({"a": path, "b": run}, ["a", "b"]),
        (RunColumns.read(path), ["run"]), ({"a": RunColumns.read(path)}, ["a"]),
    ]  # fmt: skip
    for form, names in forms:
        mined = mine(QUERIES, CORPUS, qrels, form, negatives=2, short="error")
        assert [*mined.counts.negatives] == [*names, "random"]


def test_a_folder_holds_what_memory_would(tmp_path: Path) -> None:
    run = {query: {"d01": 2.0, "d02": 1.0} for query in QUERIES}
    arguments = (QUERIES, CORPUS, {query: {"d00": 1} for query in QUERIES}, run)
    done: list[tuple[int, int]] = []
    held = mine(*arguments, negatives=2)
    kept = mine(*arguments, negatives=2, folder=tmp_path / "new", progress=lambda *at: done.append(at))
    assert kept.dataset.to_list() == held.dataset.to_list()  # type: ignore[attr-defined]
    assert [Path(file["filename"]).name for file in kept.dataset.cache_files] == ["mined.arrow"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["mined.arrow"]
    assert done == [(number, 6) for number in range(1, 7)]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    class Stops(Overlap):
        def predict(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(QUERIES, CORPUS, {"q0": {"d00": 1}}, folder=tmp_path, negatives=1, teacher=Stops())
    assert list(tmp_path.iterdir()) == []


def test_of_a_store_only_the_texts_that_are_mined_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [(row, name, text) for row, (name, text) in enumerate(CORPUS.items())]
    store = TextStore.build(tmp_path / "store", lambda: records, "a test")
    read: list[str] = []
    look_up = TextStore.__getitem__
    monkeypatch.setattr(TextStore, "__getitem__", lambda self, name: read.append(name) or look_up(self, name))
    for name in ("__iter__", "pairs"):
        monkeypatch.setattr(TextStore, name, lambda self: pytest.fail("all texts are read"))
    arguments = ({"q0": {"d00": 1}}, {"q0": {"d01": 1.0}})
    mined = mine(QUERIES, store, *arguments, negatives=3)
    assert len(set(read)) == 4
    assert mined.dataset.to_list() == mine(QUERIES, CORPUS, *arguments, negatives=3).dataset.to_list()  # type: ignore[attr-defined]


def test_datasets_are_taken_for_texts() -> None:
    queries = datasets.Dataset.from_dict({"_id": list(QUERIES), "text": list(QUERIES.values())})
    corpus = datasets.Dataset.from_dict({"_id": list(CORPUS), "text": list(CORPUS.values())})
    qrels = {"q0": {"d00": 1}}
    found = mine(queries, corpus, qrels, negatives=3).dataset  # type: ignore[arg-type]
    assert found.to_list() == mine(QUERIES, CORPUS, qrels, negatives=3).dataset.to_list()  # type: ignore[attr-defined]


def test_missing_texts() -> None:
    corpus = {name: text for name, text in CORPUS.items() if name not in ("d00", "d02")}
    qrels = {"q0": {"d00": 1, "d01": 1}, "q1": {"d00": 1}}
    run = {"q0": {"d02": 2.0, "d03": 1.0}}
    with pytest.raises(ValueError, match=r"got none for 2 of 4 \('d00', 'd02'\).*missing_texts='drop'"):
        mine(QUERIES, corpus, qrels, run)
    mined = mine(QUERIES, corpus, qrels, run, missing_texts="drop", negatives=1, ids=True, short="error")
    assert mined_ids(mined) == {"q0": {"d01": 1, "d03": 0}}
    assert (mined.counts.missing_texts, mined.counts.without_positive) == (3, 1)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_documents_whose_text_is_empty_teach_nothing(empty: str) -> None:
    corpus = dict.fromkeys(CORPUS, empty) | {name: CORPUS[name] for name in ("d01", "d03", "d04")}
    qrels = {"q0": {"d00": 1, "d01": 1}, "q1": {"d00": 1}}
    run = {"q0": {"d02": 3.0, "d03": 2.0}}
    mined = mine(QUERIES, corpus, qrels, run, negatives=2, ranks=(1, 2), ids=True)
    assert mined_ids(mined) == {"q0": {"d01": 1, "d03": 0, "d04": 0}}
    assert mined.counts.negatives == {"run": 1, "random": 1}
    assert mined.counts.without_positive == 1
    assert mined.counts.filtered == 0
    assert mined.counts.missing_texts >= 3  # and each empty one that is drawn at random


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels": {"q0": {0: 1}}}, "ids are strings; got the document id 0 in qrels"),
        ({"qrels": {0: {"d00": 1}}}, "ids are strings; got the query id 0 in qrels"),
        ({"runs": {"q0": {1: 1.0}}}, "ids are strings; got the document id 1 in the run 'run'"),
        ({"corpus": ["text"]}, "corpus must map ids to texts; got a list of 1"),
        ({"queries": "what"}, "queries must map ids to texts; got the string 'what'"),
        ({"qrels": {"1": {"d00": 1}, "2": {}}}, r"got 6 queries such as 'q0', 'q1', 'q2', and 2 such as '1', '2'"),
        ({"runs": 5}, "runs must be a run, its path, or several; got 5"),
        ({"runs": "no.trec"}, "no.trec: no such file"),
        ({"shares": (1, 1)}, "shares must be one weight for each run; got 2 for 1: run"),
        ({"runs": {"random": {"q0": {"d01": 1.0}}}}, "a run must not be called 'random'"),
        ({"model": Overlap()}, "a model filters by limits or margins of its scores; got none"),
        ({"model": "name", "max_score": 1}, r"model must be a loaded model; .*CrossEncoder\('name'\)"),
        ({"teacher": Overlap, "labels": "scores"}, "model must be a loaded model; got the class Overlap"),
        ({"labels": "reciprocal"}, "labels='reciprocal' come from a teacher; got none"),
        ({"teacher": Overlap(), "labels": "binary"}, "a teacher gives the labels; got labels='binary'"),
        ({"qrels": None}, "without judgments it takes a run, a teacher, .*; got 1 runs, teacher None"),
        ({"qrels": None, "teacher": Overlap(), "absolute_margin": 1}, "a margin is one below the positives"),
        ({"runs": None, "absolute_margin": 1}, "a filter needs scores; got neither a run nor a model"),
        ({"test_queries": "what"}, "test_queries must be texts by id or a list of texts; got the string 'what'"),
        ({"test_queries": ["query 0"]}, "no row is left; .*in the test split or nearly: 1"),
        ({"negative": 3}, "an option of mining must be one of 'format', 'negatives', .*; got 'negative'"),
        ({"negatives": 0}, "negatives must be a whole number of at least 1; got 0"),
        ({"ranks": (5, 2)}, r"ranks must be \(first, last\) with 1 <= first <= last; got \(5, 2\)"),
        ({"ranks": "1-100"}, "ranks must be .*; got '1-100'"),
        ({"random": 1.5}, "random must be a number between 0 and 1; got 1.5"),
        ({"shares": 2}, "shares must be one weight for each run; got 2; write"),
        ({"shares": (0, 0)}, r"shares must not all be 0; got \(0, 0\)"),
        ({"relative_margin": float("nan")}, "relative_margin must be a number of at least 0; got nan"),
        ({"min_score": 2, "max_score": 1}, "min_score must not be above max_score; got 2 and 1"),
        ({"format": "tuples", "short": "keep"}, "tuples need the same number of negatives.*got short='keep'"),
        ({"format": "tuples", "unscored": "drop"}, "tuples need the same number of .*got unscored='drop'"),
        ({"format": "pairs", "labels": "both"}, "labels='both' are for lists; got format 'pairs'"),
        ({"leak_threshold": 0}, "leak_threshold must be above 0"),
        ({"seed": "1"}, "seed must be a whole number; got '1'"),
        ({"pick": "best"}, "pick must be one of 'random', 'top'; got 'best'"),
    ],
)
def test_what_is_refused(changes: Mapping[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "queries": QUERIES,
        "corpus": CORPUS,
        "qrels": {"q0": {"d00": 1}},
        "runs": {"q0": {"d00": 2.0, "d01": 1.0}},
    }
    with pytest.raises(ValueError, match=message):
        mine(**(arguments | dict(changes)))
