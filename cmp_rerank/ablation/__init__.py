"""What a step of an ablation takes away: context (CmpCrop) and neurons (CmpDrop)."""

from cmp_rerank.ablation.crop import CmpCrop
from cmp_rerank.ablation.drop import CmpDrop
from cmp_rerank.ablation.views import Example, Plan, View

__all__ = ["CmpCrop", "CmpDrop", "Example", "Plan", "View"]
