"""Smooth forms of nDCG: ApproxNDCG, by approximate ranks, and NeuralNDCG, by an approximate sort."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import check_choice, check_flag, check_positive, check_share, checked_lists
from cmp_rerank.ranking_losses.labels import GRADES, smooth_labels
from cmp_rerank.text.checks import check_whole

__all__ = ["ApproxNDCGLoss", "NeuralNDCGLoss", "approx_ndcg", "neural_ndcg", "neural_sort"]

Gain = Literal["exponential", "linear"]
GAINS = ("exponential", "linear")


def approx_ndcg(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 0.1,
    gain: Gain = "exponential",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Give one minus nDCG with approximate ranks.

    With ``r(i) = 1 + sum over j != i of sigmoid((s(j) - s(i)) / temperature)`` and gains g::

        L = 1 - sum over i of g(y(i)) / log2(1 + r(i)) / ideal DCG

    It lies between 0 and 1, and tends to one minus nDCG as the temperature falls. There, documents of equal score
    share the mean of their ranks. A list without a positive gives 0.

    Args:
        scores: of the model, shape (..., documents).
        labels: relevance grades >= 0, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        temperature: softness of the ranks, in the unit of the scores, > 0; 1 / alpha of the paper.
        gain: of a grade y: "exponential", 2^y - 1, or "linear", y.
        label_smoothing: see `smooth_labels`.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: Qin, Liu and Li, 2010, "A general approximation framework for direct optimization of information retrieval
    measures"; for neural rankers Bruch et al., SIGIR 2019.

    Example:
        The positive scores log(3) below the negative: its rank is 1 + 3/4, so that the loss is 1 - 1/log2(2.75).

        >>> scores = torch.tensor([[1.0, 3.0]]).log()
        >>> approx_ndcg(scores, torch.tensor([[1.0, 0.0]]), temperature=1.0)
        tensor([0.3148])
        >>> approx_ndcg(scores, torch.tensor([[1.0, 0.0]]), temperature=0.01)  # 1 - 1/log2(3)
        tensor([0.3691])
    """
    check_positive("temperature", temperature)
    check_choice("gain", gain, GAINS)
    check_share("label_smoothing", label_smoothing)
    scores, labels, mask = checked_lists(scores, labels, mask, GRADES)
    gains = _gains(smooth_labels(labels, mask, label_smoothing), gain)
    above = ((scores[..., None, :] - scores[..., :, None]) / temperature).sigmoid()  # (..., i, j): j above i
    rivals = mask[..., None, :] & ~torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    ranks = 1 + above.masked_fill(~rivals, 0.0).sum(dim=-1)  # (..., documents)
    return _one_minus_ndcg((gains / (1 + ranks).log2()).sum(dim=-1), gains, None)


