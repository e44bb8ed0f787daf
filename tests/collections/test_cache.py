"""A cache that cannot be written, and names that would leave a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmp_rerank.collections import open_texts
from cmp_rerank.collections.docstrings import build
from cmp_rerank.collections.writing import write_beir
from cmp_rerank.evaluation import RunEvaluator
from cmp_rerank.ir import write_corpus
from cmp_rerank.ir.lines import check_place


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder below a file, which nobody can make; permissions would not stop the user root."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_texts_are_read_all_the_same(tmp_path: Path, unwritable: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, {"d1": "one", "d2": "two"})
    with pytest.warns(UserWarning, match=r"file/cache: the cache cannot be written \(Not a directory\)"):
        texts = open_texts(path, cache_dir=unwritable, large=0)
    assert dict(texts) == {"d1": "one", "d2": "two"}
    assert not isinstance(texts, dict)  # canary: it is a store, in another place


def test_docstrings_are_built_all_the_same(unwritable: Path) -> None:
    assert build._read_cache(unwritable / "rows.json.gz") is None
    with pytest.warns(UserWarning, match="file/cache: the cache cannot be written"):
        build._write_cache(unwritable / "rows.json.gz", [("name", "owner", "query", "document")])


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\\\\b", "/etc/x"])
def test_names_do_not_leave_their_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "collection"
    with pytest.raises(ValueError, match="the split of a collection is the name of a file, and must have no slash"):
        write_beir(folder, {"d": "text"}, {"q": "text"}, {name: {"q": {"d": 1}}})
    with pytest.raises(ValueError, match="the name of an evaluator is the name of a file"):
        RunEvaluator({"q": "text"}, {"d": "text"}, {"q": {"d": 1.0}}, {"q": {"d": 1}}, name=name)
    assert not list(tmp_path.rglob("*.*"))


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_place("-")
    check_place(tmp_path / "new")
    check_place(tmp_path / "a" / "b" / "c", folder=True, parents=True)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="no permission to write new here"):
        check_place(tmp_path / "new")
