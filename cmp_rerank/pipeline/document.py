"""YAML that knows where each value was written, so that an error can name the line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import yaml

from cmp_rerank.ir.lines import PathLike, open_bytes

#: A key and its place in nested mappings and lists: ("ablations", 0, "p").
Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The values of YAML 1.2: `1e-5` is a number, and `no` and `on` are words, which they are not in YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the attribute of the base class, replaced whole


class _Dumper(yaml.SafeDumper):
    """Puts into quotation marks what YAML 1.1 or YAML 1.2 would not read as text."""


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _text(dumper: Any, value: str) -> Any:
    # PyYAML writes some line ends of Unicode as they are, and reads them back as spaces.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _text)


def _whole(loader: Any, node: Any) -> int:
    return int(loader.construct_scalar(node))  # "010" is ten


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


@dataclass
class Document:
    """Nested values, and where each of them comes from.

    Attributes:
        values: the mapping that the text holds.
        places: key -> where it was written, such as "line 3" or "--set".
        name: what errors call the document: a file, or "the configuration".
    """

    values: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)
    name: str = "the configuration"

    def place(self, key: Key) -> str:
        """Where a key was written, or else the nearest one that holds it; "" where nothing is known."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.places:
                return self.places[key[:end]]
        return ""

    def set(self, key: Key, value: Any, place: str) -> None:
        """Put a value in place of what the key holds, with the mappings that lead to it.

        Raises:
            ValueError: the key leads through a value that is no mapping, or past the end of a list.

        Example:
            >>> document = parse("ablations: [{kind: drop, p: 0.1}]")
            >>> document.set(("ablations", 0, "p"), 0.2, "--set")
            >>> document.set(("training", "seed"), 1, "--set")
            >>> document.values
            {'ablations': [{'kind': 'drop', 'p': 0.2}], 'training': {'seed': 1}}
        """
        inner: Any = self.values
        for depth, part in enumerate(key):
            if not _fits(inner, part):
                raise ValueError(
                    f"{dotted(key[: depth + 1])} does not exist; got {inner!r:.80} there; set a key of a mapping, or "
                    "an item that the list has"
                )
            if depth == len(key) - 1:
                break
            below = inner.get(part) if isinstance(inner, dict) else inner[part]
            if below is None and isinstance(key[depth + 1], str):
                below = inner[part] = {}
            inner = below
        inner[key[-1]] = value
        for old in [old for old in self.places if old[: len(key)] == key]:
            del self.places[old]
        self.places[key] = place


def _fits(holder: Any, part: str | int) -> bool:
    """Whether a part of a key can be looked up: a word in a mapping, or the number of an item in a list."""
    if isinstance(holder, list):
        return isinstance(part, int) and part < len(holder)
    return isinstance(holder, dict) and isinstance(part, str)


def dotted(key: Sequence[str | int]) -> str:
    """A key as it is written on the command line.

    Example:
        >>> dotted(("ablations", 0, "p"))
        'ablations.0.p'
    """
    return ".".join(str(part) for part in key)


def parse_key(text: str) -> Key:
    """The key that `dotted` writes.

    Example:
        >>> parse_key("ablations.0.p")
        ('ablations', 0, 'p')
    """
    return tuple(int(part) if part.isdecimal() else part for part in text.split("."))


def parse(text: str, name: str = "the configuration") -> Document:
    """Read YAML whose outermost value is a mapping.

    Args:
        text: YAML; an empty one is an empty mapping.
        name: what errors call the document.

    Returns:
        The values with their lines.

    Raises:
        ValueError: it is no YAML, no mapping, or a key comes twice; with the line.

    Example:
        >>> document = parse("training:\\n  learning_rate: 1e-5\\n")
        >>> document.values, document.place(("training", "learning_rate"))
        ({'training': {'learning_rate': 1e-05}}, 'line 2')
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            places: dict[Key, str] = {}
            if node is not None:
                _walk(node, (), places, name)
            values = {} if node is None else _constructed(loader, node, name)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{name}, line {line}: this is not YAML: {error.reason}; take out {text[error.position]!r}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        what = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{name}{where}: this is not YAML: {what}") from None
    except RecursionError:
        raise ValueError(f"{name}: an anchor that holds itself is no configuration; write the value out") from None
    if not isinstance(values, dict):
        raise ValueError(f"{name}: a configuration is a mapping of sections, `data:` and so on; got {values!r:.80}")
    return Document(values, places, name)


def read(path: PathLike) -> Document:
    """Read a YAML file.

    Raises:
        ValueError: as `parse`; or the file is missing, a directory, or not UTF-8.
    """
    with open_bytes(path) as file:
        raw = file.read()
    try:
        return parse(raw.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); a configuration is a text file") from error


def parse_value(text: str) -> Any:
    """A single value, as it would be read from a file.

    Raises:
        ValueError: it is no YAML.

    Example:
        >>> parse_value("1e-5"), parse_value("[0, 1]"), parse_value("no"), parse_value("")
        (1e-05, [0, 1], 'no', None)
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not YAML: {getattr(error, 'problem', error)}") from None


def dump(values: Mapping[str, Any]) -> str:
    """YAML of plain data that `parse` reads back equal; keys keep their order.

    Example:
        >>> print(dump({"rate": 1e-05, "strategy": "no", "seeds": [0, 1], "loss": {"kind": "ListNetLoss"}}), end="")
        rate: 1.0e-05
        strategy: 'no'
        seeds: [0, 1]
        loss: {kind: ListNetLoss}
    """
    return "".join(_entry(key, value) for key, value in values.items())


def _entry(key: str, value: Any) -> str:
    """One key: innermost lists and mappings on one line, others as blocks."""
    options: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "allow_unicode": True}
    if isinstance(value, dict | list) and value:
        return yaml.dump({key: value}, default_flow_style=None, width=110, **options)
    # In a mapping of its own, on one line, without the braces.
    return yaml.dump({key: value}, default_flow_style=True, width=float("inf"), **options).strip()[1:-1] + "\n"


def plain(value: Any) -> Any:
    """Mappings as dictionaries, sequences as lists, enums as their values: what YAML and JSON can write."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value


def _constructed(loader: Any, node: yaml.Node, name: str) -> Any:
    """The values of a node; a tag may ask for what a text cannot be: ``!!int x``."""
    try:
        return loader.construct_document(node)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{name}: a value cannot be read ({error!s:.120}); leave out its tag (!!...)") from None


def _walk(node: yaml.Node, key: Key, places: dict[Key, str], name: str) -> None:
    """Note the line of each key; refuse one that comes twice, of which YAML would keep the last."""
    if isinstance(node, yaml.MappingNode):
        for at, inner in node.value:
            if not isinstance(at, yaml.ScalarNode):
                raise ValueError(
                    f"{name}, line {at.start_mark.line + 1}: a key must be a word; got a list or a mapping; write one"
                )
            here = (*key, at.value)
            line = at.start_mark.line + 1
            if here in places:
                raise ValueError(
                    f"{name}, line {line}: {dotted(here)} comes twice, first on {places[here]}; keep one"
                )
            places[here] = f"line {line}"
            _walk(inner, here, places, name)
    elif isinstance(node, yaml.SequenceNode):
        for number, inner in enumerate(node.value):
            item = (*key, number)
            places[item] = f"line {inner.start_mark.line + 1}"
            _walk(inner, item, places, name)
