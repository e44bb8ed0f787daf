"""Checks that all ranking losses share. Each message says what is wrong, what was got, and what to do."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from cmp_rerank.ranking_losses.labels import LabelKind

__all__ = [
    "check_choice",
    "check_flag",
    "check_ignore_label",
    "check_model",
    "check_positive",
    "check_share",
    "checked_lists",
]


def check_positive(name: str, value: object) -> None:
    """Refuse what is not a finite number above 0.

    Args:
        name: of the argument.
        value: what was passed.

    Raises:
        ValueError: for any other value, also True and NaN.

    Example:
        >>> check_positive("temperature", 0)
        Traceback (most recent call last):
        ValueError: temperature must be a finite number above 0; got 0; 1.0 is a usual value
    """
    if not _is_finite(value) or not value > 0:  # type: ignore[operator]
        raise ValueError(f"{name} must be a finite number above 0; got {value!r}; 1.0 is a usual value")


def check_share(name: str, value: object, high: float = 1.0) -> None:
    """Refuse what is not a number from 0 to ``high``.

    Args:
        name: of the argument.
        value: what was passed.
        high: the highest value that is allowed.

    Raises:
        ValueError: for any other value, also True and NaN.

    Example:
        >>> check_share("label_smoothing", 1.5)
        Traceback (most recent call last):
        ValueError: label_smoothing must be a number from 0 to 1; got 1.5; 0.0 switches it off
    """
    if not _is_finite(value) or not 0 <= value <= high:  # type: ignore[operator]
        bounds = f"from 0 to {high:g}" if high != float("inf") else "of at least 0"
        raise ValueError(f"{name} must be a number {bounds}; got {value!r}; 0.0 switches it off")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some words.

    Args:
        name: of the argument.
        value: what was passed.
        choices: what is allowed.

    Raises:
        ValueError: for any other value.

    Example:
        >>> check_choice("gain", "log", ("exponential", "linear"))
        Traceback (most recent call last):
        ValueError: gain must be 'exponential' or 'linear'; got 'log'
    """
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}; got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Args:
        name: of the argument.
        value: what was passed.

    Raises:
        ValueError: for any other value, also 1 and "no".

    Example:
        >>> check_flag("transposed", "no")
        Traceback (most recent call last):
        ValueError: transposed must be True or False; got 'no'
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}")


def check_ignore_label(value: object) -> None:
    """Refuse what cannot mark a document.

    Args:
        value: what was passed; NaN can mark one.

    Raises:
        ValueError: it is neither None nor a number.

    Example:
        >>> check_ignore_label("-1")
        Traceback (most recent call last):
        ValueError: ignore_label must be None or the number that marks a document; got '-1'
    """
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise ValueError(f"ignore_label must be None or the number that marks a document; got {value!r}")


def check_model(loss: str, model: object) -> None:
    """Refuse a model that does not give one score for a pair.

    Args:
        loss: the name of the loss.
        model: what was passed.

    Raises:
        ValueError: it is no cross-encoder, or has several output labels.

    Example:
        >>> check_model("ListwiseSoftmaxLoss", "bert-base-uncased")
        Traceback (most recent call last):
        ValueError: ListwiseSoftmaxLoss needs a CrossEncoder; got 'bert-base-uncased'; load the model first
    """
    labels = getattr(model, "num_labels", None)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "preprocess"):
        shown = repr(model) if isinstance(model, str) else type(model).__name__
        raise ValueError(f"{loss} needs a CrossEncoder; got {shown}; load the model first")
    if labels != 1:
        raise ValueError(
            f"{loss} needs a model with one output label, the score of a pair; got {labels} output labels; load it "
            "with CrossEncoder(..., num_labels=1)"
        )


def checked_lists(
    scores: Tensor, labels: Tensor, mask: Tensor | None, kind: LabelKind
) -> tuple[Tensor, Tensor, Tensor]:
    """Refuse lists without a meaning, and give the others in the precision to compute in.

    Half precision is lifted to float32: differences of scores are exponentiated, and sums run over long lists.

    Args:
        scores: of the model, shape (..., documents).
        labels: the shape of the scores.
        mask: True where there is a document, False for padding; None: no padding.
        kind: what the labels mean.

    Returns:
        Scores, labels and mask; scores and labels are 0 where there is no document.

    Raises:
        ValueError: shapes or types that do not fit, scores that are not finite, or labels that make no sense.

    Example:
        >>> from cmp_rerank.ranking_losses.labels import GRADES
        >>> checked_lists(torch.zeros(2, 3), torch.ones(2, 2), None, GRADES)
        Traceback (most recent call last):
        ValueError: scores and labels must have one shape, (lists, documents); got (2, 3) and (2, 2)
    """
    for name, value in (("scores", scores), ("labels", labels)):
        if not isinstance(value, Tensor) or value.is_complex():
            got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a tensor of numbers, (lists, documents); got {got}")
    if scores.shape != labels.shape or scores.dim() < 1:
        raise ValueError(
            f"scores and labels must have one shape, (lists, documents); got {tuple(scores.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != scores.shape:
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be bool, of the shape of the scores, {tuple(scores.shape)}; got {got}")
    scores = (scores if scores.dtype == torch.float64 else scores.float()).masked_fill(~mask, 0.0)
    if not bool(scores.isfinite().all()):
        index = (~scores.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"scores must be finite; got {scores[tuple(index)].item()} at index {index} of (lists, documents); check "
            "the learning rate and half precision"
        )
    labels = labels.to(scores.dtype)
    kind.check(labels, mask)
    return scores, labels.masked_fill(~mask, 0.0), mask


def _is_finite(value: object) -> bool:
    largest = torch.finfo(torch.float32).max
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= largest  # type: ignore[operator]
