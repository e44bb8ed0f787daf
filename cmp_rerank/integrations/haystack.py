"""Haystack: a reranker as ranker component, and a reader as component that extracts answers."""

# No `from __future__ import annotations`: Haystack reads the types of `run` as they are.
from dataclasses import replace
from typing import Any

from cmp_rerank.integrations.candidates import CandidateReranker, needs
from cmp_rerank.reader import Reader

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import ExtractedAnswer
except ImportError as error:
    raise needs("haystack-ai", "Haystack") from error


@component
class HaystackReranker:
    """Ranks documents, with the scores of a reranker.

    Args:
        model: A checkpoint or a model, see :class:`~cmp_rerank.integrations.candidates.CandidateReranker`. A pipeline
            can be saved only with a checkpoint.
        top_k: How many documents are kept; None: all.
        mix: Whether scores are joined with those of the retriever, where the guard has chosen so.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Example:
        ::

            pipeline.add_component("reranker", HaystackReranker("my-run/guard/model", top_k=5))
            pipeline.connect("retriever.documents", "reranker.documents")
    """

    def __init__(self, model: Any, top_k: int | None = None, mix: bool = True, device: str | None = None) -> None:
        self.model, self.top_k, self.mix, self.device = model, top_k, mix, device
        self._reranker: CandidateReranker | None = None

    def warm_up(self) -> None:
        """Load the checkpoint; a pipeline does so before its first run."""
        if self._reranker is None:
            self._reranker = CandidateReranker(self.model, mix=self.mix, device=self.device)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """The documents, best first.

        Args:
            query: The query.
            documents: The candidates.
            top_k: How many are kept, in place of what the constructor says.
        """
        self.warm_up()
        assert self._reranker is not None
        texts = [document.content or "" for document in documents]
        ranked = self._reranker.rank(query, texts, [document.score for document in documents])
        most = self.top_k if top_k is None else top_k
        return {"documents": [replace(documents[place], score=score) for place, score in ranked[:most]]}

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline saves."""
        return _saved(self, top_k=self.top_k, mix=self.mix, device=self.device)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "HaystackReranker":
        """The component of a saved pipeline."""
        made: HaystackReranker = default_from_dict(cls, data)
        return made


@component
class HaystackReader:
    """Extracts answers from documents.

    Args:
        model: A checkpoint of a reader, or a Reader. A pipeline can be saved only with a checkpoint.
        top_k: How many answers.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Example:
        ::

            pipeline.add_component("reader", HaystackReader("my-reader", top_k=1))
            pipeline.connect("reranker.documents", "reader.documents")
    """

    def __init__(self, model: Any, top_k: int = 3, device: str | None = None) -> None:
        self.model, self.top_k, self.device = model, top_k, device
        self._reader: Reader | None = None

    def warm_up(self) -> None:
        """Load the checkpoint; a pipeline does so before its first run."""
        if self._reader is None:
            given = isinstance(self.model, Reader)
            self._reader = self.model if given else Reader.from_pretrained(self.model, self.device)

    @component.output_types(answers=list[ExtractedAnswer])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[ExtractedAnswer]]:
        """The answers, best first, with their document, and where they stand in it; the score is a probability.

        Yes and no, of a reader that may answer so, stand in no document.

        Args:
            query: The question.
            documents: Where answers are looked for.
            top_k: How many answers, in place of what the constructor says.
        """
        self.warm_up()
        assert self._reader is not None
        if not any((document.content or "").strip() for document in documents):
            return {"answers": []}
        most = self.top_k if top_k is None else top_k
        spans = self._reader.answer(query, [document.content or "" for document in documents], most)
        return {
            "answers": [
                ExtractedAnswer(
                    query=query,
                    score=span.probability,
                    data=span.text,
                    document=documents[span.passage] if span.passage >= 0 else None,
                    document_offset=ExtractedAnswer.Span(span.start, span.end) if span.passage >= 0 else None,
                )
                for span in spans
            ]
        }

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline saves."""
        return _saved(self, top_k=self.top_k, device=self.device)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "HaystackReader":
        """The component of a saved pipeline."""
        made: HaystackReader = default_from_dict(cls, data)
        return made


def _saved(made: Any, **options: Any) -> dict[str, Any]:
    if not isinstance(made.model, str):
        raise ValueError(
            f"a pipeline is saved with the name of a checkpoint; got {type(made.model).__name__}; give its folder as "
            "a string in place of the loaded model"
        )
    saved: dict[str, Any] = default_to_dict(made, model=made.model, **options)
    return saved
