"""A batch that was made ready outside of the training step: which pairs its loss asks for, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cmp_rerank.ablations import Example
from cmp_rerank.hooks.random_state import RandomState
from cmp_rerank.losses.replay import Address, AddressedText, Pair, Recording
from cmp_rerank.models.pairs import Truncation, example_seed


@dataclass(frozen=True)
class Prepared:
    """What a data loader worker found out about a batch.

    Attributes:
        calls: for each call of the model by the loss, the addresses of the texts of its pairs.
        random_state: what the loss drew its random choices (of negatives) from.
        preprocess: what the loss handed to the model's preprocessing.
        examples: the tokens of the pairs, in the order of the calls, without seeds.
        truncation: what the model's window cut of them.
    """

    calls: tuple[tuple[tuple[Address, Address], ...], ...]
    random_state: RandomState
    preprocess: dict[str, Any]
    examples: list[Example]
    truncation: Truncation

    def recording(self, columns: Sequence[Sequence[Any]]) -> Recording:
        """The recording of the loss on these columns, which are addressed."""
        text = {each.address: each for each in _texts(columns)}
        calls = tuple(tuple((text[q], text[d]) for q, d in call) for call in self.calls)
        return Recording(calls, self.random_state, self.preprocess)

    def drawn(self, pairs: Sequence[Pair], draw: str) -> list[Example]:
        """The examples with the seeds of a draw; see `example_seed`."""
        return [
            replace(example, seed=example_seed(query, passage, draw))
            for example, (query, passage) in zip(self.examples, pairs, strict=True)
        ]


def _texts(columns: Sequence[Sequence[Any]]) -> Iterator[AddressedText]:
    for column in columns:
        for value in column:
            if isinstance(value, AddressedText):
                yield value
            else:
                yield from value
