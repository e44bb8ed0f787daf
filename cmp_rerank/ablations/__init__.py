"""What a step of an ablation takes away: context (CmpCrop) and neurons (CmpDrop)."""

from cmp_rerank.ablations.crop import CmpCrop
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.ablations.schedules import FeedbackCounts, FixedCounts, Fractions, RandomCounts
from cmp_rerank.ablations.views import Example, Plan, View, alternate
from cmp_rerank.models.show import show_views

__all__ = [
    "CmpCrop",
    "CmpDrop",
    "Example",
    "FeedbackCounts",
    "FixedCounts",
    "Fractions",
    "Plan",
    "RandomCounts",
    "View",
    "alternate",
    "show_views",
]
