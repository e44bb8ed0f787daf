"""Indexes of dense retrieval: exact against a slow loop, others by their recall, in folders, interrupted."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import Vectors

from cmp_rerank.ir import Dense, embedding, nearest, rank
from cmp_rerank.ir.abandoned import sole_writer

NUMBERS = st.integers(-2, 2)
# Few numbers of few values: many ties.
TEXTS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=60).map(
    lambda rows: {f"d{i * 7 % 61}": " ".join(map(str, row)) for i, row in enumerate(rows)}
)


def slow(documents: dict[str, str], query: str, depth: int) -> list[tuple[str, float]]:
    vector = [float(number) for number in query.split()]
    scores = {
        name: sum(a * float(b) for a, b in zip(vector, text.split(), strict=True)) for name, text in documents.items()
    }
    return rank(scores)[:depth]


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.tuples(NUMBERS, NUMBERS, NUMBERS), st.integers(1, 5), st.integers(1, 20), st.integers(0, 2))
def test_flat_is_a_slow_loop_with_ties_by_id(
    documents: dict[str, str], query: tuple[int, ...], depth: int, block: int, more: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK", block)
        patch.setattr("cmp_rerank.ir.dense._MORE", more)
        text = " ".join(map(str, query))
        found = Dense(documents, Vectors()).search({"q": text}, depth)["q"]  # type: ignore[arg-type]
    assert list(found.items()) == slow(documents, text, depth)


def clustered(n: int, seed: int = 0) -> tuple[dict[str, str], dict[str, str]]:
    """Documents around 50 centres, and queries near to some of them."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(50, 16))[rng.integers(50, size=n)] + 0.4 * rng.normal(size=(n, 16))
    queries = rows[:30] + 0.3 * rng.normal(size=(30, 16))
    texts = [" ".join(f"{number:.4f}" for number in row) for row in (*rows, *queries)]
    return {f"d{i}": text for i, text in enumerate(texts[:n])}, {f"q{i}": text for i, text in enumerate(texts[n:])}


def recall(found: Any, exact: Any) -> float:
    return float(np.mean([len(set(found[query]) & set(exact[query])) / len(exact[query]) for query in exact]))


def test_other_indexes_find_nearly_all_and_give_the_same_scores(tmp_path: Path) -> None:
    documents, queries = clustered(4000)
    model: Any = Vectors("cosine")
    exact = Dense(documents, model).search(queries, 20)
    everything = Dense(documents, model).search(queries, len(documents))
    for index, parameters, low, high in (
        ("ivf", None, 0.9, 1.0),
        ("hnsw", None, 0.95, 1.0),
        ("IVF100,Flat", "nprobe=100", 1.0, 1.0),
        ("IVF100,Flat", "nprobe=1", 0.2, 0.9),  # a canary: an index that looks at little finds little
        ("IVF20,PQ8x4", "nprobe=20", 0.3, 0.98),
    ):
        dense = Dense(documents, model, index=index, parameters=parameters)
        run = dense.search(queries, 20)
        assert low <= recall(run, exact) <= high, index
        for query, scores in run.items():
            assert scores.items() <= everything[query].items()
            assert list(scores.items()) == rank(scores)
        dense.save(tmp_path / "index")
        assert Dense.open(tmp_path / "index", model).search(queries, 20) == run


def test_an_index_that_finds_too_few_gives_fewer() -> None:
    documents = {f"d{i}": f"{1 if i % 2 else -1} {1 + i / 1000}" for i in range(200)}
    run = Dense(documents, Vectors(), index="IVF2,Flat", parameters="nprobe=1").search({"q": "1 0"}, 150)  # type: ignore[arg-type]
    assert 50 <= len(run["q"]) < 150
    assert set(run["q"]) <= set(documents)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("built", ["saved", "folder"])
