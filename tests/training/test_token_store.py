"""The store gives back what was put in, is never half written, and stands several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.ablations import Example
from cmp_rerank.training import token_part
from cmp_rerank.training.token_part import TokenisedRow, TokenPart, write_part
from cmp_rerank.training.token_store import Place, TokenIndex, TokenStore


def example(n: int, **changed: Any) -> Example:
    features = {"input_ids": np.arange(n) * 1000, "token_type_ids": np.zeros(n, dtype=np.int64)}
    return replace(Example(features, np.arange(n) - 1, frozenset({1}), 7, {"modality": "text"}), **changed)


def same(one: Example, other: Example) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return a is b is None or np.array_equal(a, b)

    return (
        list(one.features) == list(other.features)
        and all(equal(one.features[name], other.features[name]) for name in one.features)
        and equal(one.segment, other.segment)
        and equal(one.until, other.until)
        and (one.support, one.shared, one.croppable, one.notes)
        == (other.support, other.shared, other.croppable, other.notes)
    )


EXAMPLES = st.builds(
    lambda n, ids, until, support, shared, croppable, notes, extra: Example(
        {"input_ids": np.full(n, ids)} | ({"weights": np.linspace(0, 1, n)} if extra else {}),
        np.arange(n) - 1,
        frozenset(support),
        0,
        shared,
        np.arange(n) + 1 if until else None,
        croppable,
        notes,
    ),
    n=st.integers(0, 9),
    ids=st.sampled_from([0, 127, 128, -129, 2**15, 2**31, 2**40]),
    until=st.booleans(),
    support=st.sets(st.integers(0, 2000), max_size=3),
    shared=st.sampled_from([{}, {"modality": "text"}, {"modality": "message", "n": 1}]),
    croppable=st.booleans(),
    notes=st.sampled_from([{}, {"a": [1, 2.5, None, "ü"]}, {"b": {"c": True}}]),
    extra=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(EXAMPLES, max_size=3), min_size=1, max_size=5))
def test_round_trip(rows: list[list[Example]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("part") / "part"
    numbers = [3 * i + 1 for i in range(len(rows))]
    write_part(path, [TokenisedRow(*each) for each in zip(numbers, rows, strict=True)], {"note": [1, {"x": "y"}]})
    part = TokenPart(path)
    assert part.rows.tolist() == numbers
    assert part.lengths.tolist() == [sum(map(len, row)) for row in rows]
    assert part.meta == {"note": [1, {"x": "y"}]}
    for at, row in enumerate(rows):
        found = part.examples(at)
        assert len(found) == len(row)
        assert all(same(a, b) for a, b in zip(found, row, strict=True))


def test_whole_numbers_take_few_bytes(tmp_path: Path) -> None:
    write_part(tmp_path / "part", [TokenisedRow(i, [example(100)]) for i in range(100)], {})
    assert (tmp_path / "part").stat().st_size < 100 * 100 * (4 + 1 + 1) * 1.2  # ids up to 99,000, types, segments


@pytest.mark.parametrize("segments", [127, 128, 129])
def test_what_comes_back_can_be_computed_with_as_before(segments: int, tmp_path: Path) -> None:
    """In one byte, the number after 127 would be -128: the last segment would be lost, and counting them fail."""
    given = example(segments, segment=np.arange(segments), until=np.arange(segments))
    write_part(tmp_path / "part", [TokenisedRow(0, [given])], {})
    (found,) = TokenPart(tmp_path / "part").examples(0)
    assert found.segments() == given.segments() == list(range(segments))
    assert found.keeping([0, segments - 1]).tolist() == [0, segments - 1]
    # As an ablation that puts other tokens in place of those that are there.
    found.features["token_type_ids"][0] = 50_264


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"notes": {"x": object()}}, "must be what JSON has"),
        ({"notes": {"x": (1, 2)}}, "must be what JSON has"),  # it would come back as a list
        ({"shared": {1: "x"}}, "must be what JSON has"),
        ({"features": {"input_ids": np.array(["a", "b"], dtype=object)}}, "features must be numbers"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(bad: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        TokenStore(tmp_path).write([TokenisedRow(0, [example(2, **bad)])], {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_part.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        TokenStore(tmp_path).write([TokenisedRow(0, [example(2)])], {})
    assert list(tmp_path.iterdir()) == []


def test_rows_are_found_by_their_numbers(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    name = store.write([TokenisedRow(5, [example(3)]), TokenisedRow(2, [example(4), example(6)])], {"n": 1})
    store.write([TokenisedRow(7, [example(9)]), TokenisedRow(2, [example(1)])], {"n": 2})  # 2 at the same time
    assert store.has(np.array([5, 2])) == name
    assert store.has(np.array([2, 5])) == ""
    index = TokenIndex(store, 8)
    assert sorted(part.meta["n"] for part in index.refresh()) == [1, 2]
    assert index.refresh() == []
    assert index.missing(np.arange(8)).tolist() == [0, 1, 3, 4, 6]
    assert index.lengths(np.array([5, 7, 0])).tolist() == [3, 9, -1]
    assert index.place(0) == Place(0)
    assert store.examples(Place(0)) is None
    for opened in (store, pickle.loads(pickle.dumps(store))):  # as a worker gets it
        assert sum(map(len, opened.examples(index.place(7)) or [])) == 9
        assert sum(map(len, opened.examples(index.place(2)) or [])) == index.lengths(np.array([2]))[0]
    assert len(pickle.dumps(store)) < 1000


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_part_is_removed_with_a_warning(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever byte is another, and wherever the file ends: it is noticed, or makes no difference."""
    folder = tmp_path_factory.mktemp("store")
    store = TokenStore(folder)
    name = store.write([TokenisedRow(i, [example(i + 1)]) for i in range(4)], {})
    content = bytearray((folder / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    (folder / name).write_bytes(bytes(content))
    fresh = TokenStore(folder)
    index = TokenIndex(fresh, 4)
    index.refresh()
    missing = index.missing(np.arange(4)).tolist()
    if missing:
        assert missing == [0, 1, 2, 3]
        assert not (folder / name).exists()
    else:  # a byte of the header that says nothing: a space, the spelling of JSON
        for row in range(4):
            (found,) = fresh.examples(index.place(row)) or []
            assert same(found, example(row + 1))


def test_it_cannot_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    store = TokenStore(tmp_path)
    name = store.write([TokenisedRow(0, [example(2)])], {})
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    assert TokenIndex(TokenStore(tmp_path), 1).refresh() == []
    assert not (tmp_path / "exploded").exists()


def test_what_is_open_stays_readable_when_it_is_written_again_or_removed(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    rows = [TokenisedRow(0, [example(50)])]
    name = store.write(rows, {})
    index = TokenIndex(store, 1)
    index.refresh()
    TokenStore(tmp_path).write(rows, {})
    (tmp_path / name).unlink()
    (found,) = store.examples(index.place(0)) or []
    assert same(found, example(50))
    assert TokenStore(tmp_path).examples(index.place(0)) is None  # who comes later tokenises it again


def _write_and_read(folder: Path, seed: int, failures: Any) -> None:
    """Write parts in an order of its own, and read what all others have written."""
    try:
        rng = np.random.default_rng(seed)
        store = TokenStore(folder)
        index = TokenIndex(store, 40)
        for start in rng.permutation(10) * 4:
            index.refresh()
            rows = index.missing(np.arange(start, start + 4))
            if len(rows) and not store.has(rows):
                store.write([TokenisedRow(int(row), [example(int(row) + 1)]) for row in rows], {})
            for row in np.setdiff1d(np.arange(40), index.missing(np.arange(40))):
                (found,) = store.examples(index.place(int(row))) or []
                assert len(found) == row + 1
        index.refresh()
        assert len(index.missing(np.arange(40))) == 0
    except BaseException as error:
        failures.put(f"{type(error).__name__}: {error}")
        raise


def test_several_processes_fill_and_read_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        failures = context.SimpleQueue()
        processes = [context.Process(target=_write_and_read, args=(folder, seed, failures)) for seed in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4, failures.get()
        assert not list(folder.glob(".*"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Parts are mapped, not held: 400 of them, of 18 MB, cost the memory of their index."""

    def anonymous() -> float:
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
        return float(line.split()[1]) / 1024

    store = TokenStore(tmp_path)
    index = TokenIndex(store, 40_000)
    pair = example(300)

    def fill(start: int, end: int) -> None:
        for first in range(start, end, 100):
            index.add(store.write([TokenisedRow(row, [pair]) for row in range(first, first + 100)], {}))
            assert len((store.examples(index.place(first)) or [])[0]) == 300

    fill(0, 4_000)
    before = anonymous()
    fill(4_000, 40_000)
    assert len(list(Path("/proc/self/fd").iterdir())) < 100  # mapped, and not kept open
    size = sum(path.stat().st_size for path in tmp_path.iterdir()) / 2**20
    assert size > 18
    assert anonymous() - before < 0.5 * size
