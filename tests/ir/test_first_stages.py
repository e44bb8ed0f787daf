"""First stages by name: built, opened, and refused when they are not what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vectors import Vectors

from cmp_rerank.collections import TextStore
from cmp_rerank.ir import ANSERINI, BM25, Dense, FirstStageOptions, GivenRun, Sparse, first_stage, write_run

CORPUS = {"d1": "green apple", "d2": "red wine", "d3": "red apple"}
NUMBERS = {"d1": "1 0", "d2": "0 1", "d3": "1 1"}


class Own:
    def search(self, queries: Any, depth: int = 100) -> Any:
        return {query: {"d1": 1.0} for query in queries}


def test_names_stand_for_classes() -> None:
    model: Any = Vectors()
    queries = {"q": "red apple"}
    assert first_stage("bm25", CORPUS, k1=0.5).search(queries) == BM25(CORPUS, k1=0.5).search(queries)
    anserini = first_stage("anserini", CORPUS, b=0.1)
    assert isinstance(anserini, BM25)
    assert anserini.settings == {**ANSERINI, "b": 0.1}
    queries = {"q": "1 0.5"}
    dense = first_stage("dense", NUMBERS, model=model, similarity="cosine")
    assert dense.search(queries, 2) == Dense(NUMBERS, model, similarity="cosine").search(queries, 2)
    assert first_stage("sparse", NUMBERS, model=model).search(queries) == Sparse(NUMBERS, model).search(queries)


def test_runs_and_objects_are_first_stages(tmp_path: Path) -> None:
    run = {"q1": {"a": 1.0, "b": 2.0}, "other": {"c": 1.0}}
    write_run(tmp_path / "run", run)
    for given in (run, tmp_path / "run", str(tmp_path / "run")):
        stage = first_stage(given)
        assert isinstance(stage, GivenRun)
        assert stage.search({"q1": "", "q2": ""}, 1) == {"q1": {"b": 2.0}, "q2": {}}
    own = Own()
    assert first_stage(own) is own


@pytest.mark.parametrize("kind", ["bm25", "anserini", "dense", "sparse"])
def test_an_index_is_built_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = kind in ("dense", "sparse")
    corpus, queries = (NUMBERS, {"q": "1 0.5"}) if learned else (CORPUS, {"q": "red"})
    model, folder = Vectors() if learned else None, tmp_path / "index"
    first = first_stage(kind, corpus, model=model, folder=folder).search(queries)
    for built in (BM25, Sparse, Dense):
        monkeypatch.setattr(built, "__init__", lambda *_: pytest.fail("built again"))
    for again in (corpus, None):
        assert first_stage(kind, again, model=model, folder=folder).search(queries) == first
    with pytest.raises(ValueError, match=r"index: the index is of 3 documents; got 2 with other ids or in another"):
        first_stage(kind, {"d1": "1 0", "d2": "0 1"}, model=model, folder=folder)
    with pytest.raises(ValueError, match=r"index: the index is of 3 documents; got 3 with other ids or in another"):
        first_stage(kind, dict(reversed(corpus.items())), model=model, folder=folder)


def test_an_index_of_something_else_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    first_stage("bm25", CORPUS, folder=folder, k1=0.9)
    with pytest.raises(
        ValueError,
        match=r"the index was built with k1=0\.9; got 1\.2; name another folder, delete this one, or set k1",
    ):
        first_stage("bm25", CORPUS, folder=folder, k1=1.2)
    with pytest.raises(ValueError, match=r"the index was built with b=0\.75; got 0\.4"):
        first_stage("anserini", CORPUS, folder=folder)
    with pytest.raises(ValueError, match=r"the index was built with k1=0\.9; got 1\.5"):
        first_stage("bm25", CORPUS, folder=folder)  # which would be built with the defaults
    assert first_stage("bm25", None, folder=folder).settings["k1"] == 0.9  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="must hold an index of kind 'dense'; got 'bm25'"):
        first_stage("dense", CORPUS, model=Vectors(), folder=folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").touch()
    with pytest.raises(ValueError, match="which holds something else"):
        first_stage("bm25", None or CORPUS, folder=tmp_path / "photos")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("bm52", CORPUS),
            {},
            "one of 'bm25', 'anserini', 'dense', 'sparse' or the path of a run; got 'bm52'; did you mean",
        ),
        (("bm25", CORPUS), {"k": 1}, "no option 'k' of the first stage 'bm25'; its options are b, k1, language"),
        (("bm25", CORPUS), {"model": "x"}, "a model goes with .*got 'bm25' and the string 'x'; leave it out"),
        (("dense", CORPUS), {}, "a model goes with .*got 'dense' and None; name a model"),
        (("dense", CORPUS), {"model": Vectors(), "folders": 1}, "no option 'folders'.*batch_size, dtype, index"),
        (("bm25", CORPUS), {"stopword": False}, "no option 'stopword'.*; did you mean 'stopwords'"),
        (("bm25",), {}, "needs documents, or a folder with its index; got neither"),
        (({"q": {"a": 1.0}},), {"depth": 3}, "no option 'depth' of the first stage 'run'; it has no options"),
        ((Own(),), {"model": "x"}, "leave it out"),
        ((BM25, CORPUS), {}, "a first stage must be one of"),
        (("bm25", CORPUS), {"k1": -1}, "k1 must be a number of at least 0; got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        first_stage(*arguments, **options)


def test_options_are_checked_before_anything_is_built() -> None:
    assert isinstance(FirstStageOptions("anserini", options={"b": 0.5}).build(CORPUS), BM25)
    for arguments, message in (
        ({"kind": "bm52"}, "got 'bm52'"),
        ({"kind": "dense"}, "name a model"),
        ({"options": {"k": 2}}, "no option 'k'"),
    ):
        with pytest.raises(ValueError, match=message):
            FirstStageOptions(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bm25", "dense", "sparse"])
def test_texts_on_disk_are_indexed_as_those_in_memory(tmp_path: Path, kind: str) -> None:
    learned = kind != "bm25"
    corpus, queries = (NUMBERS, {"q": "1 0.5"}) if learned else (CORPUS, {"q": "red"})
    records = [(place, name, text) for place, (name, text) in enumerate(corpus.items())]
    store = TextStore.build(tmp_path / "texts", lambda: iter(records), "texts")
    model = Vectors() if learned else None
    stage = first_stage(kind, store, model=model, folder=tmp_path / "index")
    assert stage.search(queries) == first_stage(kind, corpus, model=model).search(queries)
    assert first_stage(kind, store, model=model, folder=tmp_path / "index").search(queries) == stage.search(queries)
