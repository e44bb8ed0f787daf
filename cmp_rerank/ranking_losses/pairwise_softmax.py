"""Pairwise softmax loss: a softmax loss whose exponential is replaced by a function that grows more slowly."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import check_choice, check_positive, checked_lists
from cmp_rerank.ranking_losses.labels import GRADES
from cmp_rerank.ranking_losses.masked import mean_over

__all__ = ["PairwiseSoftmaxLoss", "pairwise_softmax"]

Surrogate = Literal["exp", "tanh", "atan", "relu"]
SURROGATES = ("exp", "tanh", "atan", "relu")


def pairwise_softmax(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    surrogate: Surrogate = "tanh",
    temperature: float = 0.2,
) -> Tensor:
    """Give the pairwise softmax loss of each positive against the negatives, averaged over the positives.

    With the positives P (grade above 0), the negatives N and a surrogate f with f(0) = 1::

        L = (1/|P|) sum over i in P of log( 1 + sum over j in N of f(s(j) - s(i)) ^ (1 / temperature) )
        f(d) = exp(d), tanh(d) + 1, atan(d) + 1 or max(d + 1, 0)

    The 1 is the positive itself, one of the documents that the paper sums over. The authors' code leaves it out; with
    it, a loss is never negative. With "exp" and temperature 1 it is `localized_contrastive`. The others give less
    weight to negatives far above a positive, which may be false negatives. "atan" and "relu" are 0 below -tan(1) and
    -1. The differences of the paper lie in [-1, 1], so use scores between 0 and 1. A list without a positive or
    without a negative gives 0.

    Args:
        scores: of the model, best between 0 and 1, shape (..., documents).
        labels: relevance grades >= 0, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        surrogate: the function f.
        temperature: > 0; the lower, the more the hardest negatives count.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: PSL, Yang et al. 2024, arXiv 2411.00163.

    Example:
        One negative, log(3)/2 above the positive: tanh gives 1/2, so that the loss is log(1 + 1.5), or
        log(1 + 1.5 ^ 2) at temperature 1/2.

        >>> scores, labels = torch.tensor([[0.0, math.log(3) / 2]]), torch.tensor([[1.0, 0.0]])
        >>> pairwise_softmax(scores, labels, temperature=1.0)
        tensor([0.9163])
        >>> pairwise_softmax(scores, labels, temperature=0.5)
        tensor([1.1787])
    """
    check_choice("surrogate", surrogate, SURROGATES)
    check_positive("temperature", temperature)
    scores, labels, mask = checked_lists(scores, labels, mask, GRADES)
    positive = labels > 0
    negative = mask & ~positive
    log_f = _log_surrogate(scores[..., None, :] - scores[..., :, None], surrogate) / temperature  # (..., i, j)
    rivals = log_f.masked_fill(~negative[..., None, :], -math.inf)
    # The positive itself is the term f(0) = 1, whose logarithm is 0: no row is without a term.
    itself = torch.zeros_like(rivals[..., :1])
    each = torch.cat([itself, rivals], dim=-1).logsumexp(dim=-1)  # (..., documents)
    return mean_over(each, positive)


def _log_surrogate(difference: Tensor, surrogate: Surrogate) -> Tensor:
    if surrogate == "exp":
        return difference
    if surrogate == "tanh":  # tanh(d) + 1 = 2 sigmoid(2 d)
        return math.log(2) - softplus(-2 * difference)
    value = difference + 1 if surrogate == "relu" else difference.atan() + 1
    positive = value > 0
    # The inner `where`: at 0 the logarithm would have the gradient 0 / 0, though it is not used.
    return torch.where(positive, torch.where(positive, value, 1.0).log(), -math.inf)


class PairwiseSoftmaxLoss(RankingLoss):
    """The pairwise softmax loss (PSL) of positives against the negatives of their query: `pairwise_softmax`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        surrogate: "tanh", "atan", "relu", or "exp" for the softmax loss.
        temperature: > 0; the lower, the more the hardest negatives count.
        ignore_label: see `RankingLoss`.
        activation_fn: applied to the logits. Default: a sigmoid, since the loss is made for differences in [-1, 1].
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = PairwiseSoftmaxLoss(model, surrogate="relu")
    """

    kind = GRADES
    by_position = True
    citation: ClassVar[str] = """
@inproceedings{yang2024psl,
    title={PSL: Rethinking and Improving Softmax Loss from Pairwise Perspective for Recommendation},
    author={Yang, Weiqin and Chen, Jiawei and Xin, Xin and Zhou, Sheng and Hu, Binbin and Feng, Yan and Chen, Chun and Wang, Can},
    booktitle={Advances in Neural Information Processing Systems},
    year={2024},
    eprint={2411.00163},
    archivePrefix={arXiv}
}
"""  # noqa: E501

    def __init__(
        self,
        model: nn.Module,
        surrogate: Surrogate = "tanh",
        temperature: float = 0.2,
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
        check_choice("surrogate", surrogate, SURROGATES)
        check_positive("temperature", temperature)
        self.surrogate: Surrogate = surrogate
        self.temperature = temperature

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `pairwise_softmax`."""
        return pairwise_softmax(scores, labels, mask, surrogate=self.surrogate, temperature=self.temperature)
