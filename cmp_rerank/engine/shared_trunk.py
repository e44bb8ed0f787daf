"""The shared trunk: layers below the ablated ones run once for rows that read the same tokens.

The model is given every row. Before its first layer, hooks leave one row of each group that reads the same
tokens; before the first ablated layer they repeat the rows of the groups. So embeddings and head see every row
with its own inputs, and only the layers between work on fewer. Which arguments of a layer have a row for every
row of the batch is measured, not guessed from names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cmp_rerank.ablations import View
from cmp_rerank.ablations.drop import repeated_layers
from cmp_rerank.engine.memory import out_of_memory
from cmp_rerank.engine.places import Place, changed, differ, observe
from cmp_rerank.engine.rows import Row
from cmp_rerank.hooks.checkpointing import Change


class _Fork(NamedTuple):
    """Which rows of a pass read the same tokens."""

    group: Tensor  # (rows,) the group of each row
    one_of_each: Tensor  # (groups,) the first row of each group


class Trunk:
    """Forks rows at the first ablated layer.

    Args:
        model: the model itself.
        first: index of the first ablated layer, at least 1.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        if first < 1:
            raise ValueError(
                "The ablation begins at the first layer, so no layer is below it: nothing can be shared. "
                'Ablate the top layers only, CmpDrop(layers="top:k"), or choose another strategy.'
            )
        layers = list(repeated_layers(model)[1])
        if first >= len(layers):
            raise ValueError("Its layers share one module, which cannot be told to run on other rows each time.")
        self.layers: list[nn.Module] = layers[: first + 1]
        self._places: list[set[Place]] | None = None
        self._passes: Change[_Fork] = Change(model, self._hooked)

    def verify(self, run: Callable[[Sequence[Row]], Tensor], row: Row) -> str | None:
        """Find out which arguments belong to rows, and whether the trunk gives the scores of a plain pass.

        Args:
            run: scores rows in one pass, through this trunk where it is forking.
            row: a row to make trial rows of.

        Returns:
            None if the trunk is right for this model, else the reason why not.
        """
        example, view = row
        if len(view) < 6:
            tokens = [view.tokens]
        else:
            body = view.tokens[: min(len(view), 40) - 1]
            tokens = [np.append(body[: len(body) - cut], view.tokens[-1]) for cut in (0, 1, 3)]
        # Groups of different sizes: where rows of a batch are mixed, repeating them equally would change nothing.
        trial = [(example, View(t, depth)) for number, t in enumerate(tokens) for depth in range(4 - number)]
        fewer = trial[:-2]

        def observed(rows: Sequence[Row]) -> tuple[list[set[Place]], Tensor]:
            return observe(self.layers, lambda: run(rows), lambda x: x.ndim > 0 and len(x) == len(rows))

        with torch.no_grad():
            try:
                self._places = None
                seen = [observed(fewer), observed(trial)]
                plain = seen[1][1].double()
                self._places = [a & b for a, b in zip(seen[0][0], seen[1][0], strict=True)]
                shared = run(trial).double()
            except Exception as error:  # whatever a model raises on rows that do not fit together
                self._places = None
                if out_of_memory(error):
                    raise
                return f"{type(error).__name__}: {error}"
        reason = differ(shared, plain, seen[1][1].dtype)
        if reason is not None:
            self._places = None
        return reason

    def installed(self) -> AbstractContextManager[None]:
        """The hooks are on the layers inside, and off again outside."""
        return self._passes.installed()

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                stack.callback(layer.register_forward_pre_hook(self._hook(number), with_kwargs=True).remove)
            yield

    @contextmanager
    def fork(self, rows: Sequence[Row]) -> Iterator[None]:
        """Say which rows the next pass is of; rows of one group stand together."""
        group = np.zeros(len(rows), dtype=np.int64)
        for i in range(1, len(rows)):
            same = rows[i][0] is rows[i - 1][0] and np.array_equal(rows[i][1].tokens, rows[i - 1][1].tokens)
            group[i] = group[i - 1] + (not same)
        groups = int(group[-1]) + 1
        if self._places is None or groups == len(rows):  # nothing to share
            yield
            return
        device = next(self.layers[0].parameters()).device
        one_of_each = torch.from_numpy(np.searchsorted(group, np.arange(groups)))
        with self._passes.at(_Fork(torch.from_numpy(group).to(device), one_of_each.to(device))):
            yield

    def _hook(self, number: int) -> Callable[..., tuple[Any, Any] | None]:
        last = number == len(self.layers) - 1

        def fit(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
            now = self._passes.now
            if now is None or self._places is None:
                return None

            def change(place: Place, x: Tensor) -> Tensor:
                if place not in places:
                    return x
                if last and len(x) == len(now.one_of_each):
                    return x[now.group]
                if not last and len(x) == len(now.group):
                    return x[now.one_of_each]
                return x

            places = self._places[number]
            fitting: tuple[Any, Any] = changed((args, kwargs), change)
            return fitting

        return fit
