"""The shared trunk: layers below the ablated ones run once for rows that read the same tokens.

The model is given every row. Before its first layer, hooks leave one row of each group that reads the same
tokens; before the first ablated layer they repeat the rows of the groups. So embeddings and head see every row
with its own inputs, and only the layers between work on fewer. Which arguments of a layer have a row for every
row of the batch is observed, not guessed from names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cmp_rerank.engine.modifier import LayerInputs
from cmp_rerank.engine.places import Place, changed
from cmp_rerank.engine.rows import Row, RowBatch, shortened
from cmp_rerank.hooks.checkpointing import PassHooks
from cmp_rerank.hooks.sites import repeated_layers


class _Groups(NamedTuple):
    """Which rows of a pass read the same tokens."""

    group: Tensor  # (rows,) the group of each row
    one_of_each: Tensor  # (groups,) the first row of each group


class SharedTrunk(LayerInputs):
    """Repeats the rows of each group at the first ablated layer.

    Args:
        model: the model itself.
        first: index of the first ablated layer, at least 1.

    Raises:
        ValueError: if there are no layers that could be shared.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        if first < 1:
            raise ValueError(
                "The ablation begins at the first layer, so no layer is below it: nothing can be shared. "
                'Ablate the top layers only, CmpDrop(layers="top:k"), or choose another strategy.'
            )
        layers = list(repeated_layers(model)[1])
        if first >= len(layers):
            raise ValueError(
                "Its layers share one module, so the lower ones cannot run on fewer rows than the upper ones."
            )
        super().__init__(layers[: first + 1])
        self._passes: PassHooks[_Groups] = PassHooks(model, self._on_model)

    def trial_rows(self, row: Row) -> tuple[list[Row], list[Row]]:
        """Groups of different sizes: where rows of a batch are mixed, repeating them equally would change nothing."""
        many = max(len(row[1].levels), 1)
        trial = [
            (example, replace(view, levels=(level,) * many))
            for number, (example, view) in enumerate(shortened(row, 40, 0, 1, 3) or [row])
            for level in range(4 - number)
        ]
        return trial[:-2], trial

    def belongs(self, x: Tensor, rows: Sequence[Row]) -> bool:
        """Whether a tensor has a row for every row."""
        return x.ndim > 0 and len(x) == len(rows)

    def installed(self) -> AbstractContextManager[None]:
        """The hooks are on the layers inside, and off again outside."""
        return self._passes.installed()

    @contextmanager
    def around(self, batch: RowBatch) -> Iterator[RowBatch]:
        """Rows of one group stand together."""
        rows = batch.rows
        group = np.zeros(len(rows), dtype=np.int64)
        for i in range(1, len(rows)):
            same = rows[i][0] is rows[i - 1][0] and rows[i][1].reads_same(rows[i - 1][1])
            group[i] = group[i - 1] + (not same)
        groups = int(group[-1]) + 1
        if self.places is None or groups == len(rows):  # nothing to share
            yield batch
            return
        device = next(self.layers[0].parameters()).device
        one_of_each = torch.from_numpy(np.searchsorted(group, np.arange(groups)))
        with self._passes.at(_Groups(torch.from_numpy(group).to(device), one_of_each.to(device))):
            yield batch

    @contextmanager
    def _on_model(self) -> Iterator[None]:
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                fit = self._passes.hook(self._hook(number))
                stack.callback(layer.register_forward_pre_hook(fit, with_kwargs=True).remove)
            yield

    def _hook(self, number: int) -> Callable[..., tuple[Any, Any] | None]:
        last = number == len(self.layers) - 1

        def fit(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
            now = self._passes.now
            if now is None or self.places is None:
                return None

            def change(place: Place, x: Tensor) -> Tensor:
                if place not in places:
                    return x
                if last and len(x) == len(now.one_of_each):
                    return x[now.group]
                if not last and len(x) == len(now.group):
                    return x[now.one_of_each]
                return x

            places = self.places[number]
            fitting: tuple[Any, Any] = changed((args, kwargs), change)
            return fitting

        return fit
