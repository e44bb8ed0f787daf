"""The options of the guard, validated when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cmp_rerank.ir.arguments import check_count, check_number, kind
from cmp_rerank.ir.fusion import SCALES
from cmp_rerank.ir.ranking import check_choice

Had = Literal["best", "first stage", "start", "start mixed"]


@dataclass(frozen=True)
class GuardOptions:
    """What the guard tries, and how large a gain must be; docs/guard.md states the rule.

    Attributes:
        interpolations: Shares of the tuned weights in the weight interpolations with the starting model, each between
            0 and 1 and neither; empty: none is tried.
        score_weights: Shares of the model's score in the score interpolations with the first stage, each between 0
            and 1 and neither; empty: none is tried.
        scale: How the scores of one query are made comparable before they are added, see
            :func:`cmp_rerank.ir.combine`. The logits of a model can be below 0, which "max" counts as 0.
        depth: How many candidates of each query are reranked; the others keep their order, below.
        had: What the user had, and what must be beaten: "first stage"; "start", the starting model; "start mixed",
            its best score interpolation with the first stage; or "best", the better one of the first two.
        standard_errors: A candidate must gain more than so many standard errors over what the user had.
        folds: Folds of the cross-validation, at least 2; no more than there are queries are used.
        repeats: How often it is repeated with other folds; the values of each query are averaged.
        seed: Seed of the folds.
        alpha: Level of significance of the tests on the test split.
        batch_size: Passed to the model's ``predict``.

    Raises:
        ValueError: An option is out of its range.

    Example:
        >>> GuardOptions(interpolations=(0.5,)).interpolations
        (0.5,)
        >>> GuardOptions(interpolations=(1.0,))
        Traceback (most recent call last):
        ...
        ValueError: interpolations must lie between 0 and 1, and be neither, which are tried anyway; got 1.0
    """

    interpolations: tuple[float, ...] = (0.25, 0.5, 0.75)
    score_weights: tuple[float, ...] = (0.25, 0.5, 0.75)
    scale: str = "minmax"
    depth: int = 100
    had: Had = "best"
    standard_errors: float = 1.0
    folds: int = 10
    repeats: int = 10
    seed: int = 0
    alpha: float = 0.05
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("interpolations", "score_weights"):
            object.__setattr__(self, name, _shares(name, getattr(self, name)))
        check_choice("scale", self.scale, SCALES)
        check_choice("had", self.had, get_args(Had))
        check_number("standard_errors", self.standard_errors, 0)
        for name in ("depth", "repeats", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("folds", self.folds)
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, to choose on some and measure on others; got {self.folds}")
        check_number("alpha", self.alpha, 0, 1)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0; got {self.seed!r}")
        if self.had == "start mixed" and not self.score_weights:
            raise ValueError("had='start mixed' needs a score weight; got none; give score_weights, or another had")


def _shares(name: str, given: object) -> tuple[float, ...]:
    """The shares in ascending order, each once."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{name} must be a list of numbers; got {kind(given)}; write (0.25, 0.5, 0.75)")
    for share in given:
        check_number(name, share, 0, 1)
        if share in (0, 1):
            raise ValueError(f"{name} must lie between 0 and 1, and be neither, which are tried anyway; got {share}")
    return tuple(sorted({float(share) for share in given}))


#: What is tried where nothing else is said.
DEFAULTS = GuardOptions()
