"""Functions in a ``repr``: by their names, which are the same in every run."""

from __future__ import annotations

#: What the name of a function begins with in a ``repr``, that of Python without the address.
_FUNCTION = "<function "


def described(value: object) -> str:
    """The ``repr`` of an option; of a function its name, since its address differs from run to run.

    The name does not tell what the function does: see `by_name_only`.
    """
    text, name = repr(value), getattr(value, "__qualname__", None)
    return text if name is None or " at 0x" not in text else f"{_FUNCTION}{name}>"


def by_name_only(description: str) -> bool:
    """Whether a description holds a function that `described` has named: another function may have that name."""
    return _FUNCTION in description
