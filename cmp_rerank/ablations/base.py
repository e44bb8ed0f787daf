"""Examples, tokenised once, their views, and the protocol of an ablation: what a step leaves of an example.

A view is a selection of an example's tokens, and one level for each ablation that acts on the model. The views of an
example are nested: each keeps a subset of the tokens of the one before it and ablates the model at least as much.
That nesting is what makes two steps comparable (arXiv 2301.03765, section 3.1).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from cmp_rerank.objectives.progress import TrainingProgress
from cmp_rerank.text.segmenters import CharSpan
from cmp_rerank.text.token_segments import touched

#: What a token of a pair belongs to: neither text (special tokens, templates), the query, or the passage.
FIXED, QUERY, PASSAGE = 0, 1, 2

Self = TypeVar("Self", bound="Ablation")


@dataclass(frozen=True, eq=False)
class Example:
    """One (query, passage) pair, or another input of a model, as tokens.

    Attributes:
        features: what the tokenizer gave for each token, by name; every array has shape (T,).
        segment: (T,) the segment of the passage that each token belongs to; -1 for what is never cropped (the
            query, special tokens, prompts).
        support: the segments that support the label; a crop keeps them.
        seed: what the example's random choices derive from (masks, permutation of segments).
        shared: features of the whole batch that are not per token (for instance the modality).
        until: (T,) the last segment that each token belongs to, where segments overlap or a token stands on the
            border of two; such a token stays while any of its segments does. None: ``segment``.
        croppable: whether crops take anything away; if not, each of them is the same view as the one before.
        notes: what ablations prepared beside the segments, by a name of their own.
    """

    features: dict[str, np.ndarray]
    segment: np.ndarray
    support: frozenset[int] = frozenset()
    seed: int = 0
    shared: dict[str, Any] = field(default_factory=dict)
    until: np.ndarray | None = None
    croppable: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.segment)

    def segments(self) -> list[int]:
        """The segments that have tokens left (truncation may have taken some), in document order."""
        return touched(*self._extents())

    def keeping(self, segments: Sequence[int]) -> np.ndarray:
        """The tokens of these segments, and those of none: indices, ascending."""
        first, last = self._extents()
        kept = np.zeros(int(last.max(initial=-1)) + 2, dtype=np.int64)
        kept[[i + 1 for i in segments if i + 1 < len(kept)]] = 1
        until = np.cumsum(kept)  # until[i]: how many segments before i are kept
        selected = self.segment < 0
        selected[~selected] = until[last + 1] > until[first]
        return np.flatnonzero(selected)

    def _extents(self) -> tuple[np.ndarray, np.ndarray]:
        inside = self.segment >= 0
        return self.segment[inside], (self.segment if self.until is None else self.until)[inside]

    def full(self) -> View:
        """The view of the full model: every token, nothing ablated."""
        return View(np.arange(len(self)))

    def seed_of(self, copy: int) -> int:
        """The seed of an independent copy; copy 0 is the example itself."""
        return self.seed if not copy else derived_seed(f"{self.seed} {copy}")


def derived_seed(text: str) -> int:
    """A 62-bit seed that depends on a text only."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 2


