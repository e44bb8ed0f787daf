"""What one forward pass may hold, and how that shrinks when the memory runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from cmp_rerank.text.checks import check_whole

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
    """How many tokens one forward pass may hold, padding included; it shrinks permanently where memory runs out.

    Attributes:
        tokens: the limit; None until the device is known.
        recompute_activations: whether memory ran out once: from then on, activations that can be recomputed are not
            kept.
        events: how often memory ran out.
    """

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = None if tokens is None else check_whole("tokens_per_chunk", tokens)
        self.recompute_activations = False
        self.events = 0

    def of(self, device: torch.device) -> int:
        """The limit on a device. Default: what keeps a CPU's caches, or an accelerator's cores, busy."""
        return self.tokens or (4096 if device.type == "cpu" else 65_536)

    @classmethod
    def without_gradients(cls, tokens: int | None, device: torch.device) -> Budget:
        """For passes that keep nothing; on a CPU small ones, whose activations stay in the caches.

        Figures: ``benchmarks/rerank.py`` and docs/reranking.md.
        """
        return cls(512 if tokens is None and device.type == "cpu" else tokens)

    def start(self, device: torch.device) -> int:
        """What starting a pass costs, in tokens: the price of padding less.

        A pass of MiniLM on a CPU was measured to cost as much as 25 tokens beside its own (``benchmarks/passes.py``);
        elsewhere it is an estimate.
        """
        return 24 if device.type == "cpu" else 4096

    def halve(self, tokens: int, error: BaseException) -> None:
        """Make the limit half of the pass that failed, say so in the log, and free what can be freed.

        Args:
            tokens: what the failed pass held, padding included.
            error: what it raised.
        """
        self.events += 1
        self.recompute_activations = True
        self.tokens = max(1, min(tokens, self.tokens or tokens) // 2)
        logger.warning(
            "Out of memory in a pass of %d tokens (%s). It is repeated in parts: from now on a pass holds at most "
            "%d tokens, and activations for a backward pass are recomputed instead of kept.",
            tokens,
            (str(error).splitlines() or [type(error).__name__])[0][:200],
            self.tokens,
        )


def available(device: torch.device) -> int | None:
    """Bytes that activations may take; None where that is not known.

    On a CUDA device 70% of what is free, on a CPU 30% of it, since other processes need memory, too.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.7 * (free_bytes + cached))
    if device.type == "cpu":
        known = [limit for limit in (_free_in_system(), _free_in_container()) if limit is not None]
        return int(0.3 * min(known)) if known else None
    return None


def _free_in_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows, not on a Mac
        return None


def _free_in_container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = ((root / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None


class Footprint(NamedTuple):
    """Bytes of activations that a row keeps: some for each token, and where attention keeps all of its weights,
    some for each pair of tokens.
    """

    by_token: float
    by_pair: float

    @classmethod
    def through(cls, short: tuple[int, int], long: tuple[int, int]) -> Footprint:
        """The one that two rows have, given as (tokens, bytes); of rows of similar length, as if all were by token.

        >>> Footprint.through((10, 300), (20, 800)), Footprint.through((10, 300), (11, 330))
        (Footprint(by_token=20.0, by_pair=1.0), Footprint(by_token=30.0, by_pair=0.0))
        """
        (few, small), (many, large) = short, long
        by_pair = 0.0
        if 2 * few <= many:
            by_pair = max(0.0, (large / many - small / few) / (many - few))
        return cls(large / many - by_pair * many, by_pair)

    def of(self, rows: int, tokens: int) -> float:
        """Bytes of a batch of rows with this number of tokens each."""
        return rows * tokens * (self.by_token + self.by_pair * tokens)


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Yields [bytes of activations that passes inside keep for their backward passes]."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    seen: dict[int, Tensor] = {}  # held, so that no two have one address
    total = [0]

    def note(x: Tensor) -> Tensor:
        where = x.untyped_storage().data_ptr()
        if where not in own and where not in seen:
            seen[where] = x.detach()
            total[0] += x.untyped_storage().nbytes()
        return x.detach()  # an output of its own node would hold the graph, and the node it: for ever

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        yield total


def free() -> None:
    """Give cached memory back. Call it after the exception, which holds the failed pass, is gone."""
    clear_device_cache(garbage_collection=True)
