"""How large a request may be, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass

from cmp_rerank.ir.arguments import check_count


@dataclass(frozen=True)
class Limits:
    """What is refused before any of it is scored.

    Attributes:
        documents: Documents of a request.
        query_characters: Characters of the query.
        document_characters: Characters of a document.
        body_bytes: Bytes of the body of a request.
        waiting_pairs: Pairs of all requests that are not answered yet. Beyond that, a request is told to come again
            later; one alone may always be as large as the other limits say.

    Raises:
        ValueError: A limit is no whole number of at least 1.

    Example:
        >>> Limits(documents=100).documents
        100
    """

    documents: int = 1000
    query_characters: int = 10_000
    document_characters: int = 1_000_000
    body_bytes: int = 32 * 1024 * 1024
    waiting_pairs: int = 10_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(name, value)
