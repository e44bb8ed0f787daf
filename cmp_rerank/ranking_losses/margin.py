"""Margin losses, averaged over the pairs of each query."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import check_flag, check_positive, checked_lists
from cmp_rerank.ranking_losses.labels import TEACHER_SCORES
from cmp_rerank.ranking_losses.masked import mean_over
from cmp_rerank.ranking_losses.ranknet import better_pairs

__all__ = ["ListwiseMarginMSELoss", "MarginHingeLoss", "listwise_margin_mse", "margin_hinge"]


def margin_hinge(scores: Tensor, labels: Tensor, mask: Tensor | None = None, *, margin: float = 1.0) -> Tensor:
    """Give the mean hinge loss of the pairs in which the labels differ.

    ::

        L = mean over i, j with y(i) > y(j) of max(0, margin - (s(i) - s(j)))

    The mean is taken within the list: a query with many pairs weighs no more than one with few. A list in which all
    labels are equal gives 0.

    Args:
        scores: of the model, shape (..., documents).
        labels: any finite numbers, the higher the better, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        margin: by how much the better document shall lead, in the unit of the scores, > 0.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: the ranking SVM, Joachims, KDD 2002; there pooled over all queries.

    Example:
        The positive leads by 0.5 and by 2: (0.5 + 0) / 2.

        >>> import torch
        >>> margin_hinge(torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
        tensor([0.2500])
    """
    check_positive("margin", margin)
    scores, labels, mask = checked_lists(scores, labels, mask, TEACHER_SCORES)
    hinges = (margin - (scores[..., :, None] - scores[..., None, :])).relu()  # (..., i, j)
    return mean_over(hinges.flatten(-2), better_pairs(labels, mask).flatten(-2))


def listwise_margin_mse(
    scores: Tensor, labels: Tensor, mask: Tensor | None = None, *, normalize: bool = False
) -> Tensor:
    """Give the mean squared difference between the margins of the model and of the teacher, over all pairs of a list.

    With n documents and the errors e = s - t, whose mean within the list is m::

        L = mean over pairs i < j of ( (s(i) - s(j)) - (t(i) - t(j)) )^2 = 2 / (n - 1) * sum over i of (e(i) - m)^2

    Args:
        scores: of the model, shape (..., documents).
        labels: the teacher's scores, any finite numbers, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        normalize: bring the teacher's scores of each list to a standard deviation of 1 first. So teachers of any
            scale can be mixed, and no query weighs more since its scores are far apart. Equal scores stay equal.

    Returns:
        One loss a list, shape (...); 0 for a list of one document.

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: margin MSE is from Hofstätter et al. 2020, arXiv 2010.02666, there for one pair a query.

    Example:
        The margins are 2, 3, 1 where the teacher's are 0, 2, 2: (4 + 1 + 1) / 3.

        >>> import torch
        >>> listwise_margin_mse(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[2.0, 2.0, 0.0]]))
        tensor([2.])
    """
    check_flag("normalize", normalize)
    scores, labels, mask = checked_lists(scores, labels, mask, TEACHER_SCORES)
    if normalize:
        deviation = mean_over(_centred(labels, mask).square(), mask).sqrt()[..., None]
        labels = _centred(labels, mask) / deviation.masked_fill(deviation == 0, 1.0)
    squares = _centred(scores - labels, mask).square().sum(dim=-1)
    return 2 * squares / (mask.sum(dim=-1) - 1).clamp(min=1)


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    """Values less their mean; 0 where there is no document: (..., documents)."""
    return (values - mean_over(values, mask)[..., None]).masked_fill(~mask, 0.0)


class MarginHingeLoss(RankingLoss):
    """The hinge loss of the pairs of each query, averaged within the query: `margin_hinge`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        margin: by how much the better document shall lead, in the unit of the scores, > 0.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = MarginHingeLoss(model, margin=1.0)
    """

    kind = TEACHER_SCORES
    by_position = True
    citation: ClassVar[str] = """
@inproceedings{joachims2002optimizing,
    title={Optimizing Search Engines using Clickthrough Data},
    author={Joachims, Thorsten},
    booktitle={Proceedings of the 8th ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
    pages={133--142},
    year={2002}
}
"""

    def __init__(
        self,
        model: nn.Module,
        margin: float = 1.0,
        *,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_positive("margin", margin)
        self.margin = margin

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `margin_hinge`."""
        return margin_hinge(scores, labels, mask, margin=self.margin)


class ListwiseMarginMSELoss(RankingLoss):
    """Margin MSE over all pairs of a query's list of any length: `listwise_margin_mse`.

    The `MarginMSELoss` of sentence-transformers compares the first document with each other one, in columns.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        normalize: bring the teacher's scores of each query to a standard deviation of 1 first.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = ListwiseMarginMSELoss(model, normalize=True)
    """

    kind = TEACHER_SCORES
    citation: ClassVar[str] = """
@misc{hofstaetter2020improving,
    title={Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
    author={Hofstätter, Sebastian and Althammer, Sophia and Schröder, Michael and Sertkan, Mete and Hanbury, Allan},
    year={2020},
    eprint={2010.02666},
    archivePrefix={arXiv}
}
"""

    def __init__(
        self,
        model: nn.Module,
        normalize: bool = False,
        *,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_flag("normalize", normalize)
        self.normalize = normalize

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `listwise_margin_mse`."""
        return listwise_margin_mse(scores, labels, mask, normalize=self.normalize)
