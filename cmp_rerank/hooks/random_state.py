"""Random state: recorded, returned to, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RandomState:
    """The state of Python's generator, of NumPy's global one, of torch's on the CPU, and of those of accelerators.

    Attributes:
        python: what ``random.getstate()`` gives.
        numpy: what ``np.random.get_state()`` gives.
        cpu: what ``torch.get_rng_state()`` gives.
        devices: by device the state of its generator.

    Example:
        >>> state = RandomState.now()
        >>> first = torch.rand(2)
        >>> with state.restored():
        ...     again = torch.rand(2)
        >>> torch.equal(first, again)
        True
    """

    python: Any
    numpy: Any
    cpu: Tensor
    devices: dict[torch.device, Tensor]

    @classmethod
    def now(cls, device: torch.device | None = None) -> RandomState:
        """Record the state.

        Args:
            device: the accelerator whose generator counts. Default: all CUDA devices that are in use.
        """
        if device is not None:
            devices = [] if device.type == "cpu" else [device]
        elif torch.cuda.is_available() and torch.cuda.is_initialized():
            devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        else:
            devices = []
        states = {each: torch.get_device_module(each).get_rng_state(each) for each in devices}
        numpy = np.random.get_state()  # noqa: NPY002 - a loss may draw from it
        return cls(random.getstate(), numpy, torch.get_rng_state(), states)

    @classmethod
    def seeded(cls, seed: int) -> RandomState:
        """The state of fresh generators with a seed, on the CPU."""
        numpy = np.random.RandomState(seed % 2**32).get_state()
        return cls(random.Random(seed).getstate(), numpy, torch.Generator().manual_seed(seed).get_state(), {})

    def same_as(self, other: RandomState) -> bool:
        """Whether both draw the same numbers."""
        return (
            self.python == other.python
            and all(map(np.array_equal, self.numpy, other.numpy))
            and torch.equal(self.cpu, other.cpu)
            and self.devices.keys() == other.devices.keys()
            and all(torch.equal(state, other.devices[device]) for device, state in self.devices.items())
        )

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw from this state inside; the state of before is put back on leaving, also after an exception."""
        before = RandomState.now()
        others = [RandomState.now(device) for device in self.devices if device not in before.devices]
        self.set()
        try:
            yield
        finally:
            for state in (before, *others):
                state.set()

    def set(self) -> None:
        """Draw from this state on."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            torch.get_device_module(device).set_rng_state(state, device)
