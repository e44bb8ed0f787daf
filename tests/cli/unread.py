"""Commands whose stdout is a pipe that nobody reads any more, as behind `| head`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

from processes import python


def read_and_unread(arguments: Sequence[str]) -> Iterator[subprocess.CompletedProcess[str]]:
    """The end of a command that is read to its end, then of one whose pipe has lost its reader."""
    for unread in (False, True):
        yield python("-m", "cmp_rerank", *arguments, unread=unread)