def test_an_index_is_the_same_from_its_folder(tmp_path: Path, dtype: str, built: str) -> None:
    documents, queries = clustered(300)
    model: Any = Vectors("cosine")
    dense = Dense(documents, model, dtype=dtype)
    if built == "saved":
        dense.save(tmp_path / "index")
    else:
        dense = Dense(documents, model, dtype=dtype, folder=tmp_path / "index")
    opened = Dense.open(tmp_path / "index", model)
    run = dense.search(queries, 10)
    assert opened.search(queries, 10) == run
    assert opened.rerank(queries, run) == run
    assert opened.settings == dense.settings
    assert len(opened) == 300
    assert isinstance(opened._embeddings, np.memmap)
    assert opened._embeddings.dtype == dtype
    exact = Dense(documents, model).search(queries, 10)
    assert recall(run, exact) > 0.99


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw", "IVF20,PQ8x4"])
def test_an_index_that_was_opened_can_be_saved(tmp_path: Path, index: str) -> None:
    """Elsewhere, and over itself: what is memory-mapped is in the new file, too."""
    documents, queries = clustered(800)
    model: Any = Vectors("cosine")
    first, copy = tmp_path / "first", tmp_path / "copy"
    Dense(documents, model, index=index).save(first)
    content = {path.name: path.read_bytes() for path in first.iterdir() if path.suffix != ".json"}
    opened = Dense.open(first, model)
    run = opened.search(queries, 10)
    opened.save(copy)
    opened.save(first)
    for folder in (first, copy):
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"} == content
        assert Dense.open(folder, model).search(queries, 10) == run
    assert opened.search(queries, 10) == run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "hsnw"}, "index must be 'flat', 'ivf', 'hnsw' or an index of faiss"),
        ({"index": "IVF4,PQ3"}, "index must be 'flat', 'ivf', 'hnsw' or an index of faiss"),
        ({"index": "ivf", "parameters": "efSearch=3"}, "got 'ivf' and 'efSearch=3'"),
        ({"parameters": "nprobe=3"}, "got 'flat' and 'nprobe=3'"),
    ],
)
def test_an_index_that_there_is_not_is_told_before_anything_is_embedded(
    options: dict[str, Any], message: str
) -> None:
    documents, _ = clustered(100)
    done: list[int] = []
    with pytest.raises(ValueError, match=message):
        Dense(documents, Vectors(), progress=lambda rows, of: done.append(rows), **options)  # type: ignore[arg-type]
    assert not done


def test_too_few_documents_to_train_an_index() -> None:
    documents, _ = clustered(100)
    with pytest.raises(ValueError, match=r"'IVF200,Flat' must be trained .* got 100; take a smaller one"):
        Dense(documents, Vectors(), index="IVF200,Flat")  # type: ignore[arg-type]


def test_the_similarity_is_that_of_the_model_unless_it_is_given() -> None:
    documents = {"long": "3 3", "near": "1 0.1"}
    best = {
        similarity: next(iter(Dense(documents, Vectors(own), similarity=similarity).search({"q": "1 0"})["q"]))  # type: ignore[arg-type]
        for own, similarity in (("dot", None), ("dot", "cosine"), ("cosine", "dot"))
    }
    assert best == {None: "long", "cosine": "near", "dot": "long"}
    with pytest.raises(ValueError, match="similarity must be one of 'cosine', 'dot'; got 'euclidean'"):
        Dense(documents, Vectors("euclidean"))  # type: ignore[arg-type]


class Interrupted(Exception):
    pass


