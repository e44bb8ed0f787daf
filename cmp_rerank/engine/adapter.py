"""What the engine must know of a kind of model: how it is found, fed, run and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from cmp_rerank.engine.rows import Row, RowBatch

Around = Callable[[RowBatch], AbstractContextManager[Any]]
"""What must be around a forward pass of a batch of rows: ``with around(batch): model(**batch.features)``."""


class Adapter(Protocol):
    """A kind of model that rows can be scored with.

    The engine asks the model nothing by itself: it calls these methods, and takes parameters, layers and the device
    (``inner.device``) of the inner model. `cmp_rerank.models.base.ModelAdapter` has defaults for most of them.

    Attributes:
        one_pass: whether one call of the model is one pass of its layers over the rows.
        by_position: whether a row's scores depend on the original positions of its tokens also where nothing is
            ablated, as those of a model with a score for each token do. If not, rows that read the same tokens are
            one computation, of whatever examples they are.

    Example:
        ::

            class PairAdapter(ModelAdapter):  # an Adapter
                def collate(self, inner, rows):
                    return pad(rows, ["input_ids", "attention_mask"], {"input_ids": 0}, inner.device)

                def run(self, module, batch):
                    return module(**batch.features).logits
    """

    one_pass: bool
    by_position: bool

    def inner(self, model: nn.Module) -> Any:
        """The model inside of wrappers (distributed, compiled), or the model itself.

        Raises:
            ValueError: if it is not of this kind.
        """
        ...

    def collate(self, inner: Any, rows: Sequence[Row]) -> RowBatch:
        """One batch of the model's features."""
        ...

    def run(self, module: nn.Module, batch: RowBatch) -> Tensor:
        """Run one batch.

        Args:
            module: the inner model or a wrapper of it: this is what must be called.
            batch: what `collate` gave, with ``longest``.

        Returns:
            Scores of shape (rows, width), finite everywhere. A row's scores must not depend on the other rows, and
            the width only on the model and ``batch.longest``. Models with scores for each token put them back to the
            tokens' original positions, so that rows of all chunks and views have one width.
        """
        ...

    def during(self, inner: Any, batch: RowBatch, around: Around) -> AbstractContextManager[Any]:
        """What must be around the run of a batch, so that ``around`` is around each pass of the layers."""
        ...

    def probe(self, inner: Any, run: Callable[[], Any]) -> Callable[[], Any]:
        """A forward pass in which each layer runs once.

        Args:
            inner: the model.
            run: runs the model on two rows of the batch at hand.
        """
        ...
