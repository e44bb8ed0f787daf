"""Ids that should match: which have no counterpart, and how an error shows some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cmp_rerank.ir.mappings import Texts
from cmp_rerank.text.suggest import closest


def some(names: Sequence[str]) -> str:
    """The first names of a list, for an error message.

    Example:
        >>> some(["a", "b", "c", "d"])
        "'a', 'b', 'c', ..."
    """
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "") if names else "none"


def ids_without(texts: Mapping[str, str], ids: Iterable[str]) -> dict[str, None]:
    """The ids that have no text, each once, in their order.

    Example:
        >>> list(ids_without({"a": "A"}, ["b", "a", "b"]))
        ['b']
    """
    distinct = dict.fromkeys(ids)
    known = texts.known(distinct) if isinstance(texts, Texts) else (name in texts for name in distinct)
    return {name: None for name, found in zip(distinct, known, strict=True) if not found}


def nothing_in_common(first: str, ids: Sequence[str], second: str, others: Sequence[str]) -> ValueError:
    """The error for two files that should share ids and do not, with numbers and examples.

    Example:
        >>> nothing_in_common("queries of the run", ["q1"], "judged queries", ["1", "2", "3", "4"])
        ValueError("there is no id in common; got 1 queries of the run ('q1') and 4 judged queries ('1', '2', ...")
    """
    return ValueError(
        f"there is no id in common; got {len(ids):,} {first} ({some(ids)}) and {len(others):,} {second} "
        f"({some(others)}); match the ids"
    )


def without_texts(what: str, missing: Sequence[str], number: int, hint: str = "match the ids") -> ValueError:
    """The error for ids without a text, with numbers and examples.

    Args:
        what: Queries or documents, and whose.
        missing: Those without a text.
        number: How many there are, with and without.
        hint: What to do about it.

    Example:
        >>> without_texts("documents of the run", ["d1", "d2"], 10)
        ValueError("every one of the documents of the run needs a text; got none for 2 of 10 ('d1', 'd2'); match ...")
    """
    return ValueError(
        f"every one of the {what} needs a text; got none for {len(missing):,} of {number:,} ({some(missing)}); {hint}"
    )


def check_choice_of(what: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a name that is none of the choices, with the nearest one.

    Raises:
        ValueError: With the choices, and a guess what was meant.

    Example:
        >>> check_choice_of("split", "tets", ("train", "test"))
        Traceback (most recent call last):
        ValueError: split must be one of 'train', 'test'; got 'tets'; did you mean 'test'?
    """
    if value in choices:
        return
    meant = closest(str(value), choices)
    hint = "" if meant is None else f"; did you mean {meant!r}?"
    raise ValueError(f"{what} must be one of {', '.join(map(repr, choices)) or '(none)'}; got {value!r}{hint}")
