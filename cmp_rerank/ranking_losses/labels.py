"""What the labels of a list mean, and what is refused as such."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GRADES", "RANKS", "TEACHER_SCORES", "LabelKind", "smooth_labels"]


@dataclass(frozen=True)
class LabelKind:
    """A meaning of labels.

    Args:
        name: in the plural, for errors and the documentation.
        least: the lowest value that makes sense; None: any finite number.
        hint: what to do about a value that makes no sense.

    Example:
        >>> GRADES.check(torch.tensor([[2.0, -1.0]]), torch.tensor([[True, True]]))
        Traceback (most recent call last):
        ValueError: relevance grades must be finite numbers, at least 0; got -1.0 for document 1 of list 0; give a
        document that is not relevant the grade 0, or leave documents out by their label: ignore_label=-1.0
    """

    name: str
    least: float | None
    hint: str

    def check(self, labels: Tensor, mask: Tensor) -> None:
        """Refuse labels without a meaning.

        Args:
            labels: shape (..., documents).
            mask: True where there is a document: the shape of the labels.

        Raises:
            ValueError: with the first label that makes no sense.
        """
        bad = ~labels.isfinite() if self.least is None else ~(labels.isfinite() & (labels >= self.least))
        bad = bad & mask
        if bool(bad.any()):
            index = bad.nonzero()[0].tolist()
            value = labels[tuple(index)].item()
            must = "finite numbers" if self.least is None else f"finite numbers, at least {self.least:g}"
            where = f"document {index[-1]} of list {index[0]}" if len(index) > 1 else f"document {index[0]}"
            ignored = 'float("nan")' if math.isnan(value) else repr(value)
            raise ValueError(
                f"{self.name} must be {must}; got {value} for {where}; {self.hint}, "
                f"or leave documents out by their label: ignore_label={ignored}"
            )


#: How relevant a document is: 0 (not), 1, 2 and so on; fractions are allowed. Above 0 is a positive.
GRADES = LabelKind("relevance grades", 0.0, "give a document that is not relevant the grade 0")
#: What another model gave a document. Any number; higher is better.
TEACHER_SCORES = LabelKind("teacher scores", None, "let the teacher score every document of the list")
#: The place of a document in the order of another model: 1 is the best. Equal ranks are ties.
RANKS = LabelKind(
    "ranks",
    1.0,
    "count from 1, the best; labels that rise with relevance go to a loss such as RankNetLoss as they are",
)


def smooth_labels(labels: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Move labels towards the mean label of their list: (1 - e) y + e mean(y).

    The sum of a list stays. With one positive this is label smoothing as it is known: each of k documents gets e / k.
    A list without a positive stays as it is.

    Args:
        labels: relevance grades, shape (..., documents).
        mask: True where there is a document: the shape of the labels.
        smoothing: e, from 0 to 1. 0 leaves the labels alone; 1 makes them equal.

    Returns:
        The shape of the labels; 0 where there is no document.

    Example:
        >>> smooth_labels(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[True, True, False, True]]), 0.3)
        tensor([[0.8000, 0.1000, 0.0000, 0.1000]])
    """
    labels = labels.masked_fill(~mask, 0.0)
    mean = labels.sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.where(mask, (1 - smoothing) * labels + smoothing * mean, 0.0)
