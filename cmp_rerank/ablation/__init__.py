"""What a step of an ablation takes away: context (CmpCrop) and neurons (CmpDrop)."""

from cmp_rerank.ablation.crop import CmpCrop
from cmp_rerank.ablation.drop import CmpDrop
from cmp_rerank.ablation.schedules import FeedbackCounts, FixedCounts, Fractions, RandomCounts
from cmp_rerank.ablation.show import show_views
from cmp_rerank.ablation.views import Example, Plan, View, alternate

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
