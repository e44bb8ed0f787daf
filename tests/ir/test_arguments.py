"""Checks of arguments: what passes, and what an error calls the value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cmp_rerank.ir.arguments import check_count, check_number, check_texts, kind


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_counts_that_pass(value: Any) -> None:
    check_count("k", value)


@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, True, "3", None, np.float32(2)])
def test_counts_that_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="k must be a whole number of at least 1; got "):
        check_count("k", value)


@pytest.mark.parametrize("value", [0, 0.5, 1, np.float32(0.25)])
def test_numbers_that_pass(value: Any) -> None:
    check_number("b", value, 0, 1)


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, math.nan, math.inf, "0.5", True, None, 0.5j])
def test_numbers_that_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="b must be a number between 0 and 1; got "):
        check_number("b", value, 0, 1)


def test_no_texts_are_refused_where_some_are_needed() -> None:
    check_texts("queries", {}, empty=True)
    with pytest.raises(ValueError, match="there are no queries; got an empty mapping"):
        check_texts("queries", {})


def test_kinds_of_values() -> None:
    assert [kind(value) for value in ((1, 2), {}, 0.5, str, (i for i in "ab"))] == [
        *("a tuple of 2", "a dict of 0", "0.5", "the class str", "a generator")
    ]


def test_half_of_a_surrogate_pair_is_named() -> None:
    check_texts("queries", {"q1": "whole: \N{OWL}"})
    with pytest.raises(
        ValueError, match=r"the text of 'q2' in queries must be Unicode; got half .* '\\ud83d', at char"
    ):
        check_texts("queries", {"q1": "fine", "q2": "half: \ud83d"})
