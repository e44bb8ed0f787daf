"""LlamaIndex: its own loader for a plain checkpoint, and the postprocessor for what that does not see."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_index.core", reason="needs llama-index-core")

from integrations_data import DOCUMENTS, QUERY, SCORES, Checkpoints, best_first, logits, mixed
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from scipy.special import expit

from cmp_rerank.integrations.llama_index import LlamaIndexReranker

NODES = [
    NodeWithScore(node=TextNode(text=text, id_=f"d{place}"), score=score)
    for place, (text, score) in enumerate(zip(DOCUMENTS, SCORES, strict=True))
]


def places(nodes: list[NodeWithScore]) -> list[int]:
    return [int(node.node_id[1:]) for node in nodes]


def test_the_postprocessor_orders_as_predict(case: tuple[str, list[float]]) -> None:
    folder, scores = case
    found = LlamaIndexReranker(model=folder, top_n=4, device="cpu").postprocess_nodes(NODES, query_str=QUERY)
    assert places(found) == best_first(scores)[:4]
    assert [node.score for node in found] == pytest.approx([scores[place] for place in places(found)], abs=1e-5)
    assert [node.score for node in NODES] == SCORES
    assert LlamaIndexReranker(model=folder, device="cpu").postprocess_nodes([], query_str=QUERY) == []


def test_the_guard_joins_scores(checkpoints: Checkpoints) -> None:
    reranker = LlamaIndexReranker(model=checkpoints.mixed, top_n=None, device="cpu")
    found = reranker.postprocess_nodes(NODES, query_bundle=QueryBundle(QUERY))
    assert list(zip(places(found), [node.score for node in found], strict=True)) == [
        (place, pytest.approx(score)) for place, score in mixed(checkpoints.mixed)
    ]


def test_without_a_query(checkpoints: Checkpoints) -> None:
    with pytest.raises(ValueError, match="needs the query"):
        LlamaIndexReranker(model=checkpoints.plain, device="cpu").postprocess_nodes(NODES)


def test_its_own_loader_takes_a_plain_checkpoint(checkpoints: Checkpoints) -> None:
    pytest.importorskip("llama_index.postprocessor.sbert_rerank")
    from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

    reranker = SentenceTransformerRerank(
        model=checkpoints.plain, top_n=4, device="cpu", cross_encoder_kwargs={"max_length": 128}
    )
    found = reranker.postprocess_nodes(NODES, query_str=QUERY)
    scores = logits(checkpoints.plain)
    assert places(found) == best_first(scores)[:4]
    # Its scores are those of `predict` as it is: the sigmoid.
    assert [node.score for node in found] == pytest.approx(expit([scores[i] for i in places(found)]), abs=1e-5)
