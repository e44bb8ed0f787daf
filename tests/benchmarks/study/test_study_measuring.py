"""Values are those of scores in 32 bits, though most scores are computed in bfloat16 alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.study import measuring
from benchmarks.study.bert import Tokens
from benchmarks.study.tasks import TASKS

GRADED = {"nDCG@10": "scifact", "RR": "passages", "accuracy": "sst2"}


@pytest.fixture(autouse=True, scope="module")
def has_bfloat16() -> Iterator[None]:
    """As on a processor that has it, whatever this one has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "has_bfloat16", lambda: True)
        yield


class Rounded:
    """A model whose scores are given, and wrong by rounding where products are in half precision.

    Args:
        scores: (pairs,) Scores in 32 bits.
        errors: (pairs,) What is added in half precision.
    """

    device = "cpu"

    def __init__(self, scores: np.ndarray, errors: np.ndarray) -> None:
        self.exact, self.errors, self.half = scores, errors, False
        self.asked = {False: 0, True: 0}

    def all_scores(self, tokens: Tokens) -> np.ndarray:
        chosen = np.array([ids[0] for ids in tokens.ids], dtype=int)
        self.asked[self.half] += len(chosen)
        scores = self.exact + self.errors if self.half else self.exact
        return scores[None, chosen]


def made(measure: str, rows: int, spread: float, error: float, seed: int) -> tuple[Tokens, Rounded]:
    draw = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for _ in range(rows):
        count = 1 if measure == "accuracy" else int(draw.integers(2, 30))
        labels = draw.integers(0, 2, count) if measure != "RR" else np.arange(count) == draw.integers(count)
        labels = labels.astype(float)
        found.append({"docs": [""] * count, "labels": labels.tolist(), "ideal": sorted(labels, reverse=True)[:10]})
        found[-1]["ideal"][0] = 1.0
    pairs = sum(len(row["docs"]) for row in found)
    # Multiples of a step, so that there are ties, too.
    scores = (draw.normal(0, spread, pairs) / 0.01).round() * 0.01
    model = Rounded(scores.astype(np.float32), draw.uniform(-error, error, pairs).astype(np.float32))
    return Tokens(found, [[pair] for pair in range(pairs)], [[0]] * pairs), model


@pytest.mark.parametrize("measure", GRADED)
@given(
    spread=st.sampled_from([0.02, 0.5, 3.0]), error=st.sampled_from([0.0, 0.004, 0.05, 0.5]), seed=st.integers(0, 99)
)
@settings(max_examples=25, deadline=None)
def test_values_are_those_of_scores_in_32_bits(measure: str, spread: float, error: float, seed: int) -> None:
    tokens, model = made(measure, 700 if measure == "accuracy" else 40, spread, error, seed)
    task = TASKS[GRADED[measure]]
    scores = measuring.ordering_scores(model, tokens)[0]  # type: ignore[arg-type]
    assert measuring.values_of(scores, tokens.rows, task) == measuring.values_of(model.exact, tokens.rows, task)
    assert model.asked[True] == len(tokens.ids)
    assert model.asked[False] <= len(tokens.ids)


@pytest.mark.parametrize("measure", GRADED)
def test_most_pairs_are_scored_in_half_precision_alone(measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, model = made(measure, 3_000 if measure == "accuracy" else 200, 3.0, 0.05, 0)
    task = TASKS[GRADED[measure]]
    exact = measuring.values_of(model.exact, tokens.rows, task)
    measuring.ordering_scores(model, tokens)  # type: ignore[arg-type]
    assert measuring.SAMPLE < model.asked[False] < 0.7 * len(tokens.ids)
    # And some of them are needed in 32 bits.
    monkeypatch.setattr(measuring, "SURE", 0.0)
    scores = measuring.ordering_scores(model, tokens)[0]  # type: ignore[arg-type]
    assert measuring.values_of(scores, tokens.rows, task) != exact


def test_all_scores_are_in_32_bits_where_there_is_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "has_bfloat16", lambda: False)
    tokens, model = made("RR", 200, 3.0, 0.05, 0)
    assert np.array_equal(measuring.ordering_scores(model, tokens)[0], model.exact)  # type: ignore[arg-type]
    assert model.asked == {True: 0, False: len(tokens.ids)}


def test_a_larger_error_that_is_found_widens_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SAMPLE", 2)
    rows = [{"docs": ["", ""], "labels": [1.0, 0.0]} for _ in range(3)]
    # The sample is the first and the last pair, which have small errors; the second row is near, with a large one.
    exact = np.array([9.0, 0.0, 0.031, 0.0, 1.04, 1.0, ], dtype=np.float32)  # fmt: skip
    errors = np.array([0.001, 0.0, -0.03, 0.0, -0.05, 0.001], dtype=np.float32)
    tokens, model = Tokens(rows, [[pair] for pair in range(6)], [[0]] * 6), Rounded(exact, errors)
    scores = measuring.ordering_scores(model, tokens)[0]  # type: ignore[arg-type]
    assert measuring.values_of(scores, rows, TASKS["passages"]) == "111"
    rough = measuring.values_of(exact + errors, rows, TASKS["passages"])
    assert rough == "112"
    assert model.asked[False] == 2 + 2 + 1


def test_scores_that_are_not_finite_in_half_precision_are_in_32_bits() -> None:
    tokens, model = made("RR", 40, 3.0, 0.01, 0)
    for pair in (0, 1):  # the first is in the sample, the second is not
        model.errors[:2] = 0.0
        model.errors[pair] = np.nan
        assert np.array_equal(measuring.ordering_scores(model, tokens)[0], model.exact)  # type: ignore[arg-type]
    model.exact[9] = np.inf
    assert np.isinf(measuring.ordering_scores(model, tokens)[0, 9])  # type: ignore[arg-type]


def test_few_pairs_and_those_on_a_gpu_are_scored_in_32_bits() -> None:
    tokens, model = made("RR", 40, 3.0, 0.5, 0)
    model.device = "cuda"
    assert np.array_equal(measuring.ordering_scores(model, tokens)[0], model.exact)  # type: ignore[arg-type]
    few = replace(tokens, ids=tokens.ids[: measuring.SAMPLE], types=tokens.types[: measuring.SAMPLE])
    model.device = "cpu"
    measuring.ordering_scores(model, few)  # type: ignore[arg-type]
    assert model.asked[True] == 0
