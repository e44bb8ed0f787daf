"""A reranker behind HTTP: the request and response that Cohere, Jina and TEI share, batched across requests.

Everything but `batching` and `limits` needs the extra ``serve``.
"""

from cmp_rerank.serving.limits import Limits

__all__ = ["Limits"]
