"""What the guard chooses from, in the order of the distance from what the user had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmp_rerank.guard.mix import Mix
from cmp_rerank.guard.options import GuardOptions


@dataclass(frozen=True)
class Blend:
    """Weights of a model as shares of others.

    Attributes:
        name: Short, for tables.
        words: The same for a sentence.
        start: Share of the starting model.
        tuned: Share of each tuned model.
    """

    name: str
    words: str
    start: float
    tuned: tuple[float, ...]


@dataclass(frozen=True)
class Candidate:
    """A ranking that may be handed over.

    Attributes:
        blend: The model; None for the first stage alone.
        mix: What share of the score it has.
    """

    blend: Blend | None
    mix: Mix

    @property
    def alone(self) -> bool:
        """Whether it is a model without the first stage."""
        return self.mix.weight == 1

    @property
    def name(self) -> str:
        """Short, for tables: "tuned, 50% score"."""
        if self.blend is None:
            return "first stage"
        return self.blend.name + ("" if self.alone else f", {_percent(self.mix.weight)} score")

    @property
    def words(self) -> str:
        """The same for a sentence."""
        if self.blend is None:
            return "the first stage alone"
        return self.blend.words + (
            "" if self.alone else f" with {_percent(self.mix.weight)} of the score (the rest is the first stage's)"
        )

    @property
    def is_tuned(self) -> bool:
        """Whether it is one of the tuned models alone, as training left it."""
        return self.alone and self.blend is not None and 1.0 in self.blend.tuned

    @property
    def uses_tuning(self) -> bool:
        """Whether anything of the tuned weights is in it."""
        return self.blend is not None and self.blend.start != 1


def blends(options: GuardOptions, *, start: bool, between: bool, tuned: int) -> list[Blend]:
    """The models, from the starting one to the tuned ones.

    Args:
        options: The options.
        start: Whether there is a starting model that can rank.
        between: Whether something lies between the weights of the starting model and the tuned ones.
        tuned: Number of tuned models, such as one for each training seed; with several, their mean (a soup) is a
            model, too, and interpolations lead to it.

    Returns:
        The models in the order of their distance from the start.

    Example:
        >>> [blend.name for blend in blends(GuardOptions(interpolations=(0.5,)), start=True, between=True, tuned=2)]
        ['start', 'start to soup 50%', 'soup', 'tuned 1', 'tuned 2']
    """
    no_share = (0.0,) * tuned
    soup = (1 / tuned,) * tuned
    goal, goal_words = ("tuned", "the tuned model") if tuned == 1 else ("soup", "the mean of the tuned models")
    found = [Blend("start", "the starting model", 1.0, no_share)] if start else []
    for share in options.interpolations if between else ():
        words = f"the model {_percent(share)} of the way from the starting model to {goal_words}"
        found.append(
            Blend(f"start to {goal} {_percent(share)}", words, 1 - share, tuple(share * part for part in soup))
        )
    if tuned > 1:
        found.append(Blend("soup", goal_words, 0.0, soup))
    for i in range(tuned):
        number = f" {i + 1}" if tuned > 1 else ""
        one = tuple(float(i == j) for j in range(tuned))
        found.append(Blend(f"tuned{number}", f"the tuned model{number}", 0.0, one))
    return found


def candidates(models: Sequence[Blend], options: GuardOptions) -> list[Candidate]:
    """All candidates: the first stage, then each model alone and with each share of the score.

    Args:
        models: The models, as :func:`blends` orders them.
        options: The options.

    Returns:
        The candidates, the simplest first; of one model, the fewer the model counts, the simpler.

    Example:
        >>> options = GuardOptions(interpolations=(), score_weights=(0.5,))
        >>> [c.name for c in candidates(blends(options, start=False, between=False, tuned=1), options)]
        ['first stage', 'tuned', 'tuned, 50% score']
    """
    found = [Candidate(None, Mix(0.0, options.scale, options.depth))]
    for model in models:
        found += [Candidate(model, Mix(w, options.scale, options.depth)) for w in (1.0, *options.score_weights)]
    return found


def had_by_user(found: Sequence[Candidate], options: GuardOptions) -> list[int]:
    """The numbers of the candidates among which is what the user had.

    Raises:
        ValueError: The options name the starting model, and there is none.

    Example:
        >>> options = GuardOptions()
        >>> had_by_user(candidates(blends(options, start=True, between=True, tuned=1), options), options)
        [0, 1]
    """
    kinds = {
        "first stage": lambda c: c.blend is None,
        "start": lambda c: not c.uses_tuning and c.blend is not None and c.alone,
        "start mixed": lambda c: not c.uses_tuning and c.blend is not None and not c.alone,
        "best": lambda c: not c.uses_tuning and (c.blend is None or c.alone),
    }
    hads = [i for i, candidate in enumerate(found) if kinds[options.had](candidate)]
    if not hads:
        raise ValueError(
            f"had={options.had!r} needs a starting model that can rank; got none; use another had, or give start"
        )
    return hads


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
