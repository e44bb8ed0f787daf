"""Damaged input that once ended in a traceback, without a file's name, or in the death of the process."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import copied
from parsers import PARSERS
from test_fuzzed_parsers import fault
from typer.testing import CliRunner
from usages import USAGES

from cmp_rerank.cli.main import app

OF = {parser.name: parser for parser in PARSERS}
Change = Callable[[Path], object]


def flipped(place: float) -> Change:
    """One bit of a file is another, at this share of its length."""

    def change(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[int(place * (len(raw) - 1))] ^= 16
        path.write_bytes(raw)

    return change


def cut(share: float) -> Change:
    """Only this share of a file is there."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def of(content: bytes | str) -> Change:
    """Another content."""
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def inside(pattern: str, change: Change) -> Change:
    """A change of a file in a folder."""
    return lambda path: change(next(iter(sorted(path.glob(pattern)))))


GZIP = [
    flipped(0.1),
    flipped(0.5),
    flipped(0.9),
    cut(0.5),
    cut(0.99),
    lambda path: path.write_bytes(path.read_bytes()[:3]),
]
PARQUET = [flipped(0.02), flipped(0.5), flipped(0.98), cut(0.5)]
ARROW = [inside("*.arrow", cut(0.3)), inside("*.arrow", cut(0.9)), inside("*.arrow", flipped(0.01)), *(
    inside(name, of(content)) for name in ("state.json", "dataset_info.json") for content in ("{", "[]", b"\xff", "")
)]  # fmt: skip
KEPT: dict[str, list[Change]] = {
    "run.trec.gz": GZIP,
    "run.json.gz": GZIP,
    "corpus.jsonl.gz": GZIP,
    "squad.json.gz": GZIP,
    "pairs.tsv.gz": GZIP,
    "table.parquet": PARQUET,
    "pairs.parquet": PARQUET,
    "questions": ARROW,
    "pairs": ARROW,
    "samples.json": [of(b'[{"query": "\xe1"}]'), of('[{"query": 1}]'), of(b"[\xff\xfe")],
    "curves.csv": [of(b"\x1f\x8b"), of(b"steps,RR\n1,\xff\n"), of("steps,RR\n1\n"), of('steps,"RR\n')],
    "curves.json": [
        of(json.dumps(content))
        for content in (
            1, [], {"a": 1}, {"a": {"b": 1}}, {"a": {"b": [1]}}, {"a": {"b": [[1, "x"]]}}, {"a": {"b": []}},
            {"a": {"b": [[1, float("nan")]]}}, {"a": {"b": "xy"}}, {"a": {"b": [[True, None]]}},
        )
    ],
    "train.yaml": [
        of(b"data: \x00"),
        of("[a, b]: c\n"),
        of("{a: b}: c\n"),
        of("data: !!int x\n"),
        of("data: !!timestamp x\n"),
        of("data: {collection: x, 1: 2}\nmodel: {name: m}\n"),
        of("data: {collection: x}\nmodel: {name: m}\nnegatives: {ranks: [1]}\n"),
    ],
    "corpus.jsonl": [of(f'{{"_id": "d", "title": {title}, "text": "x"}}\n') for title in ("7", '{"a": 1}')],
    "pairs.csv": [of(""), of("query,positive\n")],
    "pairs.jsonl": [of('{"query": "a", "positive": "b", "title": ["c"]}\n')],
}  # fmt: skip
CASES = [(name, number) for name, changes in KEPT.items() for number in range(len(changes))]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The good input of each of these readers."""
    folder = tmp_path_factory.mktemp("good")
    for name in KEPT:
        OF[name].make(folder / name)
    return folder


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(("name", "number"), CASES)
def test_what_once_failed(name: str, number: int, good: Path, tmp_path: Path) -> None:
    """It is refused, too: none of it is good input."""
    path = copied(good / name, tmp_path)
    KEPT[name][number](path)
    assert fault(OF[name], path, path) is None
    if "arrow" not in name and name not in ("questions", "pairs", "table.parquet", "pairs.parquet"):
        with pytest.raises(ValueError, match=r"."):
            OF[name].read(path)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.safetensors", cut(0.5)),
        ("model.safetensors", of(b"")),
        ("model.safetensors", of(b"\xff" * 100)),
        ("config.json", of("[]")),
        ("config.json", of('{"architectures": "BertForSequenceClassification", "model_type": 1}')),
        ("tokenizer.json", of("{")),
        ("tokenizer.json", of(b"\xff")),
        ("tokenizer_config.json", of('{"model_max_length": [1]}')),
    ],
)
def test_a_damaged_checkpoint(file: str, change: Change, world: dict[str, Path], tmp_path: Path) -> None:
    for usage, name in ((USAGES["rerank"][1], "model"), (USAGES["answer"][2], "reader")):
        model = copied(world[name], tmp_path)
        change(model / file)
        result = CliRunner().invoke(app, usage.call({**world, name: model}, tmp_path / "out"))
        line = result.stderr.splitlines()[-1]
        assert result.exit_code == 2, result.output
        assert str(model) in line


def test_gzip_names_the_kind_of_damage(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(b"q Q0 d 1 2.0 t\n"))
    raw[-5] ^= 255  # the checksum
    (tmp_path / "run.trec").write_bytes(raw)
    with pytest.raises(ValueError, match=r"run\.trec: the gzip file is damaged"):
        OF["run.trec"].read(tmp_path / "run.trec")
