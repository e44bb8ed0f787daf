"""What the package must know of a kind of model: how its inputs become examples, how it is run, how its loss splits.

Each kind of model is one file of this folder: an adapter, a subclass of `ModelAdapter`. `adapter_of` gives the one
of a model; a new kind registers its own: ``adapter_of.register(MyModel, lambda model: MyAdapter())``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import singledispatch
from typing import Any, NamedTuple

from torch import Tensor, nn

from cmp_rerank.engine import Around, Row, RowBatch
from cmp_rerank.hooks.wrappers import unwrapped
from cmp_rerank.objectives import Outputs


class ModelAdapter:
    """A kind of model. It has what the engine asks for (`cmp_rerank.engine.Adapter`); a subclass adds the rest.

    Attributes:
        one_pass: whether one call of the model is one pass of its layers over the rows.
        by_position: whether a row's scores depend on the original positions of its tokens; see there.

    Example:
        >>> class TwoTowers(ModelAdapter):
        ...     one_pass = False
        >>> TwoTowers().one_pass, TwoTowers().by_position
        (False, True)
    """

    one_pass = True
    by_position = True

    def inner(self, model: nn.Module) -> Any:
        """The model inside of wrappers (distributed, compiled), or the model itself."""
        return unwrapped(model)

    def collate(self, inner: Any, rows: Sequence[Row]) -> RowBatch:
        """One batch of the model's features."""
        raise ValueError(f"{type(self).__name__} has no collate(inner, rows): define that method.")

    def run(self, module: nn.Module, batch: RowBatch) -> Tensor:
        """Run one batch; see `cmp_rerank.engine.Adapter`."""
        raise ValueError(f"{type(self).__name__} has no run(module, batch): define that method.")

    def during(self, inner: Any, batch: RowBatch, around: Around) -> AbstractContextManager[Any]:
        """One call is one pass of the layers."""
        return around(batch)

    def probe(self, inner: Any, run: Callable[[], Any]) -> Callable[[], Any]:
        """Two rows of the batch at hand run each layer once."""
        return run


class ExampleLosses(NamedTuple):
    """How the loss of a batch splits into examples.

    Attributes:
        losses: (n, 1 + steps), the task loss of each example in each view.
        weights: (n,), with which the examples enter the loss of the batch: ``weights @ losses`` is that loss, step by
            step.
        outputs: gives the scores behind the losses, for objectives with ``needs_outputs``; None: there are none.

    Example:
        >>> import torch
        >>> split = ExampleLosses(losses=torch.tensor([[0.5, 0.7], [0.1, 0.3]]), weights=torch.tensor([0.5, 0.5]))
        >>> split.weights @ split.losses  # the loss of the batch: of the full model, and of the step
        tensor([0.3000, 0.5000])
    """

    losses: Tensor
    weights: Tensor
    outputs: Callable[[], Outputs] | None = None


@singledispatch
def adapter_of(model: Any) -> ModelAdapter:
    """The adapter of a model.

    Args:
        model: the model itself, without wrappers.

    Raises:
        ValueError: if there is none for this class of model.

    Example:
        ::

            adapter_of(CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2"))  # a CrossEncoderAdapter
            adapter_of.register(MyModel, lambda model: MyAdapter())  # for a kind of model of your own
    """
    raise ValueError(
        f"There is no adapter for {type(model).__name__}. Give a CrossEncoder of sentence-transformers, or register "
        "an adapter: cmp_rerank.models.adapter_of.register(MyModel, lambda model: MyAdapter())."
    )
