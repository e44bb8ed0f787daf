"""JSON as it is read everywhere: whatever is wrong with it is a ValueError that says where."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from cmp_rerank.ir.lines import PathLike, malformed

# The first half of a surrogate pair, or the second, as an escape. A whole pair is a character, one half is none: it
# cannot be written, tokenised or sent anywhere.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(path: PathLike, raw: bytes, line: int | None = None, *, halves: bool = False) -> Any:
    """Parse JSON.

    Args:
        path: The file that it is from.
        raw: The bytes.
        line: The line of the file where it stands, for a file of JSON lines; None for a whole file.
        halves: Whether half of a surrogate pair is taken, by who counts characters and knows how to write it.

    Raises:
        ValueError: With file and line: it is no JSON or not UTF-8, is nested too deeply, has a key twice in one
            object, a number of thousands of digits, or half of a surrogate pair.

    Example:
        >>> parse_json("queries.jsonl", b'{"_id": "q1", "text": "\\\\ud83d"}', 7)
        Traceback (most recent call last):
        ...
        ValueError: queries.jsonl, line 7: half of a surrogate pair, '\\ud83d', is no character; correct the text
    """
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice.append(next(name for name in names if names.count(name) > 1))
        return result

    where = os.fspath(path) if line is None else f"{os.fspath(path)}, line {line}"
    try:
        content = json.loads(raw, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        shown = "" if line is None else f" ({raw[:80]!r})"
        raise malformed(path, line or error.lineno, f"not JSON: {error.msg}{shown}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason})") from error
    except RecursionError:
        raise ValueError(f"{where}: the JSON is nested too deeply; give a flat file") from None
    except ValueError as error:  # of Python's limit for the digits of an integer
        raise ValueError(f"{where}: a number has too many digits ({error!s:.60})") from None
    if twice:
        raise ValueError(f"{where}: the key {twice[0]!r} occurs twice in one JSON object")
    if not halves and _HALF.search(raw):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(
                f"{where}: half of a surrogate pair, {half!r}, is no character; correct the text"
            ) from None
    return content
