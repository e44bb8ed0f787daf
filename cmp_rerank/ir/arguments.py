"""Arguments that first stages share, and the errors for arguments of another kind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from numbers import Real
from typing import Any

from cmp_rerank.ir.mappings import Texts

Progress = Callable[[int, int], None]
"""Called with the number of rows that are done and the number of all rows:
``lambda done, of: print(f"{done} of {of}")``."""


def kind(value: object) -> str:
    """What a value is, for an error message.

    Example:
        >>> kind(["a", "b"]), kind(dict), kind("d1"), kind(None)
        ('a list of 2', 'the class dict', "the string 'd1'", 'None')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        return f"the string {value!r:.80}"
    if isinstance(value, bool | int | float):
        return repr(value)
    name = type(value).__name__
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    return f"{article} {name}" + (f" of {len(value)}" if isinstance(value, Sized) else "")


def check_texts(name: str, texts: object, *, empty: bool = False) -> None:
    """Refuse what does not map ids to texts.

    Every id and text of a dictionary is looked at. Of :class:`~cmp_rerank.ir.mappings.Texts` none is: they are
    strings by construction, and there may be millions on disk.

    Args:
        name: What the error calls the argument, in the plural: "documents", "queries".
        texts: The argument, after :func:`~cmp_rerank.ir.as_texts.as_texts`.
        empty: Whether there may be none.

    Raises:
        ValueError: It is no mapping, an id or a text is not a string or no Unicode, or there is none.
    """
    if not isinstance(texts, Mapping):
        raise ValueError(f"{name} must map ids to texts; got {kind(texts)}; {_as_mapping(texts)}")
    if not texts and not empty:
        raise ValueError(f"there are no {name}; got an empty mapping; give at least one id with its text")
    if isinstance(texts, Texts):
        return
    for key, text in texts.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ValueError(
                f"{name} must map ids (strings) to texts (strings); got {kind(text)} for the id {key!r}; "
                "convert both to strings"
            )
        check_characters(f"the text of {key!r} in {name}", text)


def check_characters(what: str, text: str) -> None:
    """Refuse half of a surrogate pair, which no file, tokenizer or page can hold.

    Raises:
        ValueError: With ``what`` it stands in.

    Example:
        >>> check_characters("the query", "\\N{OWL}")
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} must be Unicode; got half of a surrogate pair, {text[error.start]!r}, at character "
            f'{error.start}; remove it: text.encode(errors="replace").decode()'
        ) from None


def _as_mapping(texts: object) -> str:
    """What to do with texts that are no mapping."""
    if isinstance(texts, str | os.PathLike):
        return "read the file with cmp_rerank.ir.read_corpus or read_queries"
    if hasattr(texts, "column_names"):
        return 'take the columns of the dataset: dict(zip(data["id"], data["text"]))'
    if isinstance(texts, Sequence | Iterator):
        return "give each text an id: {str(i): text for i, text in enumerate(texts)}"
    return "make a dictionary of it"


def check_bi_encoder(model: object) -> None:
    """Refuse a model that does not embed queries and documents, each on its own.

    Raises:
        ValueError: The model has no ``encode_query`` and ``encode_document``, or is a class or a name.
    """
    if isinstance(model, str | os.PathLike):
        raise ValueError(
            f"model must be a loaded model; got {kind(str(model))}; load it: SentenceTransformer({str(model)!r})"
        )
    if isinstance(model, type):
        raise ValueError(f"model must be an object; got {kind(model)}; create one: {model.__name__}(...)")
    if not all(callable(getattr(model, method, None)) for method in ("encode_query", "encode_document")):
        hint = (
            "a cross-encoder scores pairs: use it with cmp_rerank.evaluation.rerank"
            if callable(getattr(model, "predict", None))
            else "pass a SentenceTransformer"
        )
        raise ValueError(
            f"model must be a bi-encoder with encode_query and encode_document; got {type(model).__name__}; {hint}"
        )


def check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        ValueError: For any other value, also True and 2.5.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def check_number(name: str, value: object, low: float, high: float | None = None) -> None:
    """Refuse what is not a finite number from ``low`` to ``high``; None: of at least ``low``.

    Raises:
        ValueError: For any other value, also True, NaN and text.
    """
    try:
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        number = False
    if not number or not low <= value or (high is not None and value > high):  # type: ignore[operator]
        bounds = f"of at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ValueError(f"{name} must be a number {bounds}; got {value!r}")


def check_run(name: str, run: object) -> None:
    """Refuse what does not map query ids to mappings of document ids to scores.

    The form and the ids are looked at, not every score: that is the task of whoever reads them.

    Raises:
        ValueError: It is no mapping, or holds a value that is no mapping, or an id is not a string.
    """
    if not isinstance(run, Mapping):
        hint = (
            "read the file with cmp_rerank.ir.read_run"
            if isinstance(run, str | os.PathLike)
            else "make it a dictionary"
        )
        raise ValueError(f"{name} must map query ids to {{document id: number}}; got {kind(run)}; {hint}")
    for query, scores in run.items():
        if not isinstance(scores, Mapping):
            raise ValueError(
                f"{name} must map query ids to {{document id: number}}; got {kind(scores)} for query {query!r}; "
                "give each query a dictionary"
            )
        check_id(name, "query", query)
        for document in scores:
            check_id(name, "document", document)


def check_id(name: str, what: str, value: object) -> None:
    """Refuse an id that is not a string: 7 and "7" would be two documents.

    Args:
        name: What the error calls the argument that holds the id.
        what: "query" or "document".
        value: The id.

    Raises:
        ValueError: It is not a string.
    """
    if not isinstance(value, str):
        raise ValueError(f"ids are strings; got the {what} id {value!r} in {name}; convert ids everywhere: str(id)")


def check_runs(runs: object) -> None:
    """Refuse what is not a collection of two runs or more.

    Raises:
        ValueError: Also for a generator, and for one run in place of several.
    """
    if isinstance(runs, Mapping) or not isinstance(runs, Collection):
        raise ValueError(f"runs must be a list of runs; got {kind(runs)}; write [first, second]")
    if len(runs) < 2:
        raise ValueError(f"it takes two runs or more; got {len(runs)}; a single run needs no fusion")
    for place, run in enumerate(runs, 1):
        check_run(f"run {place}", run)


def check_texts_of_run(
    run: Mapping[str, Mapping[str, Any]], queries: Collection[str], documents: Collection[str]
) -> None:
    """Refuse a run with a query or a document that has no text.

    Raises:
        ValueError: With the first id that is missing.
    """
    for query, found in run.items():
        if query not in queries:
            raise ValueError(
                f"every query of the run needs a text; got query {query!r}, which is not among the {len(queries)} "
                "queries; add its text, or take it out of the run"
            )
        for document in found:
            if document not in documents:
                raise ValueError(
                    f"every document of the run needs a text; got document {document!r} for query {query!r}, which "
                    f"is not among the {len(documents)} documents; add its text, or take it out of the run"
                )
