"""A result file that one command makes, in rounds, and that goes on where it was broken off.

What is known is kept beside the file, under a name of its own. A run that is begun again with the same arguments, on
the same machine and with the same versions, takes it from there; any other begins anew. The file itself is written
when all is there. So its figures are of one run, and none is left of an earlier one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUFFIX = ".unfinished"


class WholeRun:
    """The parts of a run.

    Args:
        path: the result file; None: nothing is kept.
        about: what the figures depend on, as JSON has it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "found.json")
        ...     WholeRun(path, {"seed": 0}).put("short", {"rounds": 2})
        ...     again = WholeRun(path, {"seed": 0})
        ...     again.known("short"), again.known("long"), WholeRun(path, {"seed": 1}).known("short")
        ({'rounds': 2}, None, None)
    """

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self._parts: dict[str, dict[str, Any]] = {}
        self._kept = path and path.with_name(path.name + SUFFIX)
        if self._kept and self._kept.exists():
            before = json.loads(self._kept.read_text(encoding="utf-8"))
            if before["about"] == json.loads(json.dumps(about)):
                self._parts = before["parts"]

    def known(self, name: str) -> dict[str, Any] | None:
        """A part, as far as it is there."""
        return self._parts.get(name)

    def put(self, name: str, part: dict[str, Any]) -> None:
        """Keep a part, in place of what was known of it."""
        self._parts[name] = part
        if self._kept:
            _write(self._kept, {"about": self.about, "parts": self._parts})

    def finish(self, names: list[str]) -> None:
        """Write the file, of these parts, each with what all depend on."""
        if self.path and self._kept:
            _write(self.path, {"runs": [self.about | self._parts[name] for name in names]})
            self._kept.unlink()


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
