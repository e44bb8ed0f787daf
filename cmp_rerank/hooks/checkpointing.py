"""Gradient checkpointing: a layer that runs again in the backward pass must be ablated as it was the first time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Generic, TypeVar

from torch import nn

#: Attributes that hold a checkpointing function, called with what to run first: of layers in transformers, and of
#: torch's wrapper for activation checkpointing.
CHECKPOINTS = ("_gradient_checkpointing_func", "checkpoint_fn")


State = TypeVar("State")


class Change(Generic[State]):
    """A change of a model for some passes, each of which it knows by a state; and for what checkpoints run again.

    Layers of a checkpointed pass run again in the backward pass, when the change is over and other passes have
    been since. They find the change as it was: in place, with the state of their pass.

    Args:
        model: the model.
        apply: changes it, and puts everything back on leaving.
        copy: copies a state that a pass changes.

    Attributes:
        now: the state of the pass that runs; None outside of passes.
    """

    def __init__(
        self,
        model: nn.Module,
        apply: Callable[[], AbstractContextManager[Any]],
        copy: Callable[[State], State] = lambda state: state,
    ) -> None:
        self.now: State | None = None
        self._model = model
        self._apply = apply
        self._copy = copy
        self._applied = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The change is in place inside."""
        with self._in_place(), replayed(self._model, self._replayable):
            yield

    @contextmanager
    def at(self, state: State | None) -> Iterator[None]:
        """Inside is the pass of a state."""
        before, self.now = self.now, state
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if self._applied:  # a second pass may come while the change is still, or again, in place
            yield
            return
        with self._apply():
            self._applied = True
            try:
                yield
            finally:
                self._applied = False

    def _replayable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that finds the change as now whenever it is called again."""
        now = None if self.now is None else self._copy(self.now)
        first = True

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal first
            if first:
                first = False
                return function(*args, **kwargs)
            with self._in_place(), self.at(None if now is None else self._copy(now)):
                return function(*args, **kwargs)

        return run


@contextmanager
def replayed(model: nn.Module, replayable: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Hand every function that a model checkpoints through ``replayable`` first; undone on leaving.

    The recomputation comes in the backward pass, when the ablation is over. What is checkpointed must
    therefore carry its ablation with it.
    """
    with ExitStack() as stack:
        for module in model.modules():
            namespace = vars(module)
            for name in CHECKPOINTS:
                if callable(namespace.get(name)):
                    stack.callback(namespace.__setitem__, name, namespace[name])
                    namespace[name] = _carrying(namespace[name], replayable)
        yield


def _carrying(
    checkpoint: Callable[..., Any], replayable: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(replayable(function), *args, **kwargs)

    return run


def checkpoints(model: nn.Module) -> bool:
    """Whether any part of a model recomputes in the backward pass while it is trained."""
    return any(
        getattr(module, "gradient_checkpointing", False) is True or "checkpoint_fn" in vars(module)
        for module in model.modules()
    )
