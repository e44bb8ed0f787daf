"""What the scorer must know of a kind of model: how it is found, fed and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from cmp_rerank.engine.rows import Row, collate, cross_encoder


class Adapter(Protocol):
    """A kind of model that rows can be scored with.

    The scorer asks the model nothing by itself: it calls these methods, and takes parameters, layers and the device
    (``inner.device``) of the inner model.
    """

    def inner(self, model: nn.Module) -> Any:
        """The model inside of wrappers (distributed, compiled), or the model itself.

        Raises:
            ValueError: if it is not of this kind.
        """
        ...

    def collate(self, inner: Any, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
        """One batch of the model's features; and the original position of every token, (rows, tokens) int64."""
        ...

    def scores(self, module: nn.Module, features: dict[str, Any], positions: Tensor, longest: int) -> Tensor:
        """Run one batch.

        Args:
            module: the inner model or a wrapper of it: this is what must be called.
            features: what `collate` gave.
            positions: the original positions that `collate` gave.
            longest: tokens of the longest example of all rows of the step. Models with scores for each token put
                them back to the tokens' original positions, so that rows of all chunks and views have one width.

        Returns:
            Scores of shape (rows, width), finite everywhere. A row's scores must not depend on the other rows, and
            the width only on the model and ``longest``.
        """
        ...


class CrossEncoderAdapter:
    """Cross-encoders of sentence-transformers: one row of labels for each pair."""

    def inner(self, model: nn.Module) -> CrossEncoder:
        """The cross-encoder inside of wrappers."""
        return cross_encoder(model)

    def collate(self, inner: CrossEncoder, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
        """Pad as the model's tokenizer says."""
        return collate(inner, rows)

    def scores(self, module: nn.Module, features: dict[str, Any], positions: Tensor, longest: int) -> Tensor:
        """Logits, (rows, labels)."""
        scores: Tensor = module(features)["scores"]
        return scores.reshape(len(positions), -1)
