"""How the scores of a document's passages become the score of the document.

FirstP, MaxP and SumP are those of Dai and Callan (SIGIR 2019, arXiv 1905.09217).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.text.checks import check_whole, refuse_class


@dataclass(frozen=True)
class FirstP:
    """The score of a document is that of its first passage; the others are not run.

    Example:
        >>> scores, real = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> FirstP()(scores, real)  # of a document with two passages, and padding
        tensor([[1.]])
    """

    def __call__(self, scores: Tensor, real: Tensor) -> Tensor:
        """Combine scores (documents, passages, labels), of which (documents, passages) are ``real``."""
        return scores[:, 0]


@dataclass(frozen=True)
class MaxP:
    """The score of a document is that of its best passage.

    Example:
        >>> scores, real = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> [how(scores, real).item() for how in (FirstP(), MaxP(), SumP(), AvgP(), TopKAvgP(2))]
        [1.0, 3.0, 4.0, 2.0, 2.0]
    """

    def __call__(self, scores: Tensor, real: Tensor) -> Tensor:
        """Combine scores (documents, passages, labels), of which (documents, passages) are ``real``."""
        # max, not amax: of equals, one passage gets the whole gradient
        return scores.masked_fill(~real[..., None], -torch.inf).max(dim=1).values


@dataclass(frozen=True)
class SumP:
    """The score of a document is the sum over its passages: long documents can collect more.

    Example:
        >>> scores, real = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> SumP()(scores, real)  # of a document with two passages, and padding
        tensor([[4.]])
    """

    def __call__(self, scores: Tensor, real: Tensor) -> Tensor:
        """Combine scores (documents, passages, labels), of which (documents, passages) are ``real``."""
        return scores.masked_fill(~real[..., None], 0.0).sum(dim=1)


@dataclass(frozen=True)
class AvgP:
    """The score of a document is the mean over its passages.

    Example:
        >>> scores, real = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> AvgP()(scores, real)  # of a document with two passages, and padding
        tensor([[2.]])
    """

    def __call__(self, scores: Tensor, real: Tensor) -> Tensor:
        """Combine scores (documents, passages, labels), of which (documents, passages) are ``real``."""
        return SumP()(scores, real) / real.sum(dim=1)[:, None]


@dataclass(frozen=True)
class TopKAvgP:
    """The score of a document is the mean over its k best passages, or over all if it has fewer.

    Args:
        k: how many.

    Raises:
        ValueError: if ``k`` is below 1.

    Example:
        >>> scores, real = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> TopKAvgP(1)(scores, real)  # of a document with two passages, and padding
        tensor([[3.]])
    """

    k: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", check_whole("k", self.k))

    def __call__(self, scores: Tensor, real: Tensor) -> Tensor:
        """Combine scores (documents, passages, labels), of which (documents, passages) are ``real``."""
        k = min(self.k, scores.shape[1])
        best = scores.masked_fill(~real[..., None], -torch.inf).topk(k, dim=1).values  # (documents, k, labels)
        count = real.sum(dim=1).clamp(max=k)  # (documents,)
        return SumP()(best, torch.arange(k, device=scores.device) < count[:, None]) / count[:, None]


Combine = FirstP | MaxP | SumP | AvgP | TopKAvgP | Callable[[Tensor, Tensor], Tensor]
#: The aggregations by their names.
AGGREGATIONS: dict[str, type] = {"first": FirstP, "max": MaxP, "sum": SumP, "avg": AvgP, "topk": TopKAvgP}


def aggregation(combine: str | Combine) -> Combine:
    """The aggregation of a name, or the one that is given.

    Args:
        combine: "max", "first", "sum", "avg", "topk" (the mean of the best three), or an object.

    Raises:
        ValueError: There is none of that name, or the object cannot be called.

    Example:
        >>> aggregation("topk"), aggregation(TopKAvgP(2))
        (TopKAvgP(k=3), TopKAvgP(k=2))
    """
    if isinstance(combine, str):
        check_choice("combine", combine, tuple(AGGREGATIONS))
        made: Combine = AGGREGATIONS[combine]()
        return made
    refuse_class("combine", combine)
    if not callable(combine):
        raise ValueError(f"combine must be MaxP() or one of its kind, or a name such as 'max'; got {combine!r}.")
    return combine


def described(combine: Combine) -> dict[str, Any]:
    """An aggregation as JSON has it; of a function of one's own, the name.

    >>> described(TopKAvgP(2)), described(len)
    ({'name': 'topk', 'k': 2}, {'custom': 'len'})
    """
    for name, cls in AGGREGATIONS.items():
        if type(combine) is cls:
            return {"name": name, **asdict(combine)}  # type: ignore[call-overload]
    return {"custom": getattr(combine, "__qualname__", type(combine).__qualname__)}


def restored(description: Mapping[str, Any]) -> Combine:
    """The aggregation that `described` has described.

    Raises:
        ValueError: It is a function, which no file can hold, or a name that is unknown.

    Example:
        >>> restored({"name": "topk", "k": 2})
        TopKAvgP(k=2)
    """
    options = dict(description)
    if "custom" in options:
        raise ValueError(
            f"this checkpoint combines passages by {options['custom']!r}, a function of its own; got no combine. "
            "Give it in Python (combine=...), or save with a named one."
        )
    name = options.pop("name", None)
    check_choice("combine", name, tuple(AGGREGATIONS))
    made: Combine = AGGREGATIONS[name](**options)
    return made
