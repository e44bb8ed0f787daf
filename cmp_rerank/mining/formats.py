"""The formats of training data, and which of them a loss takes."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

from cmp_rerank.ir.arguments import kind
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.mining.options import Format

# The table below "Inputs:" that the documentation of each loss of sentence-transformers has.
_ROW = re.compile(r"^\s*\|(?P<inputs>[^|]+)\|(?P<labels>[^|]+)\|", re.MULTILINE)


def format_of(loss: Any) -> Format:
    """The format of the data that a loss takes.

    It is read from the table "Inputs" that the documentation of each cross-encoder loss of sentence-transformers has.
    A loss of another kind may say it by an attribute ``data_format``, as those of this package do.

    Args:
        loss: The class of the loss, or an object. Of an object that wraps another loss (its attribute ``loss``), the
            wrapped one counts.

    Returns:
        "lists" where a list of documents is taken, "tuples" where negatives stand in columns of their own, "pairs"
        for one document with its label.

    Raises:
        ValueError: There is neither.

    Example:
        >>> from sentence_transformers.cross_encoder import losses
        >>> [format_of(loss) for loss in (losses.BinaryCrossEntropyLoss, losses.MarginMSELoss, losses.RankNetLoss)]
        ['pairs', 'tuples', 'lists']
    """
    wrapped = getattr(loss, "loss", None)
    if wrapped is not None and not isinstance(loss, type):
        return format_of(wrapped)
    cls = loss if isinstance(loss, type) else type(loss)
    said = getattr(cls, "data_format", None)
    if said is not None:
        check_choice(f"{cls.__name__}.data_format", said, get_args(Format))
        return said  # type: ignore[no-any-return]
    rows = inputs_of(cls)
    if rows:
        return _format(rows)
    raise ValueError(
        f"the format of the data must be known; got {kind(cls)}, whose documentation has no table 'Inputs'; choose "
        f"one of {', '.join(map(repr, get_args(Format)))}"
    )


def inputs_of(cls: type) -> list[tuple[str, str]]:
    """The rows (inputs, labels) of the table "Inputs" in the documentation of a loss; none without such a table.

    Example:
        >>> from sentence_transformers.cross_encoder.losses import CrossEntropyLoss
        >>> inputs_of(CrossEntropyLoss)
        [('(input_A, input_B) pairs', 'class')]
    """
    for base in cls.__mro__:
        own = base.__dict__.get("__init__")
        for text in (inspect.getdoc(own) if own is not None else None, base.__doc__):
            rows = _input_rows(text or "")
            if rows:
                return rows
    return []


def _input_rows(text: str) -> list[tuple[str, str]]:
    """(inputs, labels) of each row of the table, without its head."""
    _, found, table = text.partition("Inputs:")
    rows = [(row["inputs"].strip(), row["labels"].strip()) for row in _ROW.finditer(table)] if found else []
    return rows[1:]


def _format(rows: list[tuple[str, str]]) -> Format:
    inputs, labels = rows[0]
    if "[doc" in inputs:
        return "lists"
    # No label: what is a positive and what a negative is said by the column.
    return "tuples" if labels == "none" or "triplets" in inputs or "negative_1" in inputs else "pairs"
