"""The two forms of the demo, and its two configurations, which differ in their ablations only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from cmp_rerank.collections import Collection, Split
from cmp_rerank.collections.docstrings import DEFAULT_PACKAGES
from cmp_rerank.ir.arguments import check_count
from cmp_rerank.pipeline import Config, load
from cmp_rerank.pipeline.document import parse

PLAIN, COMPARATIVE = "plain", "comparative"
#: Arm -> its ablations: all that the two configurations differ in.
ARMS: Mapping[str, tuple[str, ...]] = {PLAIN: (), COMPARATIVE: ("crop", "drop")}


@dataclass(frozen=True)
class Recipe:
    """What the demo does: its data, and what its configurations have in place of ``demo.yaml``.

    Attributes:
        name: of the recipe, and of its folder.
        packages: whose docstrings are the collection.
        queries: split -> how many of its queries are used.
        settings: dotted key of a configuration -> value, in place of the one in ``demo.yaml``.

    Raises:
        ValueError: the queries are not those of train, dev and test.
    """

    name: str
    packages: tuple[str, ...] = DEFAULT_PACKAGES
    queries: Mapping[str, int] = field(default_factory=lambda: {"train": 560, "dev": 100, "test": 150})
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.queries) != {"train", "dev", "test"}:
            raise ValueError(f"queries must be those of train, dev and test; got {', '.join(self.queries) or 'none'}")
        for split, count in self.queries.items():
            check_count(f"queries of {split}", count)


FULL = Recipe("full")
#: Shows that everything runs. It does not show how good the models get.
FAST = Recipe(
    "fast",
    packages=("numpy", "scipy"),
    queries={"train": 48, "dev": 20, "test": 30},
    settings={"first_stage.depth": 5, "negatives.ranks": (1, 5), "negatives.negatives": 2},
)


def configs(recipe: Recipe, collection: str, model: str, seed: int) -> dict[str, Config]:
    """The configuration of each arm.

    Args:
        recipe: what to do.
        collection: a collection by kind and place.
        model: the encoder to start from.
        seed: of the new head, the negatives, the order of the data and the ablations.

    Example:
        >>> plain, comparative = configs(FULL, "beir:collection", "encoder", 0).values()
        >>> plain.ablations, comparative.ablations
        ((), ({'kind': 'crop'}, {'kind': 'drop'}))
        >>> plain.model_copy(update={"ablations": comparative.ablations}) == comparative
        True
    """
    text = files(__package__).joinpath("demo.yaml").read_text(encoding="utf-8")
    given = {**recipe.settings, "data.collection": collection, "model.name": model, "seeds": [seed]}
    return {arm: load(parse(text, "demo.yaml"), {**given, "ablations": ablations}) for arm, ablations in ARMS.items()}


def sampled(collection: Collection, recipe: Recipe, seed: int) -> Collection:
    """The collection with some queries of each split, chosen by the seed and their ids only; its corpus stays whole.

    Args:
        collection: with the splits train, dev and test.
        recipe: says how many.
        seed: of the choice.

    Raises:
        ValueError: a split has fewer queries.
    """
    return collection.with_splits(
        {split: _sample(collection, split, count, seed) for split, count in recipe.queries.items()}
    )


def _sample(collection: Collection, split: str, count: int, seed: int) -> Split:
    queries, qrels = collection.queries(split), collection.qrels(split)
    if len(qrels) < count:
        raise ValueError(
            f"{split} must have at least {count} judged queries; got {len(qrels)} of {collection.summary()}; name "
            "more packages"
        )
    order = sorted(qrels, key=lambda query: hashlib.sha256(f"{split} {seed} {query}".encode()).digest())
    return Split({query: queries[query] for query in order[:count]}, {query: qrels[query] for query in order[:count]})
