"""Circle loss over the positives and negatives of a query."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import softplus

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import check_positive, check_share, checked_lists
from cmp_rerank.ranking_losses.labels import GRADES
from cmp_rerank.ranking_losses.masked import logsumexp_over

__all__ = ["CircleLoss", "circle"]


def circle(
    scores: Tensor, labels: Tensor, mask: Tensor | None = None, *, margin: float = 0.25, scale: float = 10.0
) -> Tensor:
    """Give the circle loss of a list: all positives against all negatives, each weighted by how far it has to go.

    With the positives P (grade above 0), the negatives N, the margin m and the scale g::

        L = log( 1 + sum over j in N of exp( g a(j) (s(j) - m) ) * sum over i in P of exp( -g a(i) (s(i) - 1 + m) ) )
        a(i) = max(1 + m - s(i), 0) for a positive,  a(j) = max(s(j) + m, 0) for a negative

    The weights a have no gradient, as in the paper. The loss is made for scores between 0 and 1. A list without a
    positive or without a negative gives 0.

    Args:
        scores: of the model, best between 0 and 1, shape (..., documents).
        labels: relevance grades >= 0, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        margin: m, from 0 to 1. Positives are pushed towards 1 + m, negatives towards -m.
        scale: g, > 0.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: circle loss, Sun et al., CVPR 2020, arXiv 2002.10857, equation 6; for reranking ListConRanker,
    arXiv 2501.07111.

    Example:
        The positive scores 1, the negative 0; m = 1/4, g = 1. Both weights are 1/4 and both exponents -1/16:
        log(1 + exp(-1/8)).

        >>> import torch
        >>> circle(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), margin=0.25, scale=1.0)
        tensor([0.6326])
    """
    check_share("margin", margin)
    check_positive("scale", scale)
    scores, labels, mask = checked_lists(scores, labels, mask, GRADES)
    positive = labels > 0
    negative = mask & ~positive
    towards_positive = (1 + margin - scores).detach().clamp(min=0)
    towards_negative = (scores + margin).detach().clamp(min=0)
    low = logsumexp_over(-scale * towards_positive * (scores - 1 + margin), positive)
    high = logsumexp_over(scale * towards_negative * (scores - margin), negative)
    both = positive.any(dim=-1) & negative.any(dim=-1)
    return softplus((low + high).masked_fill(~both, 0.0)).masked_fill(~both, 0.0)


class CircleLoss(RankingLoss):
    """Circle loss over the positives and negatives of each query: `circle`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        margin: from 0 to 1; 0.25 is from the paper.
        scale: > 0. The paper has 256 for similarities of faces; smaller ones are softer.
        ignore_label: see `RankingLoss`.
        activation_fn: applied to the logits. Default: a sigmoid, since the loss is made for scores between 0 and 1.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = CircleLoss(model, margin=0.25, scale=10.0)
    """

    kind = GRADES
    by_position = True
    citation: ClassVar[str] = """
@inproceedings{sun2020circle,
    title={Circle Loss: A Unified Perspective of Pair Similarity Optimization},
    author={Sun, Yifan and Cheng, Changmao and Zhang, Yuhan and Zhang, Chi and Zheng, Liang and Wang, Zhongdao and Wei, Yichen},
    booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year={2020},
    eprint={2002.10857},
    archivePrefix={arXiv}
}
"""  # noqa: E501

    def __init__(
        self,
        model: nn.Module,
        margin: float = 0.25,
        scale: float = 10.0,
        *,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model,
            ignore_label=ignore_label,
            activation_fn=nn.Sigmoid() if activation_fn is None else activation_fn,
            mini_batch_size=mini_batch_size,
        )
        check_share("margin", margin)
        check_positive("scale", scale)
        self.margin = margin
        self.scale = scale

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `circle`."""
        return circle(scores, labels, mask, margin=self.margin, scale=self.scale)
