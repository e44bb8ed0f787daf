"""Scores of a group of pairs, by whatever the model is: its own `predict`, or passes in order of length."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cmp_rerank.ir.arguments import kind
from cmp_rerank.reranking.checks import PairScorer

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from cmp_rerank.ablations import Example
    from cmp_rerank.models.long_document import LongDocumentReranker


@dataclass(frozen=True)
class PairScores:
    """Scores of pairs.

    Attributes:
        scores: (pairs,) logits, or what the model's `predict` gives.
        cut: How many pairs exceed the model's window.
        passages: How many passages were scored; 0 where documents are not divided.
        found: For each pair its passages as (start, end, score), in the order of the document; empty where they were
            not asked for.
    """

    scores: np.ndarray
    cut: int = 0
    passages: int = 0
    found: list[list[tuple[int, int, float]]] = field(default_factory=list)


class GroupScorer(Protocol):
    """Scores the pairs of a group."""

    def __call__(self, pairs: list[tuple[str, str]]) -> PairScores:
        """Score pairs of texts."""


def scorer_of(
    model: PairScorer,
    *,
    tokens_per_batch: int | None = None,
    passages: bool = False,
    predict_options: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> GroupScorer:
    """How the pairs of a group are scored with a model.

    A CrossEncoder is run in passes of the engine. One whose class scores in a way of its own, and any other object,
    is asked by its `predict`; so is every model if there are options for that.

    Args:
        model: The model.
        tokens_per_batch: How many tokens, padding included, one pass holds; None: what suits the device.
        passages: Whether the passages of each document must be told.
        predict_options: Options for `predict`, which must take them.
        defaults: Options for `predict` that are left out where it does not take them.

    Raises:
        ValueError: Passages are asked of a model that does not divide documents.
    """
    # Who has a CrossEncoder has imported its class; others need not wait for torch.
    package = sys.modules.get("sentence_transformers")
    if package is not None and isinstance(model, package.CrossEncoder) and not predict_options:
        from cmp_rerank.models.long_document import LongDocumentReranker

        if isinstance(model, LongDocumentReranker):
            return ByPassages(model, tokens_per_batch, passages)
        own = any(
            getattr(type(model), name, None) is not getattr(package.CrossEncoder, name, None) for name in _INFERENCE
        )
        if not own and not passages:
            return ByPasses(model, tokens_per_batch)
    if passages:
        raise ValueError(
            f"passages are told by a LongDocumentReranker; got {kind(model)}; wrap it: LongDocumentReranker(model)"
        )
    return ByPredict(model, defaults or {}, predict_options or {})


#: What a class has of its own if it scores in a way of its own; `_inference` came with sentence-transformers 6.2.
_INFERENCE = ("predict", "_inference", "forward")


class ByPasses:
    """Passes of a CrossEncoder, in order of length, each of as many pairs as fit into a number of tokens.

    Tokenising and scoring can be had apart: a server scores pairs of several requests together. A
    LongDocumentReranker divides documents into passages within a pass.

    Args:
        model: The model.
        tokens_per_batch: How many tokens, padding included, one pass holds; None: what suits the device.
    """

    def __init__(self, model: CrossEncoder, tokens_per_batch: int | None = None) -> None:
        from cmp_rerank.engine.memory import Budget
        from cmp_rerank.engine.scorer import Scorer
        from cmp_rerank.models.cross_encoder import pair_adapter

        self.model = model
        self.adapter = pair_adapter(model)
        budget = Budget.without_gradients(tokens_per_batch, model.device)
        self.scorer = Scorer(self.adapter, tokens_per_chunk=budget.tokens)

    def encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[Example], list[bool]]:
        """Tokenise pairs of texts.

        Returns:
            The examples, which `score` takes, and for each pair whether the window has cut it.
        """
        from cmp_rerank.ablations import Example

        prompt = self.model.prompts.get(self.model.default_prompt_name or "")
        encoded = self.adapter.encode(
            self.model, pairs, locate=False, layouts=False, **({"prompt": prompt} if prompt else {})
        )
        examples = [
            Example(features, np.full(len(features["input_ids"]), -1), shared=encoded.shared)
            for features in encoded.features
        ]
        return examples, [layout.truncated for layout in encoded.layouts]

    def score(self, examples: Sequence[Example]) -> np.ndarray:
        """Logits of examples, (pairs,) float64, whichever calls of `encode` they come from."""
        import torch

        from cmp_rerank.engine.inference import whole_scores

        with torch.inference_mode():
            found = whole_scores(self.scorer, self.model, examples, range(len(examples)), block=len(examples))
        return one_score(np.stack([scores for _, scores in found]))  # from (pairs, labels)

    def __call__(self, pairs: list[tuple[str, str]]) -> PairScores:
        """Score pairs of texts."""
        examples, cut = self.encode(pairs)
        return PairScores(self.score(examples), cut=sum(cut))


class ByPassages:
    """A LongDocumentReranker, which divides documents into passages.

    Args:
        model: The model.
        tokens_per_batch: How many tokens, padding included, one pass holds; None: what suits the device.
        tell: Whether the passages must be told.
    """

    def __init__(self, model: LongDocumentReranker, tokens_per_batch: int | None = None, tell: bool = False) -> None:
        self.model, self.tokens_per_batch, self.tell = model, tokens_per_batch, tell

    def __call__(self, pairs: list[tuple[str, str]]) -> PairScores:
        """Score pairs of texts."""
        documents = self.model.score_documents(pairs, tokens_per_batch=self.tokens_per_batch)
        scores = np.asarray(documents.scores.float().cpu().numpy())
        count = sum(len(passages) for passages in documents.passages)
        found = [[(*passage,) for passage in passages] for passages in documents.passages] if self.tell else []
        return PairScores(one_score(scores), passages=count, found=found)


class ByPredict:
    """The model's own `predict`.

    A CrossEncoder is asked for logits, not for their sigmoid: in 32 bits the sigmoid is the same number for all
    logits above 17, and ties would decide the ranking.

    Args:
        model: Anything with ``predict(pairs)``.
        options: Options that are left out where `predict` does not take them.
        wanted: Options that it must take.
    """

    def __init__(self, model: PairScorer, options: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        taken = inspect.signature(model.predict).parameters
        if "activation_fn" in taken and "activation_fn" not in wanted:
            from torch.nn import Identity

            options = {**options, "activation_fn": Identity()}
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        accepted = {name: value for name, value in options.items() if name in taken or anything}
        self.model = model
        self.options = {**accepted, **wanted}

    def __call__(self, pairs: list[tuple[str, str]]) -> PairScores:
        """Score pairs of texts."""
        raw: Any = self.model.predict(pairs, **self.options)
        if hasattr(raw, "detach"):
            raw = raw.detach().float().cpu().numpy()
        scores = np.asarray([float(score) for score in raw] if isinstance(raw, list) else raw, dtype=np.float64)
        return PairScores(one_score(scores, len(pairs)))


def one_score(scores: np.ndarray, pairs: int | None = None) -> np.ndarray:
    """(pairs,) float64, from one score or one label for each pair.

    Raises:
        ValueError: There are more labels, or another number of scores than there are pairs.
    """
    pairs = len(scores) if pairs is None else pairs
    flat = scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores
    if flat.shape != (pairs,):
        several = scores.ndim == 2 and len(scores) == pairs
        raise ValueError(
            f"a reranker must give one score for each pair; got scores of shape {scores.shape} for {pairs} pairs"
            + ("; of a model with several labels, give an object whose predict(pairs) makes one of them" * several)
        )
    return flat.astype(np.float64)
