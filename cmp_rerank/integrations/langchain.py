"""LangChain: a reranker and a reader as document compressors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PrivateAttr

from cmp_rerank.integrations.candidates import CandidateReranker, needs
from cmp_rerank.reader import Reader

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
except ImportError as error:
    raise needs("langchain-core", "LangChain") from error


class LangChainReranker(BaseDocumentCompressor):
    """Keeps the best documents, in the order of a reranker.

    Args:
        model: A checkpoint or a model, see :class:`~cmp_rerank.integrations.candidates.CandidateReranker`.
        top_n: How many documents are kept; None: all.
        mix: Whether a checkpoint that the guard joins with the first stage is refused: documents of LangChain have no
            scores.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Example:
        ::

            compressor = LangChainReranker(model="my-run/guard/model", top_n=5)
            retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=bm25)
    """

    model: Any
    top_n: int | None = 3
    mix: bool = True
    device: str | None = None
    _reranker: CandidateReranker = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Load the checkpoint."""
        self._reranker = CandidateReranker(self.model, mix=self.mix, device=self.device)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        """The best documents, best first; their score (a logit) is ``metadata["relevance_score"]``."""
        ranked = self._reranker.rank(query, [document.page_content for document in documents])
        return [_with(documents[place], relevance_score=score) for place, score in ranked[: self.top_n]]


class LangChainReader(BaseDocumentCompressor):
    """Reduces documents to the answers that a reader finds in them.

    Args:
        model: A checkpoint of a reader, or a Reader.
        top_n: How many answers.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Example:
        ::

            (best, *_) = LangChainReader(model="my-reader").compress_documents(documents, "who makes honey")
            print(best.page_content, best.metadata["start"], best.metadata["end"])
    """

    model: Any
    top_n: int = 3
    device: str | None = None
    _reader: Reader = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Load the checkpoint."""
        given = isinstance(self.model, Reader)
        self._reader = self.model if given else Reader.from_pretrained(self.model, self.device)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        """The answers, best first, with the metadata and id of their document.

        Their place in it is ``metadata["start"]`` and ``metadata["end"]``, in characters, and their probability is
        ``metadata["relevance_score"]``. Yes and no, of a reader that may answer so, are of no document, and have
        their probability only.
        """
        if not any(document.page_content.strip() for document in documents):
            return []
        spans = self._reader.answer(query, [document.page_content for document in documents], self.top_n)
        return [
            _with(
                documents[span.passage], span.text, relevance_score=span.probability, start=span.start, end=span.end
            )
            if span.passage >= 0
            else Document(page_content=span.text, metadata={"relevance_score": span.probability})
            for span in spans
        ]


def _with(document: Document, text: str | None = None, **metadata: Any) -> Document:
    """A copy with more metadata; what was given stays as it was."""
    content = document.page_content if text is None else text
    return document.model_copy(update={"page_content": content, "metadata": {**document.metadata, **metadata}})