def stop_after(number: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= number:
            raise Interrupted

    return progress


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_BLOCK", 10)
    documents, queries = clustered(55)
    folder, model = tmp_path / "index", Vectors("cosine")
    arguments: Any = (documents, model, 5)
    with pytest.raises(Interrupted):
        Dense(*arguments, stop_after(35), folder=folder)
    with pytest.raises(ValueError, match="must hold a whole index; got a folder without"):
        Dense.open(folder, model)  # type: ignore[arg-type]
    assert len(model.embedded) == 35
    model.embedded.clear()
    dense = Dense(*arguments, folder=folder)
    # The fourth block was not written, and the first document tells whether the model is the same.
    assert sorted(model.embedded) == sorted([*list(documents.values())[30:], next(iter(documents.values()))])
    assert dense.search(queries, 7) == Dense(*arguments).search(queries, 7)
    assert Dense.open(folder, model).search(queries, 7) == dense.search(queries, 7)  # type: ignore[arg-type]
    assert not (folder / "building.json").exists()
    with pytest.raises(ValueError, match=r"has a whole index already; open it with Dense\.open"):
        Dense(*arguments, folder=folder)


def test_a_build_that_was_interrupted_before_the_first_block_begins_anew(tmp_path: Path) -> None:
    documents, queries = clustered(45)
    folder, model = tmp_path / "index", Vectors("cosine")
    arguments: Any = (documents, model, 5)
    with pytest.raises(Interrupted):
        Dense(*arguments, stop_after(5), folder=folder)
    assert Dense(*arguments, folder=folder).search(queries) == Dense(*arguments).search(queries)


def test_a_block_that_was_written_by_half_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_BLOCK", 10)
    documents, queries = clustered(45)
    folder, model = tmp_path / "index", Vectors("cosine")
    arguments: Any = (documents, model, 5)
    with pytest.raises(Interrupted):
        Dense(*arguments, stop_after(15), folder=folder)
    with (folder / "embeddings.bin").open("ab") as file:
        file.write(b"\x01\x02\x03")
    assert Dense(*arguments, folder=folder).search(queries) == Dense(*arguments).search(queries)


@pytest.mark.parametrize("change", ["text", "order", "count", "model", "similarity", "dtype"])
def test_a_build_goes_on_only_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(embedding, "_BLOCK", 10)
    documents, _ = clustered(30)
    folder, model, options = tmp_path / "index", Vectors("cosine"), {}
    with pytest.raises(Interrupted):
        Dense(documents, model, 5, stop_after(25), folder=folder)  # type: ignore[arg-type]
    if change == "text":
        documents["d3"] = documents["d4"]
    elif change == "order":
        documents = {name: documents[name] for name in sorted(documents)}
    elif change == "count":
        documents["new"] = documents["d0"]
    elif change == "model":
        monkeypatch.setattr(model, "encode_document", lambda texts, **_: np.ones((len(texts), 16), dtype=np.float32))
    else:
        options = {change: {"similarity": "dot", "dtype": "float16"}[change]}
    with pytest.raises(ValueError, match=r"index: the index .*; build it in another folder, or delete this one"):
        Dense(documents, model, 5, folder=folder, **options)  # type: ignore[arg-type]


def test_another_model_is_refused(tmp_path: Path) -> None:
    Dense({"a": "1 2", "b": "2 1"}, Vectors(), folder=tmp_path / "index")  # type: ignore[arg-type]

    class Other(Vectors):
        def encode_query(self, texts: list[str], **options: Any) -> np.ndarray:
            return super().encode_query(texts, **options)[:, ::-1]

    class Shorter(Vectors):
        def encode_query(self, texts: list[str], **options: Any) -> np.ndarray:
            return super().encode_query(texts, **options)[:, :1]

    for model in (Other(), Shorter()):
        with pytest.raises(ValueError, match="built with another model: it embeds the text '1 2' differently"):
            Dense.open(tmp_path / "index", model)  # type: ignore[arg-type]


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="embeddings must fit into float16; got 70000; use dtype='float32'"):
        Dense({"a": "70000 1"}, Vectors(), dtype="float16")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "tree"}, "index must be 'flat', 'ivf', 'hnsw' or an index of faiss .*got 'tree' and None"),
        ({"index": "ivf", "parameters": "efSearch=3"}, "got 'ivf' and 'efSearch=3'; faiss says: .*efSearch"),
        ({"dtype": "int8"}, "dtype must be one of 'float32', 'float16'; got 'int8'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dense({"a": "1 2"}, Vectors(), **options)  # type: ignore[arg-type]


def test_a_folder_of_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "photo").touch()
    with pytest.raises(ValueError, match=r"needs a folder of its own; got .*, which holds something else"):
        Dense({"a": "1 2"}, Vectors(), folder=tmp_path)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["photo"]


def test_a_folder_in_which_another_process_builds_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match="index: another process is writing this folder")
    with sole_writer(tmp_path / "index"), refused:
        Dense({"a": "1 2"}, Vectors(), folder=tmp_path / "index")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_manifest_says_how_it_was_built(tmp_path: Path) -> None:
    Dense({"a": "3 4"}, Vectors(), folder=tmp_path / "index", seed=7)  # type: ignore[arg-type]
    content = json.loads((tmp_path / "index" / "first_stage.json").read_text())
    assert content["kind"] == "dense"
    assert content["settings"] == {
        "index": "flat",
        "parameters": None,
        "dtype": "float32",
        "similarity": "dot",
        "seed": 7,
        "dimensions": 2,
        "longest": 5.0,
        "first": "3 4",
    }


def test_a_gpu_is_used_where_faiss_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    used: list[str] = []

    def knn_gpu(resources: object, queries: np.ndarray, part: np.ndarray, k: int, metric: int) -> Any:
        used.append("knn")
        return faiss.knn(queries, part, k, metric=metric)

    def to_gpus(index: Any) -> Any:
        used.append(type(index).__name__)
        if "HNSW" in type(index).__name__:
            raise RuntimeError("not implemented")
        return index

    documents, queries = clustered(3000)
    model: Any = Vectors("cosine")
    flat, ivf = (Dense(documents, model, index=index).search(queries, 10) for index in ("flat", "ivf"))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus, raising=False)
    dense = Dense(documents, model)
    assert dense.search(queries, 10) == flat
    assert used == ["knn"]
    assert len(dense.search(queries, 2500)["q0"]) == 2500  # more than faiss finds on a GPU
    assert used == ["knn"]
    assert Dense(documents, model, index="ivf").search(queries, 10) == ivf
    Dense(documents, model, index="hnsw").search(queries, 10)
    assert used == ["knn", "IndexIVFFlat", "IndexHNSWFlat"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"cmp-rerank\[retrieval\]"):
        Dense({"a": "1 2"}, Vectors())  # type: ignore[arg-type]
