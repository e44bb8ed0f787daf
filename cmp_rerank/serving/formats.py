"""The bodies of requests and responses: one form for Cohere and Jina, one for text-embeddings-inference (TEI)."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator
from scipy.special import expit


class RerankRequest(BaseModel):
    """A query and the texts to rank. Cohere and Jina call these ``documents``, and TEI calls them ``texts``.

    Attributes:
        query: The query.
        documents: The texts, or objects with a field ``text``.
        texts: The texts.
        top_n: How many results are wanted, the best ones; None: all.
        return_documents: Whether results hold their document.
        return_text: Whether results hold their text.
        raw_scores: Whether scores are logits, in place of their sigmoid.
        truncate: Whether texts beyond the window are cut (None, True) or refused (False).
        model: Not looked at: there is one model.

    Raises:
        ValueError: There is no query, or not one list of texts.

    Example:
        >>> RerankRequest(query="q", documents=["a", {"text": "b", "id": 7}]).listed
        ['a', 'b']
    """

    query: str
    documents: list[str] | None = None
    texts: list[str] | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool | None = None
    model: str | None = None

    @field_validator("documents", mode="before")
    @classmethod
    def _texts_of_objects(cls, documents: Any) -> Any:
        if not isinstance(documents, list):
            return documents
        for number, each in enumerate(documents):
            if isinstance(each, dict) and "text" not in each:
                raise ValueError(
                    f"that at index {number} must be a text, or an object with a field 'text'; got {each!s:.80}"
                )
        return [each["text"] if isinstance(each, dict) else each for each in documents]

    @field_validator("query", "documents", "texts")
    @classmethod
    def _of_characters(cls, value: Any) -> Any:
        for text in [value] if isinstance(value, str) else value or ():
            try:
                text.encode()
            except UnicodeEncodeError as error:  # half of a character, by which tokenizers fail
                raise ValueError(
                    f"text must be Unicode; got {text[error.start]!r} alone; send whole characters"
                ) from error
        return value

    @model_validator(mode="after")
    def _one_list(self) -> RerankRequest:
        given = [name for name in ("documents", "texts") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give either documents or texts; got {' and '.join(given) or 'none of them'}")
        if not self.listed:
            raise ValueError(f"{given[0]} must hold at least one text; got an empty list")
        if not self.query.strip():
            raise ValueError(f"query must hold a word; got {self.query!r:.40}")
        return self

    @property
    def listed(self) -> list[str]:
        """The texts, whatever they are called."""
        return self.texts if self.documents is None else self.documents  # type: ignore[return-value]


def ranked(logits: np.ndarray) -> list[int]:
    """Places of the texts by score, best first; of equals the one that came first.

    >>> ranked(np.array([0.5, 2.0, 0.5]))
    [1, 0, 2]
    """
    return np.argsort(-logits, kind="stable").tolist()  # type: ignore[no-any-return]


def response(request: RerankRequest, logits: np.ndarray, model: str, tokens: int) -> Any:
    """The body of the response, in the form of the request.

    Args:
        request: The request.
        logits: (texts,) what the model gave.
        model: Its name.
        tokens: How many tokens were read.

    Example:
        >>> request = RerankRequest(query="q", texts=["a", "b"], raw_scores=True, return_text=True)
        >>> response(request, np.array([-1.0, 2.0]), "my-model", 9)
        [{'index': 1, 'score': 2.0, 'text': 'b'}, {'index': 0, 'score': -1.0, 'text': 'a'}]
    """
    texts = request.listed
    scores = (logits if request.raw_scores else expit(logits)).tolist()
    order = ranked(logits)[: request.top_n]
    told = request.return_text or request.return_documents
    if request.documents is None:
        return [{"index": i, "score": scores[i], **({"text": texts[i]} if told else {})} for i in order]
    return {
        "id": str(uuid.uuid4()),
        "model": model,
        "results": [
            {"index": i, "relevance_score": scores[i], **({"document": {"text": texts[i]}} if told else {})}
            for i in order
        ],
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        "meta": {"api_version": {"version": "2"}, "tokens": {"input_tokens": tokens}},
    }
