"""Gradient checkpointing: a layer that runs again in the backward pass must find the hooks of its first run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Generic, TypeVar

from torch import nn

#: Attributes that hold a checkpointing function, called with what to run first: of layers in transformers, and of
#: torch's wrapper for activation checkpointing.
CHECKPOINTS = ("_gradient_checkpointing_func", "checkpoint_fn")


State = TypeVar("State")


class PassHooks(Generic[State]):
    """Hooks that are on a model for some passes, each of which has a state that the hooks read.

    Under gradient checkpointing, layers run again in the backward pass, when the hooks are off and other passes have
    run. The recomputed layers find the hooks on the model, and the state of their own pass.

    Args:
        model: the model.
        apply: puts the hooks on the model, and takes them off on leaving.
        copy: copies a state that the hooks change during a pass.

    The state is that of the thread which runs the pass: another one that calls the model meanwhile is left alone.
    """

    def __init__(
        self,
        model: nn.Module,
        apply: Callable[[], AbstractContextManager[Any]],
        copy: Callable[[State], State] = lambda state: state,
    ) -> None:
        self._model = model
        self._apply = apply
        self._copy = copy
        self._applied = False
        self._states = threading.local()

    @property
    def now(self) -> State | None:
        """The state of the pass that this thread runs; None outside of passes."""
        state: State | None = getattr(self._states, "now", None)
        return state

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks are on the model inside."""
        with self._in_place(), recomputed_by(self._model, self._recomputable):
            yield

    @contextmanager
    def at(self, state: State | None) -> Iterator[None]:
        """Inside is the pass of a state."""
        before, self._states.now = self.now, state
        try:
            yield
        finally:
            self._states.now = before

    def hook(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A hook for the passes of the thread that runs it; other calls go on as if it were not there.

        A call elsewhere may find it just put on, or taken off. Torch may then hand it other arguments than it asked
        for.
        """

        def run(*args: Any) -> Any:
            return None if self.now is None else function(*args)

        return run

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if self._applied:  # a second pass may come while the hooks are still, or again, in place
            yield
            return
        with self._apply():
            self._applied = True
            try:
                yield
            finally:
                self._applied = False

    def _recomputable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that, called again, finds the hooks and the state as they are now."""
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
def recomputed_by(
    model: nn.Module, recomputable: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Hand every function that a model checkpoints through ``recomputable`` first; undone on leaving.

    The recomputation comes in the backward pass, when the hooks are off. What is checkpointed must therefore carry
    its hooks with it.
    """
    with ExitStack() as stack:
        for module in model.modules():
            namespace = vars(module)
            for name in CHECKPOINTS:
                if callable(namespace.get(name)):
                    stack.callback(namespace.__setitem__, name, namespace[name])
                    namespace[name] = _checkpointing(namespace[name], recomputable)
        yield


def _checkpointing(
    checkpoint: Callable[..., Any], recomputable: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(recomputable(function), *args, **kwargs)

    return run


def is_reentrant(model: nn.Module) -> bool:
    """Whether activations are checkpointed in the reentrant way, which cannot be run inside of a backward pass."""
    for module in model.modules():
        function: Any = vars(module).get("_gradient_checkpointing_func")
        on = getattr(module, "gradient_checkpointing", False) is True and module.training
        if on and getattr(function, "keywords", {}).get("use_reentrant"):
            return True
    return False
