"""What the package has made for itself and finds damaged is made again: never an error, never another value."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from damage import cut, damage_in_place, damaged, flip, insert, zero
from pipeline_data import CORPUS, QUERIES
from vectors import Vectors

from cmp_rerank.collections import TextStore, open_texts
from cmp_rerank.collections.docstrings.build import docstring_collection
from cmp_rerank.collections.store import DamagedStore
from cmp_rerank.ir import embedding, file_marks, write_corpus
from cmp_rerank.ir.file_marks import mark_of
from cmp_rerank.ir.first_stages import first_stage
from cmp_rerank.ir.index_folder import is_index

FEW, MANY = 40, 400


#: Each way to read texts.
WAYS: list[Callable[[TextStore], object]] = [
    lambda texts: texts.known([*CORPUS, "other"]),
    lambda texts: "other" in texts,
    lambda texts: texts.get_many(reversed(CORPUS)),
    lambda texts: dict(texts.items()),
    list,
    lambda texts: [texts.get(name) for name in ("other", *CORPUS)],
    len,
    lambda texts: list(texts.ids),
]


def everything(texts: object, chance: Random | None = None) -> list[object]:
    """What each way to read texts gives; they are tried in this order, or in one that is drawn."""
    assert isinstance(texts, TextStore)
    order = list(range(len(WAYS)))
    if chance is not None:
        chance.shuffle(order)
    found = {way: WAYS[way](texts) for way in order}
    return [found[way] for way in range(len(WAYS))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of texts."""
    path = tmp_path_factory.mktemp("texts") / "corpus.jsonl"
    write_corpus(path, CORPUS)
    return path


def stores(corpus: Path, folder: Path, seeds: range) -> None:
    """Damage a store, some times before and some times after it is opened, and read all of it in several orders."""
    expected = everything(open_texts(corpus, cache_dir=folder, large=0))
    (store,) = folder.iterdir()
    whole = folder.parent / "whole"
    shutil.copytree(store, whole)
    for seed in seeds:
        shutil.rmtree(store)
        shutil.copytree(whole, store)
        chance = Random(f"store {seed}")
        if seed % 2:
            found = open_texts(corpus, cache_dir=folder, large=0)
            file = chance.choice(sorted(store.iterdir()))
            with file.open("r+b") as opened:  # of the same size, or what is mapped would end the process
                opened.write(flip(file.read_bytes(), chance))
        else:
            damage_in_place(store, f"store {seed}")
            found = open_texts(corpus, cache_dir=folder, large=0)
        assert everything(found, chance) == expected, seed
        assert everything(open_texts(corpus, cache_dir=folder, large=0)) == expected, seed
        assert [path.name for path in folder.iterdir()] == [store.name]


def test_damaged_stores_of_texts(corpus: Path, tmp_path: Path) -> None:
    stores(corpus, tmp_path / "cache", range(FEW))


@pytest.mark.slow
def test_many_damaged_stores_of_texts(corpus: Path, tmp_path: Path) -> None:
    stores(corpus, tmp_path / "cache", range(FEW, FEW + MANY))


