"""Models measured: the values of all rows are those of scores in 32 bits, most of which are never computed.

A CPU that has products in bfloat16 takes half to a third of the time for them. What a value depends on is which
documents of a row are above which, so that only scores that are nearly alike are needed in 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bert import Models, Tokens, has_bfloat16, products
from .real import Row
from .tasks import Task

#: The values of rows as they are kept, see `values_of`.
Values = str | list[float]

#: Scores that are farther apart than so many times the largest error seen are in the right order. Errors of two
#: differ by 1.4 deviations of one; the largest of `SAMPLE` is at two to three of them.
SURE = 4.0

#: Pairs that are scored both ways to see the errors, evenly spaced.
SAMPLE = 256


def measure(models: Models, tokens: Any, task: Task) -> list[Values | None]:
    """For each model the values of all rows, as `training.measure` writes them; None for one that has diverged."""
    with models.all_words():
        if isinstance(tokens, Tokens):
            scores = ordering_scores(models, tokens)
            return [values_of(own, tokens.rows, task) if np.isfinite(own).all() else None for own in scores]
        windows = [window.example.features for window in tokens.windows]
        asked = Tokens([], [each["input_ids"] for each in windows], [each["token_type_ids"] for each in windows])
        with products(models, "highest"):
            logits = models.all_logits(asked)
    found: list[Values | None] = []
    for number in range(models.count):
        own = [each[number] for each in logits]
        finite = all(np.isfinite(each).all() for each in own)
        found.append(tokens.values([e[:, 0] for e in own], [e[:, 1] for e in own]) if finite else None)
    return found


def ordering_scores(models: Models, tokens: Tokens) -> np.ndarray:
    """Scores (E, pairs) which order the documents of each row, or lie on that side of 0, as those in 32 bits do.

    On a CPU that has bfloat16 they are computed in it, and again in 32 bits where scores that must be told apart are
    closer than `SURE` times the largest error of those which were computed twice. Elsewhere all are in 32 bits.
    """
    if models.device != "cpu" or len(tokens.ids) <= SAMPLE or not has_bfloat16():
        return _scores(models, tokens, range(len(tokens.ids)), half=False)
    scores = _scores(models, tokens, range(len(tokens.ids)), half=True)
    exact = np.zeros(len(tokens.ids), dtype=bool)
    due = np.linspace(0, len(exact) - 1, SAMPLE).astype(int)
    error = 0.0
    while len(due):
        found = _scores(models, tokens, due, half=False)
        if not (np.isfinite(scores).all() and np.isfinite(found).all()):  # nothing is known of errors then
            return _scores(models, tokens, range(len(exact)), half=False)
        error = max(error, float(np.abs(scores[:, due] - found).max()))
        scores[:, due], exact[due] = found, True
        near = np.any([close(own, tokens.rows, SURE * error) for own in scores], axis=0)
        due = np.flatnonzero(near & ~exact)
    return scores


def close(scores: np.ndarray, rows: Sequence[Row], margin: float) -> np.ndarray:
    """Which scores are no farther than a margin from one of the same row with another label; of a single one, from 0.

    >>> close(np.array([1.0, 1.2, 3.0, 0.3]), [{"labels": [1, 0, 0]}, {"labels": [1]}], 0.5).tolist()
    [True, True, False, True]
    """
    found = np.zeros(len(scores), dtype=bool)
    place = 0
    for row in rows:
        own, labels = scores[place : place + len(row["labels"])], np.asarray(row["labels"])
        if len(own) == 1:
            near = np.abs(own) <= margin
        else:
            near = ((np.abs(own[:, None] - own) <= margin) & (labels[:, None] != labels)).any(axis=1)
        found[place : place + len(own)] = near
        place += len(own)
    return found


def _scores(models: Models, tokens: Tokens, pairs: Sequence[int] | np.ndarray | range, half: bool) -> np.ndarray:
    """Scores (E, pairs) of some of the pairs."""
    chosen = Tokens([], [tokens.ids[pair] for pair in pairs], [tokens.types[pair] for pair in pairs])
    with products(models, "highest", half):
        return models.all_scores(chosen)


# Values -------------------------------------------------------------------------------------------------


def values_of(scores: np.ndarray, rows: Sequence[Row], task: Task) -> Values:
    """The value of each row from the scores of all pairs, in the rows' order.

    Returns:
        Of nDCG@10 and F1 a list of numbers. Else per row one character: the rank of the relevant document, or 1 for
        a right class and 0 for a wrong one. A tie counts against the model.
    """
    found: list[float] = []
    place = 0
    for row in rows:
        mine = scores[place : place + len(row["docs"])]
        place += len(row["docs"])
        if task.measure == "nDCG@10":
            grades = np.asarray(row["labels"])
            order = np.lexsort([grades, -mine])[:10]
            discounts = 1 / np.log2(np.arange(2, 12))
            found.append(round(float(grades[order] @ discounts[: len(order)] / _ideal(row["ideal"], discounts)), 4))
        elif task.measure == "RR":
            found.append(int((mine >= mine[row["labels"].index(1.0)]).sum()))
        else:
            found.append(int((mine[0] > 0) == bool(row["labels"][0])))
    return found if task.measure == "nDCG@10" else "".join(map(str, found))


def _ideal(grades: Sequence[float], discounts: np.ndarray) -> float:
    return float(np.asarray(grades) @ discounts[: len(grades)])


def decode(values: Values, task: Task) -> np.ndarray:
    """The value of each row: reciprocal rank, accuracy, or nDCG@10."""
    if not isinstance(values, str):
        return np.asarray(values, dtype=float)
    digits = np.frombuffer(values.encode(), dtype=np.uint8) - ord("0")
    return 1.0 / digits if task.measure == "RR" else digits.astype(float)
