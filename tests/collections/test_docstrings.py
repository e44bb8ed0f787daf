"""The docstring collection: what is in it, what is kept out, and that it is the same every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmp_rerank.collections import Collection, load
from cmp_rerank.collections.docstrings import build as builder
from cmp_rerank.collections.docstrings.build import docstring_collection
from cmp_rerank.collections.docstrings.cleaning import known_item, plain_text, template
from cmp_rerank.collections.docstrings.sources import package_docstrings
from cmp_rerank.text.near_duplicates import near_duplicates
from cmp_rerank.text.terms import terms

FILLER = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
]


def prose(topic: str, count: int = 70) -> str:
    """Text that shares no three words in a row with that of another topic."""
    return "On " + " ".join(f"{topic}{FILLER[i % len(FILLER)]} {i * 7 % 31}" for i in range(count // 2)) + "."


def write_package(root: Path, name: str, files: dict[str, str]) -> None:
    folder = root / name
    for path, source in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source, encoding="utf-8")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported (it would raise), with one docstring of each kind."""
    near_copy = prose("shared").replace("sharedalpha", "changed", 1)
    write_package(
        tmp_path,
        "fakepkg",
        {
            "__init__.py": 'raise RuntimeError("this package must not be imported")\n',
            "one.py": f'''
from fakepkg.two import reexported

def first(x):
    """Sorts every row of a table quickly. {prose("sorting")}"""

def original():
    """Copies one thing into another thing. {prose("shared")}"""

def near_copy():
    """Makes a replica of some given object. {near_copy}"""

def short():
    """Is too short to be searched for. Really."""

def repeats():
    """Draws a circle around the origin point. {prose("circle")} It draws a circle around the origin point."""

class Tree:
    """Holds values in a balanced search tree. {prose("tree")}"""

    def insert(self):
        """Puts one more value into it somewhere. {prose("insert")}"""

    def tree_helper(self):
        def inner():
            """Never found because it is hidden inside. {prose("inner")}"""
''',
            "two.py": f'''
def reexported():
    """Opens a door to the next room. {prose("door")}"""

def make_alpha_widget():
    """Construct an AlphaWidget from its two settings. {prose("alphawidget")}"""

def make_beta_widget():
    """Construct an BetaWidget from its two settings. {prose("betawidget")}"""
''',
            "newdocs.py": f'''
add_newdoc("fakepkg.core", "compiled", """
    compiled(x, out=None)

    Adds what it is given in C. {prose("compiled")}
    """)
add_newdoc("fakepkg.core", "Array", ("resize", """
    Changes the number of rows in place. """ + """{prose("resize")}"""))
twice = _add_docstr(_fft.fft, r"""
fft(input, n=None) -> Tensor

Transforms a signal into its own frequencies. {{input}} {prose("fft")}
""".format(**common))
''',
            "broken.py": 'def f(:\n    """Cannot be parsed by any Python version. """\n',
            "tests/test_one.py": f'def hidden():\n    """Stands in a test and nobody searches. {prose("tests")}"""\n',
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def build(fake: Path, **options: object) -> Collection:
    return docstring_collection(["fakepkg"], cache_dir=fake / "cache", **options)  # type: ignore[arg-type]


def content(collection: Collection) -> list[Any]:
    """All that a collection holds."""
    parts = [(collection.queries(split), collection.qrels(split)) for split in collection.splits]
    return [collection.name, dict(collection.corpus), collection.splits, parts, collection.metadata]


def test_what_is_kept_and_what_is_left_out(fake: Path) -> None:
    collection = build(fake)
    assert set(collection.corpus) == {
        "fakepkg.one.first",
        "fakepkg.one.original",
        "fakepkg.one.Tree",
        "fakepkg.one.Tree.insert",
        "fakepkg.two.reexported",
        "fakepkg.two.make_alpha_widget",
        "fakepkg.newdocs.compiled",
        "fakepkg.newdocs.Array.resize",
        "fakepkg.newdocs.fft",
    }
    assert collection.queries()["q:fakepkg.one.first"] == "Sorts every row of a table quickly."
    assert collection.corpus["fakepkg.one.first"] == prose("sorting")
    assert collection.queries()["q:fakepkg.newdocs.compiled"] == "Adds what it is given in C."
    assert collection.queries()["q:fakepkg.newdocs.fft"] == "Transforms a signal into its own frequencies."
    assert collection.corpus["fakepkg.newdocs.fft"] == prose("fft"), "the placeholder is gone"


def test_the_planted_duplicate_is_what_the_cleaning_takes_out(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary: without the search for near-duplicates, and without that for templates, the copies are there."""
    monkeypatch.setattr(builder, "near_duplicates", lambda *args, **options: [])
    assert "fakepkg.one.near_copy" in build(fake, seed=1).corpus
    (cached,) = (fake / "cache").glob("*.json.gz")
    cached.unlink()
    monkeypatch.setattr(builder, "same_keys", lambda keys: [])
    assert "fakepkg.two.make_beta_widget" in build(fake, seed=1).corpus


def test_two_builds_are_equal_also_in_another_process(fake: Path) -> None:
    first = build(fake)
    code = (
        "from cmp_rerank.collections.docstrings.build import docstring_collection;"
        f"c = docstring_collection(['fakepkg'], cache_dir={str(fake / 'other')!r});"
        f"c.write_beir({str(fake / 'beir')!r})"
    )
    path = os.pathsep.join(filter(None, (str(fake), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert content(load(f"beir:{fake / 'beir'}")) == content(first)
    names = [path.name for path in sorted((fake / "cache").iterdir()) + sorted((fake / "other").iterdir())]
    assert len(names) == 2
    assert names[0] == names[1]
    assert (fake / "cache" / names[0]).read_bytes() == (fake / "other" / names[0]).read_bytes()


def test_the_cache_is_used_and_a_damaged_one_is_built_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(fake)
    (path,) = (fake / "cache").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(builder, "package_docstrings", lambda package: pytest.fail("parsed although it was cached"))
        assert content(build(fake)) == content(first)
    path.write_bytes(path.read_bytes()[:-20])
    assert content(build(fake)) == content(first)
    path.write_bytes(b"not gzip")
    assert content(build(fake)) == content(first)


def test_an_interrupted_build_leaves_nothing(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(fake)
    assert list((fake / "cache").iterdir()) == []


def test_options_are_part_of_the_cache_key_and_of_the_metadata(fake: Path) -> None:
    a, b = build(fake, seed=0), build(fake, seed=1)
    assert a.metadata["seed"] == 0
    assert b.metadata["seed"] == 1
    assert a.queries("test") != b.queries("test")
    assert a.corpus == b.corpus
    assert len(list((fake / "cache").iterdir())) == 2


@pytest.fixture(scope="module")
def numpy_and_json(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return docstring_collection(["numpy", "json", "email"], cache_dir=tmp_path_factory.mktemp("cache"))


def test_real_packages_give_real_text(numpy_and_json: Collection) -> None:
    collection = numpy_and_json
    lengths = [len(text.split()) for text in collection.corpus.values()]
    assert len(lengths) > 300
    assert sum(lengths) / len(lengths) > 100
    assert min(lengths) >= 50
    assert set(collection.queries()) == {f"q:{document}" for document in collection.corpus}
    assert collection.summary().startswith(f"docstrings: {len(lengths)} documents; queries: train ")
    assert collection.metadata["versions"]["json"] == sys.version.split()[0]


def test_no_object_is_in_two_splits(numpy_and_json: Collection) -> None:
    collection = numpy_and_json
    owner = {
        docstring.name: docstring.owner.casefold()
        for package in collection.metadata["packages"]
        for docstring in package_docstrings(package)
    }
    seen: dict[str, str] = {}
    for split in collection.splits:
        assert collection.queries(split)
        for query in collection.queries(split):
            assert seen.setdefault(owner[query.removeprefix("q:")], split) == split
    assert collection.splits == ("train", "dev", "test")
    # The check means something: there are objects with several docstrings.
    assert len(seen) < len(collection.queries())


def test_no_query_stands_in_its_document_and_no_near_duplicate_is_left(numpy_and_json: Collection) -> None:
    collection = numpy_and_json
    judgments = {query: grades for split in collection.splits for query, grades in collection.qrels(split).items()}
    for query, judged in judgments.items():
        (document,) = judged
        assert " ".join(terms(collection.queries()[query])) not in " ".join(terms(collection.corpus[document]))
    assert near_duplicates(list(collection.corpus.values()), threshold=0.7, seed=99) == []
    templates = [template(query) for query in collection.queries().values()]
    assert len(set(templates)) == len(templates)


@pytest.mark.slow
def test_the_whole_collection(tmp_path: Path) -> None:
    collection = docstring_collection(cache_dir=tmp_path)
    lengths = [len(text.split()) for text in collection.corpus.values()]
    assert len(lengths) > 5000
    assert sum(lengths) / len(lengths) > 100
    assert sum(length > 400 for length in lengths) > 400  # above 512 word pieces at the least


def test_the_first_sentence_is_split_off() -> None:
    assert known_item("One sentence, e.g. this one, is here! And more.\n\nLast.") == (
        "One sentence, e.g. this one, is here!",
        "And more.\n\nLast.",
    )
    assert known_item("A heading without a full stop\n\nThen text.") == (
        "A heading without a full stop",
        "Then text.",
    )
    assert known_item("Version 1.5 of\nit. Next") == ("Version 1.5 of it.", "Next")
    assert known_item("Only one sentence.") is None
    assert known_item("") is None
    assert known_item("input_ids (torch.LongTensor of shape (a, b)):\n    Indices of tokens. And more.") is None
    assert known_item("abs(input: Tensor, *, out: Optional[Tensor] = None) -> Tensor\n\nThe value. It is x.") == (
        "The value.",
        "It is x.",
    )


def test_markup_goes_and_words_stay() -> None:
    text = "Use :func:`~a.b.c`, :class:`X <y.X>`, ``d`` and [`E`].\n\n.. versionadded:: 1.2\n\n.. note::\n   Slow."
    assert plain_text(text) == "Use a.b.c, X, d and E.\n\nSlow."


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'no_such_package' is not installed"):
        docstring_collection(["no_such_package"], cache_dir=tmp_path)
    with pytest.raises(ValueError, match="packages is empty"):
        docstring_collection([], cache_dir=tmp_path)
    with pytest.raises(ValueError, match="sum below 1"):
        docstring_collection(["json"], cache_dir=tmp_path, validation=0.5, test=0.5)
