"""The store gives back what was put in, and is never half written."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cmp_rerank.ablations import Example
from cmp_rerank.training.token_store import TokenStore


def example(n: int, seed: int = 7) -> Example:
    features = {"input_ids": np.arange(n) * 1000, "token_type_ids": np.zeros(n, dtype=np.int64)}
    return Example(features, np.arange(n) - 1, frozenset({1}), seed, {"modality": "text"})


def test_round_trip(tmp_path: Path) -> None:
    keys = [2**64 - 1, 5, 17]
    rows = [([(keys[0], example(3)), (keys[1], example(40))], 43), ([(keys[2], example(200))], 200)]
    again = [([(keys[1], example(40))], 40)]
    store = TokenStore.write(tmp_path / "a" / "store", {"x": rows, "y": again}, lambda: {"note": 1})
    for opened in (store, TokenStore(store.folder), pickle.loads(pickle.dumps(store))):
        assert len(opened) == 3
        assert opened.meta["note"] == 1
        assert opened.lengths("x").tolist() == [43, 200]
        assert opened.lengths("y").tolist() == [40]
        assert opened.get(6) is None
        for key, n in zip(keys, (3, 40, 200), strict=True):
            found = opened.get(key)
            assert found is not None
            assert found.features["input_ids"].tolist() == (np.arange(n) * 1000).tolist()
            assert found.segment.tolist() == (np.arange(n) - 1).tolist()
            assert (found.support, found.seed, found.shared) == (frozenset({1}), 0, {"modality": "text"})
    assert len(pickle.dumps(store)) < 1000  # a worker opens the files, they are not sent to it


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield [(1, example(3))], 3
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        TokenStore.write(tmp_path / "store", {"x": broken()})
    assert list(tmp_path.iterdir()) == []


def test_two_may_write_to_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes, on two machines perhaps, the second finds what the first has written."""
    monkeypatch.setattr("os.getpid", lambda: 7)

    def rows():  # type: ignore[no-untyped-def]
        yield [(1, example(3))], 3
        TokenStore.write(tmp_path / "store", {"x": [([(1, example(3))], 3)]})  # the other one, meanwhile
        monkeypatch.setattr("shutil.rmtree", lambda *args, **kwargs: None)  # and it is there when this one renames
        yield [(2, example(4))], 4

    store = TokenStore.write(tmp_path / "store", {"x": rows()})
    assert store.get(1) is not None
    assert len(store) == 1


def test_empty(tmp_path: Path) -> None:
    store = TokenStore.write(tmp_path / "store", {"x": []})
    assert len(store) == 0
    assert store.get(1) is None
