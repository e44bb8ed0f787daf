"""RankNet with pairs weighted by their ranks: what matters is who comes first at the top."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import softplus

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import check_flag, checked_lists
from cmp_rerank.ranking_losses.labels import TEACHER_SCORES

__all__ = ["WeightedRankNetLoss", "mean_ranks", "weighted_ranknet"]


def weighted_ranknet(
    scores: Tensor, labels: Tensor, mask: Tensor | None = None, *, normalize: bool = False
) -> Tensor:
    """Give RankNet's loss of all pairs in which the labels differ, each divided by the sum of its ranks.

    With the ranks r that the labels give, 1 for the highest label, and mean ranks for equal labels::

        L = sum over i, j with y(i) > y(j) of log(1 + exp(s(j) - s(i))) / (r(i) + r(j))

    So a pair at the top counts more than one at the bottom. Only the order of the labels matters. A list in which all
    labels are equal gives 0.

    Args:
        scores: of the model, shape (..., documents).
        labels: any finite numbers, the higher the better: a teacher's scores, or grades. The shape of the scores.
        mask: True where there is a document; None: everywhere.
        normalize: divide by the sum of the weights, so that lists of any length weigh the same.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: FIRST, Reddy et al. 2024, arXiv 2406.15657; RankNet is from Burges et al., ICML 2005.

    Example:
        Equal scores give log(2) for each pair; the ranks are 1, 2, 3: (1/3 + 1/4 + 1/5) log(2).

        >>> import torch
        >>> weighted_ranknet(torch.zeros(1, 3), torch.tensor([[9.0, 5.0, 1.0]]))
        tensor([0.5430])
        >>> weighted_ranknet(torch.zeros(1, 3), torch.tensor([[9.0, 5.0, 1.0]]), normalize=True)
        tensor([0.6931])
    """
    check_flag("normalize", normalize)
    scores, labels, mask = checked_lists(scores, labels, mask, TEACHER_SCORES)
    ranks = mean_ranks(labels, mask).to(scores.dtype)
    comparable = better_pairs(labels, mask)  # (..., i, j): i is better
    weights = (1 / (ranks[..., :, None] + ranks[..., None, :])).masked_fill(~comparable, 0.0)
    losses = softplus(scores[..., None, :] - scores[..., :, None])
    total = (weights * losses).sum(dim=(-2, -1))
    if not normalize:
        return total
    weight = weights.sum(dim=(-2, -1))
    return total / weight.masked_fill(weight == 0, 1.0)


def mean_ranks(labels: Tensor, mask: Tensor) -> Tensor:
    """The rank that each label has in its list, 1 for the highest; equal labels share the mean of their ranks.

    Args:
        labels: shape (..., documents).
        mask: True where there is a document: the shape of the labels.

    Returns:
        float32, shape (..., documents); 0.5 and more, and without a meaning where there is no document.

    Example:
        >>> import torch
        >>> mean_ranks(torch.tensor([2.0, 7.0, 2.0, 1.0]), torch.ones(4, dtype=torch.bool))
        tensor([2.5000, 1.0000, 2.5000, 4.0000])
    """
    others = mask[..., None, :]
    higher = ((labels[..., None, :] > labels[..., :, None]) & others).sum(dim=-1)
    equal = ((labels[..., None, :] == labels[..., :, None]) & others).sum(dim=-1)
    return higher.float() + (equal.float() + 1) / 2


def better_pairs(labels: Tensor, mask: Tensor) -> Tensor:
    """Which pairs (i, j) of a list have a higher label at i.

    Args:
        labels: shape (..., documents).
        mask: True where there is a document: the shape of the labels.

    Returns:
        bool, shape (..., documents, documents).

    Example:
        >>> import torch
        >>> better_pairs(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([True, True, False]))
        tensor([[False,  True, False],
                [False, False, False],
                [False, False, False]])
    """
    return (labels[..., :, None] > labels[..., None, :]) & mask[..., :, None] & mask[..., None, :]


class WeightedRankNetLoss(RankingLoss):
    """RankNet on an order, with pairs at the top weighted up: `weighted_ranknet`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        normalize: divide by the sum of the weights, so that lists of any length weigh the same.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = WeightedRankNetLoss(model)
    """

    kind = TEACHER_SCORES
    by_position = True
    citation: ClassVar[str] = """
@misc{reddy2024first,
    title={FIRST: Faster Improved Listwise Reranking with Single Token Decoding},
    author={Reddy, Revanth Gangi and Doo, JaeHyeok and Xu, Yifei and Sultan, Md Arafat and Swain, Deevya and Sil, Avirup and Ji, Heng},
    year={2024},
    eprint={2406.15657},
    archivePrefix={arXiv}
}
"""  # noqa: E501

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
        """See `weighted_ranknet`."""
        return weighted_ranknet(scores, labels, mask, normalize=self.normalize)
