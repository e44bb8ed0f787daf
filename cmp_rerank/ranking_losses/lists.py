"""A batch as lists: each query with its documents, padded to the longest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["DocumentLists", "read_lists"]


@dataclass(frozen=True, eq=False)
class DocumentLists:
    """The documents of a batch of queries.

    Attributes:
        pairs: (query, document), list after list.
        labels: of the documents, shape (lists, longest), or (lists, longest, columns) with several labels each;
            0 where there is no document.
        mask: True where there is a document: shape (lists, longest).
    """

    pairs: list[tuple[str, str]]
    labels: Tensor
    mask: Tensor

    def padded(self, scores: Tensor) -> Tensor:
        """The scores of the pairs, as lists.

        Args:
            scores: shape (pairs,).

        Returns:
            Shape (lists, longest); 0 where there is no document.
        """
        mask = self.mask.to(scores.device)
        return scores.new_zeros(mask.shape).masked_scatter(mask, scores)


def read_lists(
    loss: str,
    inputs: Sequence[Sequence[Any]],
    labels: Tensor | Sequence[Tensor] | None,
    *,
    ignore_label: float | None = None,
    columns: int = 1,
    by_position: bool = True,
) -> DocumentLists:
    """Read a batch as the trainer hands it to a loss.

    Args:
        loss: the name of the loss, for errors.
        inputs: queries and lists of documents; or queries and two columns of documents or more: the first column is
            the positive, the others are negatives.
        labels: for each query one label a document; None: the first document is the positive (grade 1), the others
            are not (grade 0).
        ignore_label: documents with this label are left out, as if they were not there.
        columns: how many labels a document has.
        by_position: whether the labels may be None.

    Returns:
        The lists.

    Raises:
        ValueError: what is not of this form, and lists of fewer than two documents.

    Example:
        >>> read_lists("Loss", [["q"], [["a", "b", "c"]]], [torch.tensor([1, -1, 0])], ignore_label=-1)
        DocumentLists(pairs=[('q', 'a'), ('q', 'c')], labels=tensor([[1., 0.]]), mask=tensor([[True, True]]))
        >>> read_lists("Loss", [["q"], ["positive"], ["negative"]], None).labels
        tensor([[1., 0.]])
    """
    queries, documents = _columns(loss, inputs)
    rows = _labels(loss, documents, labels, columns, by_position)
    pairs: list[tuple[str, str]] = []
    kept: list[Tensor] = []
    for number, (query, texts, row) in enumerate(zip(queries, documents, rows, strict=True)):
        keep = _kept(row, ignore_label)
        left = int(keep.sum())
        if left < 2:
            of = (
                ""
                if left == len(texts)
                else f", after {len(texts) - left} with the label {ignore_label} were left out"
            )
            raise ValueError(
                f"{loss} compares the documents of a query, so a list needs two or more; got a list of {left} in row "
                f"{number} of the batch{of}; add negatives, or take such rows out of the dataset"
            )
        pairs += [(query, text) for text, stays in zip(texts, keep.tolist(), strict=True) if stays]
        kept.append(row[keep])
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in kept], batch_first=True)
    return DocumentLists(pairs, torch.nn.utils.rnn.pad_sequence(kept, batch_first=True), mask)


def _columns(loss: str, inputs: Sequence[Sequence[Any]]) -> tuple[Sequence[str], list[list[str]]]:
    """Queries and lists of documents, of either form."""
    if len(inputs) < 2 or not len(inputs[0]):
        raise ValueError(
            f"{loss} takes a column of queries and a column of lists of documents; got {len(inputs)} columns of "
            f"{len(inputs[0]) if inputs else 0} rows"
        )
    queries, *others = inputs
    if len(others) == 1:
        texts = next((row for row in others[0] if isinstance(row, str)), None)
        if texts is not None:
            raise ValueError(
                f"{loss} takes a list of documents for each query; got the text {texts[:40]!r}; group the pairs of a "
                'query, as with output_format="labeled-list" of mine_hard_negatives'
            )
        return queries, [list(row) for row in others[0]]
    if any(not isinstance(text, str) for column in others for text in column):
        raise ValueError(
            f"{loss} takes one column of lists of documents, or several columns of documents; got {len(others)} "
            "columns that hold lists; join them into one"
        )
    return queries, [list(row) for row in zip(*others, strict=True)]


def _labels(loss: str, documents: list[list[str]], labels: Any, columns: int, by_position: bool) -> list[Tensor]:
    """For each list a float tensor: (documents,) or (documents, columns)."""
    each = "one label" if columns == 1 else f"{columns} labels"
    if labels is None:
        if not by_position:
            raise ValueError(f"{loss} needs {each} for each document; got none; add a column 'labels'")
        return [torch.tensor([1.0] + [0.0] * (len(texts) - 1)) for texts in documents]
    if isinstance(labels, Tensor) and labels.dim() < 2:
        raise ValueError(
            f"{loss} needs {each} for each document of a list; got a single label for each query; give each row a "
            "list of labels"
        )
    if len(labels) != len(documents):
        raise ValueError(f"{loss} needs labels for each row; got {len(labels)} for {len(documents)} rows")
    rows = []
    for number, (texts, row) in enumerate(zip(documents, labels, strict=True)):
        shape = (len(texts),) if columns == 1 else (len(texts), columns)
        if not isinstance(row, Tensor) or row.is_complex() or tuple(row.shape) != shape:
            got = f"shape {tuple(row.shape)}, {row.dtype}" if isinstance(row, Tensor) else type(row).__name__
            raise ValueError(
                f"{loss} needs {each} for each document; row {number} of the batch has {len(texts)} documents, so "
                f"its labels must be a tensor of shape {shape}; got {got}"
            )
        rows.append(row.detach().cpu())
    dtype = torch.float64 if any(row.dtype == torch.float64 for row in rows) else torch.float32
    return [row.to(dtype) for row in rows]


def _kept(labels: Tensor, ignored: float | None) -> Tensor:
    """Which documents of a list stay: (documents,)."""
    if ignored is None:
        return torch.ones(len(labels), dtype=torch.bool)
    hit = labels.isnan() if math.isnan(ignored) else labels == ignored
    return ~hit.reshape(len(labels), -1).any(dim=1)
