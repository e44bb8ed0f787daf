"""Commands whose stdout is a pipe that nobody reads any more, as behind `| head`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence


def read_and_unread(arguments: Sequence[str]) -> Iterator[subprocess.CompletedProcess[str]]:
    """The end of a command that is read to its end, then of one whose pipe has lost its reader."""
    command = f"exec '{sys.executable}' -m cmp_rerank " + '"$@"'
    for end in ("", " | exec 0<&-"):
        line = ["bash", "-c", f'({command}){end}; exit "${{PIPESTATUS[0]}}"', "-", *arguments]
        yield subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
