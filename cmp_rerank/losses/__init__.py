"""Losses for the sentence-transformers trainers."""

from cmp_rerank.losses.comparative import ComparativeLoss
from cmp_rerank.ranking_losses import (
    LOSSES,
    ApproxNDCGLoss,
    CircleLoss,
    ListwiseKLLoss,
    ListwiseMarginMSELoss,
    ListwiseSoftmaxLoss,
    LocalizedContrastiveLoss,
    MarginHingeLoss,
    NeuralNDCGLoss,
    PairwiseSoftmaxLoss,
    RankingLoss,
    SupervisedDistillationLoss,
    TeacherOrderLoss,
    WeightedRankNetLoss,
    loss_class,
)

__all__ = [
    "LOSSES",
    "ApproxNDCGLoss",
    "CircleLoss",
    "ComparativeLoss",
    "ListwiseKLLoss",
    "ListwiseMarginMSELoss",
    "ListwiseSoftmaxLoss",
    "LocalizedContrastiveLoss",
    "MarginHingeLoss",
    "NeuralNDCGLoss",
    "PairwiseSoftmaxLoss",
    "RankingLoss",
    "SupervisedDistillationLoss",
    "TeacherOrderLoss",
    "WeightedRankNetLoss",
    "loss_class",
]
