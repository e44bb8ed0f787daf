"""A reranker as search stacks call it: a query and texts in, places and scores out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cmp_rerank.guard.save import read_mix
from cmp_rerank.reranking import rerank_run
from cmp_rerank.reranking.loading import load_reranker


class CandidateReranker:
    """Ranks the candidates of a query, just as ``cmp-rerank rerank`` does.

    Args:
        model: A checkpoint (a folder, or a name on the hub), or a model with ``predict(pairs)``. A checkpoint that a
            LongDocumentReranker has saved reads documents in passages.
        mix: Whether scores are joined with those of the first stage, where the guard's file beside the checkpoint
            says so.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Raises:
        ValueError: There is no such checkpoint, or it is no reranker.

    Example:
        >>> class Overlap:
        ...     def predict(self, pairs):
        ...         return [len(set(query.split()) & set(text.split())) for query, text in pairs]
        >>> CandidateReranker(Overlap()).rank("cat sat", ["a dog", "the cat sat", "the cat"])
        [(1, 2.0), (2, 1.0), (0, 0.0)]
    """

    def __init__(self, model: Any, *, mix: bool = True, device: str | None = None) -> None:
        named = isinstance(model, str | os.PathLike)
        self.mix = read_mix(model) if named and mix else None
        self.model = load_reranker(model, device=device) if named else model

    def rank(
        self, query: str, texts: Sequence[str], scores: Sequence[float | None] | None = None
    ) -> list[tuple[int, float]]:
        """Rank texts for a query.

        Args:
            query: The query.
            texts: The texts of the candidates, the best of the first stage first where it has no scores.
            scores: Those of the first stage; only looked at where they are joined.

        Returns:
            (place among the texts, score), best first; of equals the one that came first.

        Raises:
            ValueError: Scores are to be joined, and there are none; or the model gives one that is not finite.
        """
        if not texts:
            return []
        given = list(scores or [])
        if self.mix is not None and self.mix.weight < 1 and (len(given) != len(texts) or None in given):
            raise ValueError(
                f"the guard joins the scores with the first stage ({self.mix.weight:g} of the model); got candidates "
                "without scores; take a first stage that gives them, or use the model alone: mix=False"
            )
        count = len(texts)
        # Ids that fall as places rise: of equal scores, the greater id is first.
        ids = [f"{count - place:09d}" for place in range(count)]
        joined = self.mix is not None and self.mix.weight < 1
        first = {name: float(given[place] or 0.0) if joined else -float(place) for place, name in enumerate(ids)}
        run: Any = rerank_run(
            self.model,
            {"query": query},
            dict(zip(ids, texts, strict=True)),
            {"query": first},
            depth=self.mix.depth if joined and self.mix is not None else None,
            mix=self.mix if joined else None,
        )
        return [(count - int(name), score) for name, score in run["query"].items()]


def needs(package: str, library: str) -> ImportError:
    """The error where a library is missing."""
    return ImportError(f"this needs {library}: pip install {package}")
