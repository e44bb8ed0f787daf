"""LlamaIndex: a reranker as node postprocessor."""

from __future__ import annotations

from typing import Any

from pydantic import PrivateAttr

from cmp_rerank.integrations.candidates import CandidateReranker, needs

try:
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise needs("llama-index-core", "LlamaIndex") from error


class LlamaIndexReranker(BaseNodePostprocessor):
    """Keeps the best nodes, in the order of a reranker, with its scores.

    Args:
        model: A checkpoint or a model, see :class:`~cmp_rerank.integrations.candidates.CandidateReranker`.
        top_n: How many nodes are kept; None: all.
        mix: Whether scores are joined with those of the retriever, where the guard has chosen so.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Example:
        ::

            postprocessor = LlamaIndexReranker(model="my-run/guard/model", top_n=5)
            engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[postprocessor])
    """

    model: Any
    top_n: int | None = 3
    mix: bool = True
    device: str | None = None
    _reranker: CandidateReranker = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the checkpoint."""
        super().model_post_init(context)
        self._reranker = CandidateReranker(self.model, mix=self.mix, device=self.device)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("a reranker needs the query; got none; give query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranked = self._reranker.rank(query_bundle.query_str, texts, [node.score for node in nodes])
        return [NodeWithScore(node=nodes[place].node, score=score) for place, score in ranked[: self.top_n]]
