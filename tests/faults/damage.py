"""Damage to files, at random and the same for the same seed."""

from __future__ import annotations

import gzip
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

#: Changes bytes in one way.
Damage = Callable[[bytes, random.Random], bytes]

#: What a value of a well-formed file may be replaced by: other types, numbers that are none, bytes that are no text.
VALUES = [
    *(b"", b"-1", b"0", b"1.5", b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"9" * 30, b"9" * 400, b"1.0"),
    *(
        b"true",
        b"null",
        b"[]",
        b"{}",
        b"[1, 2]",
        b'{"a": 1}',
        b"[" * 40,
        b'""',
        b'"x"',
        b"x",
        b'"\\ud83d"',
        b"q0",
        b"d0",
    ),
    *(b"\t", b"\n", b"\r", b",", b'"', b"'", b"{", b"]", b"<", b"</DOC>", b"&", b"*", b": ", b"- ", b"!!int x"),
    *(b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
]
_WORD = re.compile(rb'"[^"\n]*"|[^\s,:\[\]{}<>"]+')


def _span(raw: bytes, chance: random.Random, longest: int = 200) -> tuple[int, int]:
    start = chance.randrange(len(raw) + 1)
    return start, min(len(raw), start + chance.randrange(1, longest))


def flip(raw: bytes, chance: random.Random) -> bytes:
    """Some bits are another."""
    changed = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 8])):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(raw: bytes, chance: random.Random) -> bytes:
    """The end is missing, as after a transfer that was interrupted; or a part in the middle."""
    start, stop = _span(raw, chance)
    return raw[:start] if chance.random() < 0.6 else raw[:start] + raw[stop:]


def insert(raw: bytes, chance: random.Random) -> bytes:
    """Bytes that are not of it."""
    start, _ = _span(raw, chance)
    return raw[:start] + (chance.randbytes(chance.randrange(1, 20))) + raw[start:]


def zero(raw: bytes, chance: random.Random) -> bytes:
    """A part is 0, as after a crash of the file system."""
    start, stop = _span(raw, chance, 4096)
    return raw[:start] + bytes(stop - start) + raw[stop:]


def replace(raw: bytes, chance: random.Random) -> bytes:
    """A word or a text is another value."""
    words = list(_WORD.finditer(raw))
    if not words:
        return insert(raw, chance)
    word = chance.choice(words)
    return raw[: word.start()] + chance.choice(VALUES) + raw[word.end() :]


def duplicate(raw: bytes, chance: random.Random) -> bytes:
    """Some lines come twice, or a part of the file does."""
    lines = raw.splitlines(keepends=True)
    if len(lines) > 1 and chance.random() < 0.7:
        start = chance.randrange(len(lines))
        again = lines[start : start + chance.randrange(1, 4)]
        place = chance.randrange(len(lines) + 1)
        return b"".join([*lines[:place], *again, *lines[place:]])
    start, stop = _span(raw, chance)
    return raw[:stop] + raw[start:stop] + raw[stop:]


def swap(raw: bytes, chance: random.Random) -> bytes:
    """Two lines have changed places, or two words have."""
    parts = raw.splitlines(keepends=True) if chance.random() < 0.5 else re.split(rb"(?<=[ \t,\n])", raw)
    if len(parts) > 1:
        one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        parts[one], parts[other] = parts[other], parts[one]
    return b"".join(parts)


def encode(raw: bytes, chance: random.Random) -> bytes:
    """The text is written in another encoding."""
    text = raw.decode("utf-8", "replace").replace("e", chance.choice("eéß文"))
    return text.encode(chance.choice(["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig", "utf-32"]), "replace")


def lines(raw: bytes, chance: random.Random) -> bytes:
    """Other line ends, blank lines, or none at all."""
    return raw.replace(b"\n", chance.choice([b"\r\n", b"\r", b"\n\n", b" \n", b"\t\n", b"", b"\x0b\n"]))


def pack(raw: bytes, chance: random.Random) -> bytes:
    """Packed, and then damaged; whatever the name says."""
    return chance.choice([flip, cut, insert, zero, duplicate])(gzip.compress(raw, mtime=0), chance)


KINDS: list[Damage] = [flip, cut, insert, zero, replace, replace, replace, duplicate, swap, encode, lines, pack]


def damaged(raw: bytes, seed: int | str) -> bytes:
    """The content of a file after damage of one or two kinds; the same for the same seed.

    Example:
        >>> damaged(b"a b c", 3) == damaged(b"a b c", 3)
        True
    """
    chance = random.Random(f"damage {seed}")
    packed = raw[:2] == b"\x1f\x8b"
    if packed and chance.random() < 0.5:  # what is in it is damaged, and it is packed again
        return gzip.compress(damaged(gzip.decompress(raw), f"{seed} inside"), mtime=0)
    for _ in range(chance.choice([1, 1, 1, 2])):
        raw = chance.choice([flip, cut, insert, zero, duplicate] if packed else KINDS)(raw, chance)
    return raw


def damage_in_place(path: Path, seed: int | str) -> Path:
    """Damage a file, or one of the files of a folder; now and then one of these is missing.

    Returns:
        The file.
    """
    chance = random.Random(f"file {seed}")
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    file = chance.choice(files)
    if path.is_dir() and chance.random() < 0.1:
        file.unlink()
    else:
        file.write_bytes(damaged(file.read_bytes(), seed))
    return file


def copied(good: Path, folder: Path) -> Path:
    """A copy of a file or folder, of the same name, in another folder."""
    if good.is_dir():
        return Path(shutil.copytree(good, folder / good.name))
    return Path(shutil.copy(good, folder / good.name))
