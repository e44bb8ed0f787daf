"""Softmax losses over a list: RankT5's, with its poly-1 variant, and localized contrastive estimation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import check_flag, check_share, checked_lists
from cmp_rerank.ranking_losses.labels import GRADES, smooth_labels
from cmp_rerank.ranking_losses.masked import mean_over

__all__ = ["ListwiseSoftmaxLoss", "LocalizedContrastiveLoss", "listwise_softmax", "localized_contrastive"]


def listwise_softmax(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    epsilon: float = 0.0,
    normalize: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Give the cross-entropy of a list's softmax, weighted by the labels: RankT5's softmax loss.

    With ``p = softmax(s)`` over the documents of a list::

        L = sum over i of y(i) [ -log p(i) + epsilon (1 - p(i)) ]

    Several positives share the list: each is a term of the sum. ``epsilon`` > 0 is the poly-1 variant. A list without
    a positive gives 0.

    Args:
        scores: of the model, shape (..., documents).
        labels: relevance grades >= 0, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        epsilon: the weight of the poly-1 term, >= 0.
        normalize: divide the labels of a list by their sum, so that each list weighs the same.
        label_smoothing: see `smooth_labels`.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: RankT5, Zhuang et al. 2023, arXiv 2210.10634; the poly-1 term is from PolyLoss, arXiv 2204.12511.

    Example:
        Here p = (3/4, 1/4). One positive: -log(3/4). Its poly-1 form adds 1 - 3/4. Grades 2 and 1 give
        -2 log(3/4) - log(1/4).

        >>> scores = torch.tensor([[3.0, 1.0]]).log()
        >>> listwise_softmax(scores, torch.tensor([[1.0, 0.0]]))
        tensor([0.2877])
        >>> listwise_softmax(scores, torch.tensor([[1.0, 0.0]]), epsilon=1.0)
        tensor([0.5377])
        >>> listwise_softmax(scores, torch.tensor([[2.0, 1.0]]))
        tensor([1.9617])
    """
    check_share("epsilon", epsilon, float("inf"))
    check_flag("normalize", normalize)
    check_share("label_smoothing", label_smoothing)
    scores, labels, mask = checked_lists(scores, labels, mask, GRADES)
    labels = smooth_labels(labels, mask, label_smoothing)
    if normalize:
        total = labels.sum(dim=-1, keepdim=True)
        labels = labels / total.masked_fill(total == 0, 1.0)
    log_p = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).log_softmax(dim=-1)  # (..., documents)
    terms = -log_p + epsilon * (1 - log_p.exp())
    return (labels * terms.masked_fill(~mask, 0.0)).sum(dim=-1)


def localized_contrastive(
    scores: Tensor, labels: Tensor, mask: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Give the cross-entropy of each positive against the negatives of its query, averaged over the positives.

    With the positives P (grade above 0) and the negatives N of a list::

        L = -(1/|P|) sum over i in P of log( exp(s(i)) / ( exp(s(i)) + sum over j in N of exp(s(j)) ) )

    In contrast to `listwise_softmax`, positives do not compete with each other. Grades above 0 count alike. A list
    without a positive or without a negative gives 0.

    Args:
        scores: of the model, shape (..., documents).
        labels: relevance grades >= 0, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        label_smoothing: in the group of a positive and the negatives; see `smooth_labels`.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: localized contrastive estimation, Gao et al. 2021, arXiv 2101.08751.

    Example:
        exp(s) is 2 and 3 for the positives, 1 and 4 for the negatives: -(log(2/7) + log(3/8)) / 2.

        >>> scores = torch.tensor([[2.0, 3.0, 1.0, 4.0]]).log()
        >>> localized_contrastive(scores, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        tensor([1.1168])
    """
    check_share("label_smoothing", label_smoothing)
    scores, labels, mask = checked_lists(scores, labels, mask, GRADES)
    positive = labels > 0
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    group = (positive[..., :, None] & own) | (mask & ~positive)[..., None, :]  # (..., positives, documents)
    each = listwise_softmax(
        scores[..., None, :].expand(group.shape), own.expand(group.shape), group, label_smoothing=label_smoothing
    )  # (..., positives)
    return mean_over(each, positive)  # alone in its group, a positive has loss 0


class ListwiseSoftmaxLoss(RankingLoss):
    """RankT5's softmax loss over the documents of a query, with its poly-1 variant: `listwise_softmax`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        epsilon: the weight of the poly-1 term, >= 0; 0: the plain loss.
        normalize: divide the labels of a list by their sum, so that each list weighs the same.
        label_smoothing: the share of the labels that all documents of a list get alike, from 0 to 1.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = ListwiseSoftmaxLoss(model, epsilon=1.0)
    """

    kind = GRADES
    by_position = True
    citation: ClassVar[str] = """
@inproceedings{zhuang2023rankt5,
    title={RankT5: Fine-Tuning T5 for Text Ranking with Ranking Losses},
    author={Zhuang, Honglei and Qin, Zhen and Jagerman, Rolf and Hui, Kai and Ma, Ji and Lu, Jing and Ni, Jianmo and Wang, Xuanhui and Bendersky, Michael},
    booktitle={Proceedings of the 46th International ACM SIGIR Conference on Research and Development in Information Retrieval},
    year={2023},
    eprint={2210.10634},
    archivePrefix={arXiv}
}
"""  # noqa: E501

    def __init__(
        self,
        model: nn.Module,
        epsilon: float = 0.0,
        normalize: bool = False,
        *,
        label_smoothing: float = 0.0,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_share("epsilon", epsilon, float("inf"))
        check_flag("normalize", normalize)
        check_share("label_smoothing", label_smoothing)
        self.epsilon = epsilon
        self.normalize = normalize
        self.label_smoothing = label_smoothing

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `listwise_softmax`."""
        return listwise_softmax(
            scores,
            labels,
            mask,
            epsilon=self.epsilon,
            normalize=self.normalize,
            label_smoothing=self.label_smoothing,
        )


class LocalizedContrastiveLoss(RankingLoss):
    """Each positive against the hard negatives of its own query: `localized_contrastive`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        label_smoothing: the share of the label that all documents of a group get alike, from 0 to 1.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = LocalizedContrastiveLoss(model)
    """

    kind = GRADES
    by_position = True
    citation: ClassVar[str] = """
@inproceedings{gao2021lce,
    title={Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline},
    author={Gao, Luyu and Dai, Zhuyun and Callan, Jamie},
    booktitle={Advances in Information Retrieval (ECIR)},
    year={2021},
    eprint={2101.08751},
    archivePrefix={arXiv}
}
"""

    def __init__(
        self,
        model: nn.Module,
        *,
        label_smoothing: float = 0.0,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_share("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `localized_contrastive`."""
        return localized_contrastive(scores, labels, mask, label_smoothing=self.label_smoothing)
