"""What one forward pass may hold, and how that shrinks when the memory runs out."""

from __future__ import annotations

import logging

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device.

    >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")), out_of_memory(RuntimeError("shape"))
    (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


class Budget:
    """How many tokens one forward pass may hold, padding included; shrinks for good where memory runs out.

    Attributes:
        tokens: the limit; None until the device is known.
        lean: whether memory ran out once: from then on, activations that can be recomputed are not kept.
        events: how often memory ran out.
    """

    def __init__(self, tokens: int | None = None) -> None:
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"tokens_per_chunk must be at least 1, got {tokens!r}.")
        self.tokens = tokens
        self.lean = False
        self.events = 0

    def of(self, device: torch.device) -> int:
        """The limit on a device. Default: what keeps a CPU's caches, or an accelerator's cores, busy."""
        return self.tokens or (4096 if device.type == "cpu" else 65_536)

    def halve(self, tokens: int, error: BaseException) -> None:
        """Make the limit half of the pass that failed, say so in the log, and free what can be freed.

        Args:
            tokens: what the failed pass held, padding included.
            error: what it raised.
        """
        self.events += 1
        self.lean = True
        self.tokens = max(1, min(tokens, self.tokens or tokens) // 2)
        logger.warning(
            "Out of memory in a pass of %d tokens (%s). Training goes on: from now on a pass holds at most "
            "%d tokens, and activations are recomputed instead of kept.",
            tokens,
            (str(error).splitlines() or [type(error).__name__])[0][:200],
            self.tokens,
        )


def free() -> None:
    """Give cached memory back. Call it after the exception, which holds the failed pass, is gone."""
    clear_device_cache(garbage_collection=True)
