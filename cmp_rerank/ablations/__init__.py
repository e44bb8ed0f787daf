"""What a step takes away: the protocol of an ablation, context (`CmpCrop`), neurons (`CmpDrop`), and their order."""

from cmp_rerank.ablations.base import Ablation, Example, ModelHooks, Prepared, TextPair, View
from cmp_rerank.ablations.copies import IndependentCopies
from cmp_rerank.ablations.crop import CmpCrop
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.ablations.plan import Plan, alternate
from cmp_rerank.ablations.scheduled import ScheduledAblation
from cmp_rerank.ablations.schedules import FeedbackCounts, FixedCounts, Fractions, RandomCounts

__all__ = [
    "Ablation",
    "CmpCrop",
    "CmpDrop",
    "Example",
    "FeedbackCounts",
    "FixedCounts",
    "Fractions",
    "IndependentCopies",
    "ModelHooks",
    "Plan",
    "Prepared",
    "RandomCounts",
    "ScheduledAblation",
    "TextPair",
    "View",
    "alternate",
]
