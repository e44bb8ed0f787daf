"""Training data from runs: negatives, filters, labels of a teacher, and queries of the test split kept out."""

from cmp_rerank.mining.counts import MiningCounts
from cmp_rerank.mining.formats import format_of
from cmp_rerank.mining.leakage import Leak, find_leaks
from cmp_rerank.mining.mine import Mined, mine
from cmp_rerank.mining.negatives import sample_negatives
from cmp_rerank.mining.options import MiningOptions
from cmp_rerank.mining.rows import take_support

__all__ = [
    "Leak",
    "Mined",
    "MiningCounts",
    "MiningOptions",
    "find_leaks",
    "format_of",
    "mine",
    "sample_negatives",
    "take_support",
]
