"""Losses for the sentence-transformers trainers."""

from cmp_rerank.losses.comparative import ComparativeLoss

__all__ = ["ComparativeLoss"]
