"""Pass modifiers: what an optimisation, or an ablation, does around the forward passes of a step.

A modifier must not change what a pass gives. Those that could (because a model has an architecture that nobody has
thought of) are tried once on a model, against a plain pass; the result is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cmp_rerank.ablations import ModelHooks
from cmp_rerank.engine.adapter import Adapter
from cmp_rerank.engine.memory import out_of_memory
from cmp_rerank.engine.places import Place, differ, observe
from cmp_rerank.engine.rows import Row, RowBatch

#: Scores rows in one pass, with this and the other modifiers in place.
Run = Callable[[Sequence[Row]], Tensor]


class PassModifier(Protocol):
    """What is done around forward passes.

    Example:
        >>> from contextlib import contextmanager
        >>> class Counted:
        ...     passes = 0
        ...
        ...     @contextmanager
        ...     def installed(self):
        ...         yield
        ...
        ...     @contextmanager
        ...     def around(self, batch):
        ...         self.passes += 1
        ...         yield batch
        ...
        ...     def verify(self, run, row):
        ...         return None
        >>> modifier: PassModifier = Counted()
        >>> with modifier.installed(), modifier.around("a batch") as batch:
        ...     modifier.passes, batch
        (1, 'a batch')
    """

    def installed(self) -> AbstractContextManager[Any]:
        """Around all passes of a step: hooks are on the model inside, and off again outside."""
        ...

    def around(self, batch: RowBatch) -> AbstractContextManager[RowBatch]:
        """Around one pass. Yields the batch as the modifiers inside of this one must see it."""
        ...

    def verify(self, run: Run, row: Row) -> str | None:
        """Compare with a plain pass: None if the scores are the same for this model, else the reason why not.

        Args:
            run: scores rows in one pass with this modifier in place, which changes nothing until it is verified.
            row: a row to make trial rows of.
        """
        ...


class AblationHooks:
    """The hooks of one ablation, as a modifier.

    Args:
        hooks: what the ablation does to the model.
        number: which of the ablations that act on the model it is.
        adapter: knows the kind of model.
        inner: the model.
    """

    def __init__(self, hooks: ModelHooks, number: int, adapter: Adapter, inner: Any) -> None:
        self.hooks = hooks
        self._number = number
        self._adapter = adapter
        self._inner = inner

    def installed(self) -> AbstractContextManager[Any]:
        """The hooks are on the model inside."""
        return self.hooks.installed()

    @contextmanager
    def around(self, batch: RowBatch) -> Any:
        """Each pass of the layers is ablated as its rows say."""

        def rows(part: RowBatch) -> AbstractContextManager[None]:
            return self.hooks.rows(part.seeds, part.positions, part.level(self._number))

        with self._adapter.during(self._inner, batch, rows):
            yield batch

    def verify(self, run: Run, row: Row) -> str | None:
        """An ablation is meant to change what a pass gives."""
        return None


class LayerInputs:
    """Base of modifiers that change what encoder layers are given: which arguments those are is observed.

    Args:
        layers: the layers whose arguments are changed.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = list(layers)
        #: For each layer where in its arguments the tensors to change stand; None until they have been verified.
        self.places: list[set[Place]] | None = None

    def verify(self, run: Run, row: Row) -> str | None:
        """Find out which arguments to change, and whether that gives the scores of a plain pass."""
        fewer, more = self.trial_rows(row)
        if not fewer:
            return f"a row of {len(row[1])} tokens is too short to find out"

        def observed(rows: Sequence[Row]) -> tuple[list[set[Place]], Tensor]:
            return observe(self.layers, lambda: run(rows), lambda x: self.belongs(x, rows))

        self.places = None
        with torch.no_grad(), self.trying():
            try:
                seen = [observed(fewer), observed(more)]
                plain = seen[1][1]
                self.places = [a & b for a, b in zip(seen[0][0], seen[1][0], strict=True)]
                found = run(more)
            except Exception as error:  # whatever a model raises on rows that do not fit together
                self.places = None
                if out_of_memory(error):
                    raise
                return f"{type(error).__name__}: {error}"
        reason = self.missed() or differ(found.double(), plain.double(), plain.dtype)
        if reason is not None:
            self.places = None
        return reason

    def trial_rows(self, row: Row) -> tuple[list[Row], list[Row]]:
        """Two batches of rows, of different sizes, to observe; none if the row is too short."""
        raise ValueError(f"{type(self).__name__} has no trial rows.")

    def belongs(self, x: Tensor, rows: Sequence[Row]) -> bool:
        """Whether a tensor among a layer's arguments belongs to rows, by its shape."""
        raise ValueError(f"{type(self).__name__} changes no arguments.")

    @contextmanager
    def trying(self) -> Any:
        """Around a trial."""
        yield

    def missed(self) -> str | None:
        """Why the last trial pass did not go through this modifier; None if it did."""
        return None


class TrialPasses(Protocol):
    """Passes with a modifier in place."""

    def ready(self) -> AbstractContextManager[None]:
        """Around all of them."""
        ...

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Score rows in one pass."""
        ...


Kind = TypeVar("Kind", bound=PassModifier)


class Verified:
    """Modifiers that were verified on one model, each once: those that are right, and why others are not."""

    def __init__(self) -> None:
        self._found: dict[type, Any] = {}
        self._reasons: dict[type, str] = {}

    def get(
        self, kind: type[Kind], make: Callable[[], Kind], passes: Callable[[Kind], TrialPasses], row: Row
    ) -> Kind | None:
        """The modifier of a class; None if it cannot be used with this model, see `reason`.

        Args:
            kind: its class.
            make: makes one; a ValueError says why it cannot.
            passes: gives passes with the modifier in place, to try it.
            row: a row to make trial rows of.
        """
        if not self.tried(kind):
            try:
                modifier = make()
                trial = passes(modifier)
                with trial.ready():
                    reason = modifier.verify(trial.run, row)
            except ValueError as error:
                reason = str(error)
            if reason is None:
                self._found[kind] = modifier
            else:
                self._reasons[kind] = reason
        return self._found.get(kind)

    def of(self, kind: type[Kind]) -> Kind:
        """The modifier of a class that is known to be right."""
        found: Kind = self._found[kind]
        return found

    def right(self, kind: type) -> bool:
        """Whether a modifier of a class was tried, and can be used."""
        return kind in self._found

    def tried(self, kind: type) -> bool:
        """Whether a modifier of a class was tried."""
        return kind in self._found or kind in self._reasons

    def reason(self, kind: type) -> str | None:
        """Why a modifier of a class cannot be used; None if it can, or was not tried."""
        return self._reasons.get(kind)
