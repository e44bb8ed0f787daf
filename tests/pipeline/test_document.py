"""YAML with the places of its values: numbers as people write them, lines for errors, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.pipeline.document import Document, dotted, dump, parse, parse_key, parse_value, read

KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_is_read_back_equal(values: dict[str, Any]) -> None:
    assert parse(dump(values)).values == values


@given(st.text(alphabet="0123456789eE+-._:nofyesNOtru~xX", max_size=8))
def test_text_that_looks_like_a_number_stays_text(text: str) -> None:
    assert parse(dump({"name": text, "list": [text], "map": {"inner": text}})).values["name"] == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("2E3", 2e3), ("1.5", 1.5), (".5", 0.5), ("10", 10), ("010", 10), ("-3", -3), ("+3", 3),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("False", False), ("null", None), ("~", None),
        ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("'1'", "1"), (".inf", float("inf")),
        ("1e", "1e"), ("-", [None]),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_every_key_has_its_line() -> None:
    document = parse("a: 1\nb:\n  c: [x, y]\n  d:\n  - {e: 1}\n  - f: 2\n")
    lines = {dotted(key): place for key, place in document.places.items()}
    assert lines == {
        "a": "line 1", "b": "line 2", "b.c": "line 3", "b.c.0": "line 3", "b.c.1": "line 3", "b.d": "line 4",
        "b.d.0": "line 5", "b.d.0.e": "line 5", "b.d.1": "line 6", "b.d.1.f": "line 6",
    }  # fmt: skip
    assert document.place(("b", "c", 5, "more")) == "line 3"  # of what holds it
    assert document.place(("z",)) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"x\.yaml, line \d+: this is not YAML"),
        ("a: 1\nb: 2\na: 3\n", r"x\.yaml, line 3: a comes twice, first on line 1; keep one"),
        ("b:\n  a: 1\n  a: 1\n", r"x\.yaml, line 3: b\.a comes twice, first on line 2"),
        ("- 1\n- 2\n", r"x\.yaml: a configuration is a mapping of sections.*got \[1, 2\]"),
        ("just text", r"x\.yaml: a configuration is a mapping"),
        ("a: &a [*a]", r"x\.yaml: an anchor that holds itself"),
        ("a: !!python/object:os.system {}", "this is not YAML"),
        ("a: *b", "this is not YAML"),
        ("a: 1\n---\nb: 1\n", "this is not YAML"),
    ],
)
def test_what_is_no_configuration(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\xfe")
    for name, message in [("x.yaml", "not UTF-8"), ("none.yaml", "no such file"), (".", "directory")]:
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
    (tmp_path / "x.yaml").write_text("")
    assert read(tmp_path / "x.yaml").values == {}


def test_a_set_key_wins_and_has_its_own_place() -> None:
    document = parse("a: {b: 1, c: {d: 2}}\nlist: [{e: 1}]\n")
    document.set(parse_key("a.c"), 3, "--set")
    document.set(parse_key("list.0.e"), 4, "--set")
    document.set(parse_key("new.deep.key"), 5, "--set")
    assert document.values == {"a": {"b": 1, "c": 3}, "list": [{"e": 4}], "new": {"deep": {"key": 5}}}
    assert document.place(("a", "c", "d")) == "--set"  # its line is of a value that is gone
    assert document.place(("a", "b")) == "line 1"


@pytest.mark.parametrize("key", ["a.b.c", "list.5", "list.x", "list.²", "list.0.e.f", "list.1.e", "new.0.p", "a.0"])
def test_a_key_that_leads_nowhere(key: str) -> None:
    document = parse("a: {b: 1}\nlist: [{e: 1}]\n")
    before = str(document.values)
    with pytest.raises(ValueError, match="does not exist; got"):
        document.set(parse_key(key), 1, "--set")
    assert str(document.values) == before


def test_a_section_that_is_null_is_made() -> None:
    document = Document({"training": None})
    document.set(("training", "epochs"), 1, "--set")
    assert document.values == {"training": {"epochs": 1}}
