"""Fusion against its formulas, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cmp_rerank.ir import combine, fuse


def test_fusion_is_its_formula() -> None:
    first, second = {"q": {"a": 9.0, "b": 8.0, "c": 8.0}, "p": {"x": 1.0}}, {"q": {"c": 0.2, "d": 0.1}}
    fused = fuse([first, second], k=10)
    assert fused == {"q": {"a": 1 / 11, "c": 1 / 12 + 1 / 11, "b": 1 / 13, "d": 1 / 12}, "p": {"x": 1 / 11}}
    with pytest.raises(ValueError, match="two runs or more; got 1"):
        fuse([first])
    with pytest.raises(ValueError, match="k must be a number of at least 0; got -1"):
        fuse([first, second], k=-1)


def test_combination_is_its_formula() -> None:
    first, second = {"q": {"a": 8.0, "b": 2.0}, "p": {"x": 0.0}}, {"q": {"b": 0.5, "c": 0.1, "d": -0.3}, "r": {}}
    combined = combine([first, second])
    assert combined == {"q": {"a": 1.0, "b": 0.25 + 1.0, "c": pytest.approx(0.2), "d": 0.0}, "p": {"x": 0.0}, "r": {}}
    with pytest.raises(ValueError, match="two runs or more; got 1"):
        combine([first])


@pytest.mark.parametrize("fusion", [fuse, combine])
def test_runs_of_another_shape_are_refused(fusion: Callable[[Any], object]) -> None:
    run = {"q": {"a": 1.0}}
    for runs, message in (
        ((part for part in [run, run]), r"runs must be a list of runs; got a generator; write \[first, second\]"),
        ({"one": run, "two": run}, "runs must be a list of runs; got a dict of 2"),
        ([run, "run.trec"], "run 2 must map query ids to .*; got the string 'run.trec'; read the file with"),
        ([{"a": 1.0}, run], "run 1 must map query ids to .*; got 1.0 for query 'a'; give each query a dictionary"),
    ):
        with pytest.raises(ValueError, match=message):
            fusion(runs)
