"""Ranking losses that sentence-transformers lacks, in its contract: texts and labels in, one number out."""

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.circle import CircleLoss
from cmp_rerank.ranking_losses.distillation import ListwiseKLLoss, SupervisedDistillationLoss, TeacherOrderLoss
from cmp_rerank.ranking_losses.margin import ListwiseMarginMSELoss, MarginHingeLoss
from cmp_rerank.ranking_losses.ndcg import ApproxNDCGLoss, NeuralNDCGLoss
from cmp_rerank.ranking_losses.pairwise_softmax import PairwiseSoftmaxLoss
from cmp_rerank.ranking_losses.ranknet import WeightedRankNetLoss
from cmp_rerank.ranking_losses.registry import LOSSES, loss_class
from cmp_rerank.ranking_losses.softmax import ListwiseSoftmaxLoss, LocalizedContrastiveLoss

__all__ = [
    "LOSSES",
    "ApproxNDCGLoss",
    "CircleLoss",
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