@dataclass(frozen=True, eq=False)
class View:
    """What a step leaves of an example.

    Attributes:
        tokens: indices of the tokens that stay, ascending.
        levels: for each ablation that acts on the model, in the plan's order, how many of its steps apply; 0, and
            what is not there, is none. It may be a fraction: half a step.
        features: features that are replaced, by name, each with a value for every token of the example, (T,).
        copy: independent copies draw other random numbers, see `Example.seed_of`.

    Example:
        >>> example = Example({"input_ids": np.array([101, 7, 8, 9])}, np.array([-1, 0, 1, 1]))
        >>> cropped = View(example.keeping([1]), levels=(1,))  # the second segment, a step of drop
        >>> cropped.feature(example, "input_ids").tolist(), cropped.level(0)
        ([101, 8, 9], 1)
    """

    tokens: np.ndarray
    levels: tuple[float, ...] = ()
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    copy: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def level(self, number: int) -> float:
        """How many steps of an ablation apply, by its number among those that act on the model."""
        return self.levels[number] if number < len(self.levels) else 0

    def feature(self, example: Example, name: str) -> np.ndarray:
        """A feature of the tokens of this view, (tokens of the view,)."""
        values = self.features.get(name)
        return (example.features[name] if values is None else values)[self.tokens]

    def reads_same(self, other: View) -> bool:
        """Whether both give the model the same input."""
        return (
            (self.tokens is other.tokens or np.array_equal(self.tokens, other.tokens))
            and self.features.keys() == other.features.keys()
            and all(np.array_equal(value, other.features[name]) for name, value in self.features.items())
        )

    def same_as(self, other: View) -> bool:
        """Whether both are the same computation."""
        most = max(len(self.levels), len(other.levels))
        return (
            self.copy == other.copy
            and all(self.level(i) == other.level(i) for i in range(most))
            and self.reads_same(other)
        )


