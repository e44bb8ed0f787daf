"""The argument of scipy for a random generator, which has another name before 1.15."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from scipy import stats

_NAME = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"


def drawn_by(seed: int | np.random.Generator) -> dict[str, Any]:
    """As keywords of `scipy.stats.bootstrap` and `permutation_test`."""
    return {_NAME: np.random.default_rng(seed)}