@pytest.mark.parametrize(
    "name", ["texts.bin", "ids.bin", "texts_ends.npy", "hashes.npy", "rows.npy", "checksums.npy"]
)
def test_each_byte_of_a_store_is_guarded(
    name: str, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bit, at each of some places of the content, in turn: a warning, and the right texts."""
    expected = everything(open_texts(corpus, cache_dir=tmp_path, large=0))
    (store,) = tmp_path.iterdir()
    raw = (store / name).read_bytes()
    head = 128 if name.endswith(".npy") else 0
    for place in np.linspace(head, len(raw) - 1, 12).astype(int).tolist():
        changed = bytearray(raw)
        changed[place] ^= 4
        (store / name).write_bytes(changed)
        caplog.clear()
        assert everything(open_texts(corpus, cache_dir=tmp_path, large=0)) == expected, place
        assert "this is done now" in caplog.text, place


def test_a_store_without_its_source_says_so(corpus: Path, tmp_path: Path) -> None:
    open_texts(corpus, cache_dir=tmp_path, large=0)
    (store,) = tmp_path.iterdir()
    raw = (store / "texts.bin").read_bytes()
    (store / "texts.bin").write_bytes(raw.swapcase())
    with pytest.raises(
        DamagedStore, match=rf"{store.name}: .* damaged \(the checksum of text 0 differs\); remove it"
    ):
        dict(TextStore(store))


def test_a_damaged_docstring_collection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """gzip has a checksum: what unpacks is what was written."""

    def texts() -> dict[str, str]:
        return dict(docstring_collection(("json",), cache_dir=tmp_path).corpus)

    expected = texts()
    (cache,) = tmp_path.iterdir()
    whole = cache.read_bytes()
    bad = [gzip.compress(content) for content in (b"[]", b"{}", b"[1]", b"null", b"[[]]")]
    bad += [damage(whole, Random(seed)) for seed in range(3) for damage in (flip, cut, insert, zero)]
    for content in bad:
        cache.write_bytes(content)
        caplog.clear()
        assert texts() == expected
        assert "it is built again now" in caplog.text or content[:10] != whole[:10] or content == whole
    assert cache.read_bytes() == whole


DENSE = {f"d{i}": f"{i % 7} {i % 5} {i}" for i in range(30)}
FOUND: dict[str, Callable[[Path], object]] = {
    "bm25": lambda folder: first_stage("bm25", CORPUS, folder=folder).search(QUERIES, 5),
    "dense": lambda folder: first_stage("dense", DENSE, model=Vectors(), folder=folder).search({"q": "1 2 0"}, 5),
    "sparse": lambda folder: first_stage("sparse", DENSE, model=Vectors(), folder=folder).search({"q": "1 2 0"}, 5),
}


def indexes(kind: str, folder: Path, seeds: range) -> None:
    """Damage an index, open it, and search. Without its manifest a folder is no index, and nothing is replaced."""
    index, whole = folder / "index", folder / "whole"
    expected = FOUND[kind](index)
    shutil.copytree(index, whole)
    for seed in seeds:
        shutil.rmtree(index)
        shutil.copytree(whole, index)
        damage_in_place(index, f"index {seed}")
        if is_index(index):
            assert FOUND[kind](index) == expected, seed
            assert FOUND[kind](index) == expected, seed
        else:
            with pytest.raises(ValueError, match="holds something else"):
                FOUND[kind](index)


@pytest.mark.parametrize("kind", FOUND)
def test_damaged_indexes(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    indexes(kind, tmp_path, range(FEW))
    assert "damaged; build the index again; this is done now" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOUND)
def test_many_damaged_indexes(kind: str, tmp_path: Path) -> None:
    indexes(kind, tmp_path, range(FEW, FEW + MANY))


def test_a_large_file_is_known_by_pieces_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut, or partly zero; a single bit between the pieces is the price of opening at once."""
    monkeypatch.setattr(file_marks, "LARGE", 1 << 20)
    monkeypatch.setattr(file_marks, "_PIECE", 1 << 10)
    raw = Random(0).randbytes(1 << 22)
    path = tmp_path / "file"

    def mark(content: bytes) -> list[int]:
        path.write_bytes(content)
        return mark_of(path)

    known = mark(raw)
    assert mark(raw) == known
    assert mark(raw[:-1]) != known
    assert mark(raw[:-1] + b"x") != known
    assert mark(b"x" + raw[1:]) != known
    assert mark(raw[: 1 << 21] + bytes(1 << 16) + raw[(1 << 21) + (1 << 16) :]) != known


def test_a_damaged_part_of_a_dense_index_is_begun_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was embedded before an interruption is gone on with only where it is what was written."""

    def stops(done: int, _: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    expected = FOUND["dense"](tmp_path / "other")
    for seed in range(FEW):
        index = tmp_path / str(seed)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(embedding, "_BLOCK", 10)
            with pytest.raises(KeyboardInterrupt):
                first_stage("dense", DENSE, model=Vectors(), folder=index, progress=stops)
            # Without the note how far it is, a folder is not known as an index.
            file = index / ("embeddings.bin" if seed % 2 else "building.json")
            file.write_bytes(damaged(file.read_bytes(), f"part {seed}"))
            assert FOUND["dense"](index) == expected, seed
    # Some damage is behind what counts, or is only other white space.
    assert caplog.text.count("it is begun again") > FEW / 2