@dataclass(frozen=True, eq=False)
class TextPair:
    """A pair on its way to an example: what an ablation may ask of it to prepare.

    Attributes:
        query: the query.
        passage: the passage, whole.
        relevant: whether the passage is relevant, so that something supports its label.
        part: (T,) what each token belongs to: `FIXED`, `QUERY` or `PASSAGE`.
        offsets: (tokens of the passage, 2) the characters of the whole passage that each of its tokens stands for.
        window: the characters of the passage that the model sees.
        all_offsets: gives the offsets of all tokens of the passage, those that the model does not see included.

    Example:
        >>> pair = TextPair(
        ...     "who eats", "Pandas eat.", True,
        ...     part=np.array([FIXED, QUERY, QUERY, FIXED, PASSAGE, PASSAGE, FIXED]),
        ...     offsets=np.array([[0, 6], [7, 11]]), window=(0, 11), all_offsets=lambda: np.array([[0, 6], [7, 11]]),
        ... )
        >>> [pair.passage[start:end] for start, end in pair.offsets]
        ['Pandas', 'eat.']
    """

    query: str
    passage: str
    relevant: bool
    part: np.ndarray
    offsets: np.ndarray
    window: CharSpan
    all_offsets: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an ablation found out about a pair; the first four become those of the `Example`.

    Attributes:
        segment: (T,) see `Example`.
        until: (T,) see `Example`.
        support: see `Example`.
        croppable: see `Example`.
        support_cut: whether the window has cut off text that the ablation needs.
        start: the character at which the passage should begin, so that the window shows what is needed; None: the
            window stays.
        notes: see `Example`.

    Example:
        >>> Prepared(segment=np.array([-1, 0, 0, 1]), support=frozenset({1})).support
        frozenset({1})
    """

    segment: np.ndarray | None = None
    until: np.ndarray | None = None
    support: frozenset[int] = frozenset()
    croppable: bool = True
    support_cut: bool = False
    start: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class ModelHooks(Protocol):
    """What an ablation does to a model: hooks that are on it only while rows are scored.

    Attributes:
        first_layer: the lowest encoder layer that is ablated, from 0. Layers below it may run once for rows that
            differ in their level only.

    Example:
        ::

            hooks = CmpDrop(0.1).hooks(model)
            with hooks.installed(), hooks.rows(seeds, positions, levels=[0, 1]):  # the second row lacks units
                scores = model(**features)
    """

    first_layer: int

    def installed(self) -> AbstractContextManager[Any]:
        """The hooks are on the model inside, and off again outside, also when a forward pass raises."""
        ...

    def rows(self, seeds: Tensor, positions: Tensor, levels: Sequence[float]) -> AbstractContextManager[None]:
        """Say which rows the next forward pass is of.

        Args:
            seeds: (B,) int64 example seeds.
            positions: (B, T) int64 original token positions.
            levels: B levels; 0 for a row that is not ablated. They are fractions only where a rate is scheduled.
        """
        ...


class Ablation:
    """One kind of ablation, in steps of which each takes away more than the one before.

    A subclass says what a step takes: tokens, or their features, by `views`; or something of the model, by
    ``on_model = True`` and `hooks`. `cmp_rerank.testing.check_ablation` tests one.

    Attributes:
        steps: how many steps of a plan this object stands for.
        needs_text: whether `prepare` must be asked, so that it must be known where the passage stands.
        on_model: whether it acts on the model, by `hooks`.
        nested: whether each step takes away more of the step before it; if not, each step starts from the full
            example, as an independent copy.

    Example:
        >>> class LastTokens(Ablation):  # each step takes the last token away
        ...     def views(self, example, steps):
        ...         return [View(np.arange(len(example) - step)) for step in range(1, steps + 1)]
        >>> example = Example({"input_ids": np.array([101, 7, 8])}, np.array([-1, 0, 1]))
        >>> [view.tokens.tolist() for view in LastTokens().views(example, steps=2)]
        [[0, 1], [0]]
    """

    steps: int = 1
    needs_text: ClassVar[bool] = False
    on_model: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    def prepare(self, pair: TextPair) -> Prepared:
        """Find out about a pair what `views` needs to know. Asked once, when the pair is tokenised."""
        return Prepared()

    def check(self, steps: int) -> None:
        """Raise a ValueError unless a plan may have this number of steps of it."""

    def views(self, example: Example, steps: int) -> Sequence[View] | None:
        """What is left of the whole example after 1, 2, ..., ``steps`` of its steps, nested; None: all of it.

        Random choices must derive from ``example.seed``.
        """
        return None

    def hooks(self, model: nn.Module, probe: Callable[[], Any]) -> ModelHooks:
        """What it does to a model. Asked once for each model, where ``on_model`` is true.

        Args:
            model: the model itself, without wrappers.
            probe: runs one forward pass of the model on two rows.
        """
        raise ValueError(f"{type(self).__name__} has on_model=True, but no hooks(model, probe): define that method.")

    def once(self: Self) -> Self:
        """The same settings for one step."""
        if dataclasses.is_dataclass(self):
            return dataclasses.replace(self, steps=1)  # type: ignore[type-var, return-value]
        one = copy.copy(self)
        one.steps = 1
        return one

    @property
    def kind(self) -> type[Ablation]:
        """Its class; all steps of one class in a plan must have the same settings."""
        return type(self)

    @property
    def prepared_by(self) -> Ablation:
        """The ablation whose `prepare` this is: itself, or the one that it changes.

        Prepared examples are cached under its ``repr``.
        """
        return self

    def effect(self, steps: int, progress: TrainingProgress) -> tuple[int, float]:
        """How many of its steps there are at a moment of training, and how many levels one of them adds.

        Args:
            steps: How many the plan has.
            progress: How far training has come.

        Returns:
            A number of steps between 0 and ``steps``, and a level, at least 0; by default all steps, of one level.
        """
        return steps, 1

    def level_of(self, rate: float) -> float:
        """The level at which this ablation has a rate, for `ScheduledAblation`.

        Raises:
            ValueError: if it has no rate that could change.
        """
        raise ValueError(
            f"{self!r} has no rate that could change during training: schedule its number of steps, "
            "ScheduledAblation(..., count=...), or the rate of a CmpDrop."
        )

    def label(self, level: float) -> str:
        """A few words on what a level does, for `cmp_rerank.models.show.show_views`."""
        return ""


def check_steps(ablation: object, steps: object) -> None:
    """Raise a ValueError unless ``steps`` is a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        name = type(ablation).__name__
        raise ValueError(f"steps must be a whole number, at least 1; got {steps!r}. To do without, leave {name} out.")
