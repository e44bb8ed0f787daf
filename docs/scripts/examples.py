"""Docstrings as this package has them, for the reader of docstrings that mkdocstrings uses."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)
_COLONS = re.compile(r"^\s*::\n", re.MULTILINE)


class Examples(griffe.Extension):
    """Show what is below "Example:" as code, and not as a paragraph."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section to the one that the reader knows, before it reads."""
        if obj.docstring is not None:
            obj.docstring.value = _COLONS.sub("", _EXAMPLE.sub(r"\1Examples:", obj.docstring.value))
