"""Any reranker over a run of any size: in groups of queries, resumable, over several processes.

Nothing here imports torch before a model is run.
"""

from cmp_rerank.reranking.options import RerankOptions
from cmp_rerank.reranking.rerank import rerank_run
from cmp_rerank.reranking.result import Counts

__all__ = ["Counts", "RerankOptions", "rerank_run"]
