"""The store of texts against a dictionary; building it leaves nothing half-done; large files are read once."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmp_rerank.collections import TextStore, open_texts
from cmp_rerank.collections import store as module
from cmp_rerank.ir import write_corpus
from cmp_rerank.ir.abandoned import UNFINISHED, locked

# All of Unicode, with halves of surrogate pairs, which JSON files may hold.
ANY = st.text(st.characters(), max_size=6)
TEXTS = st.dictionaries(ANY, ANY, min_size=1, max_size=12)


def build(folder: Path, texts: dict[str, str]) -> TextStore:
    return TextStore.build(
        folder, lambda: ((line, name, text) for line, (name, text) in enumerate(texts.items(), 1)), "source"
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(texts=TEXTS, others=st.lists(ANY, max_size=5))
def test_it_is_the_dictionary(tmp_path: Path, texts: dict[str, str], others: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "s"
    for store in (build(folder, texts), TextStore(folder), pickle.loads(pickle.dumps(TextStore(folder)))):
        assert len(store) == len(texts)
        assert list(store) == list(texts)
        assert list(store.items()) == list(texts.items())
        assert list(store.values()) == list(texts.values())
        assert list(store.ids) == list(texts)
        assert [store.ids[i] for i in (0, -1)] == [next(iter(texts)), next(reversed(texts))]
        assert store.get_many(texts) == list(texts.values())
        assert [store.get(name) for name in others] == [texts.get(name) for name in others]
        assert store.known(others) == [name in texts for name in others]
        assert [name in store for name in others] == [name in texts for name in others]
        assert store == texts
        assert store == TextStore(folder)


def test_what_is_not_there_is_a_key_error(tmp_path: Path) -> None:
    store = build(tmp_path / "s", {"a": "x", "1": "y"})
    for name in ("b", "", 1, None):
        assert name not in store
        with pytest.raises(KeyError):
            store[name]  # type: ignore[index]
    with pytest.raises(KeyError, match="b"):
        store.get_many(["a", "b"])
    with pytest.raises(IndexError):
        store.ids[2]
    assert store != {"a": "x"}


def test_only_empty_texts(tmp_path: Path) -> None:
    build(tmp_path / "s", {"a": "", "b": ""})
    assert dict(TextStore(tmp_path / "s")) == {"a": "", "b": ""}


def test_an_id_that_comes_twice_is_found_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_text("d1\tx\n\nd2\ty\nd1\tz\nd2\tw\n")
    with pytest.raises(ValueError, match=r"c.tsv, line 4: the id 'd1' occurs twice; it was in line 1 before"):
        open_texts(path, cache_dir=tmp_path / "cache", large=0)
    with pytest.raises(ValueError, match=r"c.tsv, line 4: the id 'd1' occurs twice"):
        open_texts(path)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"d1\tx\nd2 y\n", "line 2: no tab in b'd2 y'"),
        (b"d1\tx\nd2\t\xff\n", "line 2: not UTF-8"),
        (b"", "there is no text in it"),
    ],
)
def test_damaged_files_are_errors_and_leave_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.tsv"
    path.write_bytes(content)
    for large in (0, 1000):
        with pytest.raises(ValueError, match=message):
            open_texts(path, cache_dir=tmp_path / "cache", large=large if content else 1000)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.tsv", "c.tsv.gz"])
def test_small_and_large_files_give_the_same(tmp_path: Path, name: str) -> None:
    texts = {f"d{i}": f"text {i} é" for i in range(200)}
    write_corpus(tmp_path / name, texts)
    small, large = open_texts(tmp_path / name), open_texts(tmp_path / name, cache_dir=tmp_path / "cache", large=0)
    assert isinstance(small, dict)
    assert isinstance(large, TextStore)
    assert large == small == texts


def test_titles_go_before_texts_or_not(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    records = [
        {"_id": "1", "title": "T", "text": "x"},
        {"_id": "2", "title": "", "text": "y"},
        {"id": 3, "contents": "z"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for large in (0, 10_000):
        for titles, first in ((True, "T x"), (False, "x")):
            found = open_texts(path, titles=titles, cache_dir=tmp_path / "cache", large=large)
            assert dict(found) == {"1": first, "2": "y", "3": "z"}


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "c.tsv", tmp_path / "cache"
    path.write_text("d1\tone\n")
    assert open_texts(path, cache_dir=cache, large=0)["d1"] == "one"
    with monkeypatch.context() as patched:
        patched.setattr("cmp_rerank.collections.files.numbered_texts", lambda *a, **o: pytest.fail("read again"))
        assert open_texts(path, cache_dir=cache, large=0)["d1"] == "one"
    path.write_text("d1\ttwo\n")  # as many bytes
    os.utime(path, ns=(1, 1))
    assert open_texts(path, cache_dir=cache, large=0)["d1"] == "two"
    assert len(list(cache.iterdir())) == 2


def test_a_change_in_the_middle_of_a_large_file_is_seen(tmp_path: Path) -> None:
    """Its size is the same, and so are its first and last 64 KB: the time tells."""
    path, padding = tmp_path / "c.tsv", "".join(f"p{i}\t{'x' * 1000}\n" for i in range(100))
    for time, text in ((1, "one"), (2, "two")):
        path.write_text(f"{padding}d1\t{text}\n{padding.replace('p', 'q')}")
        os.utime(path, ns=(time, time))
        assert open_texts(path, cache_dir=tmp_path / "cache", large=0)["d1"] == text


def test_an_interrupted_build_leaves_nothing_and_the_next_one_completes(tmp_path: Path) -> None:
    def stops() -> Iterator[tuple[int, str, str]]:
        yield 1, "a", "x"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TextStore.build(tmp_path / "s", stops, "source")
    assert list(tmp_path.iterdir()) == []
    assert build(tmp_path / "s", {"a": "x"})["a"] == "x"


def test_what_a_killed_builder_left_is_removed_and_what_another_one_writes_is_not(tmp_path: Path) -> None:
    killed, working, other = (tmp_path / f".{name}{UNFINISHED}" for name in ("s.killed", "s.working", "other.killed"))
    for left in (killed, working, other):
        left.mkdir()
        (left / "texts.bin").write_bytes(b"half of")
        os.utime(left, (0, 0))
    with locked(working):
        build(tmp_path / "s", {"a": "x"})
    assert set(tmp_path.iterdir()) == {tmp_path / "s", working, other}


def test_two_builders_do_not_disturb_each_other(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[tuple[int, str, str]]:
        if not (tmp_path / "s").exists():
            build(tmp_path / "s", {"a": "x"})
        yield 1, "a", "x"

    assert dict(TextStore.build(tmp_path / "s", meanwhile, "source")) == {"a": "x"}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("damage", ["about.json", "texts.bin", "hashes.npy", "ids_ends.npy", "version"])
def test_a_damaged_store_says_what_to_do(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "s", {"a": "xyz", "b": "y"})
    if damage == "version":
        monkeypatch.setattr(module, "VERSION", 99)
    else:
        path = tmp_path / "s" / damage
        path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"s: not a store of texts, or damaged \(.*\); remove it"):
        TextStore(tmp_path / "s")


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    """Ids are found by a hash that does not change between processes, as that of Python does."""
    texts = {f"MARCO_{i}": str(i) for i in range(300)}
    build(tmp_path / "s", texts)
    code = (
        "from cmp_rerank.collections import TextStore;"
        f"s = TextStore({str(tmp_path / 's')!r});"
        "print(all(s[f'MARCO_{i}'] == str(i) for i in range(300)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "True\n"


def test_a_large_store_is_not_held_in_memory(tmp_path: Path) -> None:
    """Private memory while 64 MB of texts are read: far less than their size. A list of them is the canary."""
    (tmp_path / "c.tsv").write_text("".join(f"d{i}\t{'word ' * 1600}{i}\n" for i in range(8000)))
    code = f"""
import re, sys
from cmp_rerank.collections import open_texts

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

store = open_texts({str(tmp_path / "c.tsv")!r}, cache_dir={str(tmp_path / "cache")!r}, large=0)
before = private()
most = 0
for name, text in store.items():
    most = max(most, len(text))
assert store["d7999"].endswith(" 7999")
reading = private() - before
kept = list(store.values())
print(reading, private() - before, most)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("private memory is read from /proc, which this system does not have")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reading, holding, most = map(float, done.stdout.split())
    assert most > 8000
    assert reading < 8
    assert holding > 50


def test_gzip_that_ends_early_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"d%d\tsome text %d\n" % (i, i * i) for i in range(1000)))
    (tmp_path / "c.tsv.gz").write_bytes(whole[:-200])
    with pytest.raises(ValueError, match="the gzip file is damaged"):
        open_texts(tmp_path / "c.tsv.gz", cache_dir=tmp_path / "cache", large=0)