def neural_sort(scores: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """Give the logarithm of NeuralSort's relaxed permutation matrix.

    For n documents, row r is the place r, and column j the document j::

        P(r, j) = softmax over j of ( (n + 1 - 2 r) s(j) - sum over k of |s(j) - s(k)| ) / temperature

    As the temperature falls, row r tends to the document with the r-th largest score. Padding is sorted into itself,
    below the documents.

    Args:
        scores: finite, shape (..., documents).
        mask: True where there is a document; None: everywhere.
        temperature: softness of the order, in the unit of the scores, > 0.

    Returns:
        log P, shape (..., places, documents). The exponentials of each row sum to 1.

    Source: Grover et al., ICLR 2019, arXiv 1903.08850, equation 5.

    Example:
        For the scores 0 and log 2, the sum of |s(j) - s(k)| is log 2 for both. The logits are s - log 2 in row 1 and
        -s - log 2 in row 2.

        >>> neural_sort(torch.tensor([1.0, 2.0]).log()).exp()
        tensor([[0.3333, 0.6667],
                [0.6667, 0.3333]])
        >>> neural_sort(torch.tensor([1.0, 3.0, 2.0]), temperature=0.01).exp().round()
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])
    """
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    places = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    count = mask.sum(dim=-1, keepdim=True)  # (..., 1)
    spread = (scores[..., :, None] - scores[..., None, :]).abs().masked_fill(~mask[..., None, :], 0.0).sum(dim=-1)
    slope = (count + 1 - 2 * places).to(scores.dtype)  # (..., places)
    logits = (slope[..., :, None] * scores[..., None, :] - spread[..., None, :]) / temperature  # (..., places, docs)
    real = (places <= count)[..., :, None] & mask[..., None, :]
    place_of_padding = (count + (~mask).cumsum(dim=-1)).masked_fill(mask, 0)  # (..., documents)
    itself = place_of_padding[..., None, :] == places[:, None]
    return logits.masked_fill(~real, -math.inf).masked_fill(itself, 0.0).log_softmax(dim=-1)


def neural_ndcg(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    k: int | None = None,
    transposed: bool = False,
    gain: Gain = "exponential",
    label_smoothing: float = 0.0,
    iterations: int = 50,
) -> Tensor:
    """Give one minus nDCG, where the sort is NeuralSort's relaxed one.

    With the relaxed permutation P of `neural_sort`, scaled by Sinkhorn until rows and columns sum to 1, the gains g
    of the documents and the discounts d of the places, 0 beyond k::

        L = 1 - sum over places r of d(r) (scale(P) g)(r) / ideal DCG                   the gains are sorted
        L = 1 - sum over documents i of g(i) (scale(P^T) d)(i) / ideal DCG              transposed: the discounts are

    Both are one double sum. They differ only by what the scaling leaves undone: places sum to 1 exactly in the first,
    documents in the second. What is undone may also take the loss below 0. With few iterations, a model can learn
    that instead of the order.

    As the temperature falls, the loss tends to one minus nDCG@k; documents of equal score share their places evenly.
    A list without a positive gives 0.

    Args:
        scores: of the model, shape (..., documents).
        labels: relevance grades >= 0, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        temperature: softness of the sort, in the unit of the scores, > 0.
        k: how many places count; None: all.
        transposed: which of the two forms.
        gain: of a grade y: "exponential", 2^y - 1, or "linear", y.
        label_smoothing: see `smooth_labels`.
        iterations: how often columns and rows are scaled. It is fixed, where the authors' code stops by a tolerance
            over the batch, so that a list has one loss in any batch.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: Pobrotyn and Bialobrzeski, 2021, arXiv 2102.07831.

    Example:
        The scores 0 and log 2 give P = ((1/3, 2/3), (2/3, 1/3)), which needs no scaling. The positive scores 0:
        1 - (1/3 + 2/3 / log2(3)).

        >>> scores = torch.tensor([[1.0, 2.0]]).log()
        >>> neural_ndcg(scores, torch.tensor([[1.0, 0.0]]))
        tensor([0.2460])
        >>> neural_ndcg(scores, torch.tensor([[1.0, 0.0]]), temperature=0.01)  # 1 - 1/log2(3)
        tensor([0.3691])
    """
    check_positive("temperature", temperature)
    k = None if k is None else check_whole("k", k)
    check_flag("transposed", transposed)
    check_choice("gain", gain, GAINS)
    check_share("label_smoothing", label_smoothing)
    iterations = check_whole("iterations", iterations, 0)
    scores, labels, mask = checked_lists(scores, labels, mask, GRADES)
    gains = _gains(smooth_labels(labels, mask, label_smoothing), gain)
    discounts = _discounts(gains, k)  # (places,)
    log_p = neural_sort(scores, mask, temperature=temperature)  # (..., places, documents)
    # No matrix product: under autocast it would run in half precision.
    if transposed:
        scaled = _sinkhorn(log_p.transpose(-1, -2), iterations).exp()  # (..., documents, places)
        dcg = (gains * (scaled * discounts).sum(dim=-1)).sum(dim=-1)
    else:
        scaled = _sinkhorn(log_p, iterations).exp()
        dcg = (discounts * (scaled * gains[..., None, :]).sum(dim=-1)).sum(dim=-1)
    return _one_minus_ndcg(dcg, gains, k)


def _sinkhorn(log_p: Tensor, iterations: int) -> Tensor:
    """Scale columns, then rows, to sums of 1, in logarithms: (..., n, n). Each has at least one finite entry."""
    for _ in range(iterations):
        log_p = log_p - log_p.logsumexp(dim=-2, keepdim=True)
        log_p = log_p - log_p.logsumexp(dim=-1, keepdim=True)
    return log_p


def _gains(labels: Tensor, gain: Gain) -> Tensor:
    """Gains up to a factor of the list, which nDCG does not notice; 0 for a label of 0. 2^y alone would overflow."""
    if gain == "linear":
        return labels
    top = labels.amax(dim=-1, keepdim=True)
    return (labels - top).exp2() - (-top).exp2()


def _discounts(like: Tensor, k: int | None) -> Tensor:
    """1 / log2(1 + place), 0 beyond k: (places,)."""
    places = torch.arange(1, like.shape[-1] + 1, device=like.device, dtype=like.dtype)
    discounts = 1 / (1 + places).log2()
    return discounts if k is None else discounts.masked_fill(places > k, 0.0)


def _one_minus_ndcg(dcg: Tensor, gains: Tensor, k: int | None) -> Tensor:
    """1 - DCG / ideal DCG; 0 where there is no gain to be had: (...)."""
    ideal = (gains.sort(dim=-1, descending=True).values * _discounts(gains, k)).sum(dim=-1)
    some = ideal > 0
    return torch.where(some, 1 - dcg / torch.where(some, ideal, 1.0), 0.0 * dcg)


class ApproxNDCGLoss(RankingLoss):
    """One minus nDCG with approximate ranks: `approx_ndcg`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        temperature: softness of the ranks, in the unit of the scores, > 0.
        gain: of a grade y: "exponential", 2^y - 1, or "linear", y.
        label_smoothing: the share of the labels that all documents of a list get alike, from 0 to 1.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = ApproxNDCGLoss(model, temperature=0.5)
    """

    kind = GRADES
    by_position = True
    citation: ClassVar[str] = """
@article{qin2010general,
    title={A general approximation framework for direct optimization of information retrieval measures},
    author={Qin, Tao and Liu, Tie-Yan and Li, Hang},
    journal={Information Retrieval},
    volume={13},
    pages={375--397},
    year={2010}
}
"""

    def __init__(
        self,
        model: nn.Module,
        temperature: float = 0.1,
        gain: Gain = "exponential",
        *,
        label_smoothing: float = 0.0,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_positive("temperature", temperature)
        check_choice("gain", gain, GAINS)
        check_share("label_smoothing", label_smoothing)
        self.temperature = temperature
        self.gain: Gain = gain
        self.label_smoothing = label_smoothing

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `approx_ndcg`."""
        return approx_ndcg(
            scores,
            labels,
            mask,
            temperature=self.temperature,
            gain=self.gain,
            label_smoothing=self.label_smoothing,
        )


class NeuralNDCGLoss(RankingLoss):
    """One minus nDCG with a relaxed sort: `neural_ndcg`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        temperature: softness of the sort, in the unit of the scores, > 0.
        k: how many places count; None: all.
        transposed: whether the discounts are sorted instead of the gains.
        gain: of a grade y: "exponential", 2^y - 1, or "linear", y.
        label_smoothing: the share of the labels that all documents of a list get alike, from 0 to 1.
        iterations: how often the relaxed permutation is scaled.
        ignore_label: see `RankingLoss`.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = NeuralNDCGLoss(model, temperature=1.0, k=10)
    """

    kind = GRADES
    by_position = True
    citation: ClassVar[str] = """
@misc{pobrotyn2021neuralndcg,
    title={NeuralNDCG: Direct Optimisation of a Ranking Metric via Differentiable Relaxation of Sorting},
    author={Pobrotyn, Przemysław and Białobrzeski, Radosław},
    year={2021},
    eprint={2102.07831},
    archivePrefix={arXiv}
}
"""

    def __init__(
        self,
        model: nn.Module,
        temperature: float = 1.0,
        k: int | None = None,
        transposed: bool = False,
        gain: Gain = "exponential",
        *,
        label_smoothing: float = 0.0,
        iterations: int = 50,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_positive("temperature", temperature)
        check_flag("transposed", transposed)
        check_choice("gain", gain, GAINS)
        check_share("label_smoothing", label_smoothing)
        self.temperature = temperature
        self.k = None if k is None else check_whole("k", k)
        self.transposed = transposed
        self.gain: Gain = gain
        self.label_smoothing = label_smoothing
        self.iterations = check_whole("iterations", iterations, 0)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `neural_ndcg`."""
        return neural_ndcg(
            scores,
            labels,
            mask,
            temperature=self.temperature,
            k=self.k,
            transposed=self.transposed,
            gain=self.gain,
            label_smoothing=self.label_smoothing,
            iterations=self.iterations,
        )
