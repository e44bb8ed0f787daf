"""What all integrations share: candidates of one query, ranked as `cmp-rerank rerank` does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from integrations_data import DOCUMENTS, QUERY, SCORES, Checkpoints, best_first, mixed

from cmp_rerank.integrations.candidates import CandidateReranker


def test_scores_are_those_of_predict(case: tuple[str, list[float]]) -> None:
    folder, scores = case
    ranked = CandidateReranker(folder, device="cpu").rank(QUERY, DOCUMENTS)
    assert [place for place, _ in ranked] == best_first(scores)
    assert [score for _, score in ranked] == pytest.approx([scores[place] for place, _ in ranked], abs=1e-5)


def test_the_guard_joins_scores(checkpoints: Checkpoints) -> None:
    reranker = CandidateReranker(checkpoints.mixed, device="cpu")
    ranked = reranker.rank(QUERY, DOCUMENTS, SCORES)
    assert [place for place, _ in ranked] == [place for place, _ in mixed(checkpoints.mixed)]
    assert [score for _, score in ranked] == pytest.approx([score for _, score in mixed(checkpoints.mixed)])
    for missing in (None, SCORES[:-1], [*SCORES[:-1], None]):
        with pytest.raises(ValueError, match=r"0\.5 of the model\); got candidates without scores"):
            reranker.rank(QUERY, DOCUMENTS, missing)
    alone = CandidateReranker(checkpoints.mixed, mix=False, device="cpu").rank(QUERY, DOCUMENTS)
    assert alone == CandidateReranker(checkpoints.plain, device="cpu").rank(QUERY, DOCUMENTS)
    assert [place for place, _ in alone] != [place for place, _ in ranked]


class Lengths:
    def predict(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(len(text)) for _, text in pairs]


@given(st.lists(st.text("ab", max_size=4), max_size=30))
def test_order_and_places(texts: list[str]) -> None:
    ranked = CandidateReranker(Lengths()).rank("q", texts)
    expected = sorted(range(len(texts)), key=lambda place: -len(texts[place]))  # equals stay in order
    assert ranked == [(place, float(len(texts[place]))) for place in expected]


def test_a_model_that_gives_nan() -> None:
    class Wrong:
        def predict(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            return [float("nan")] * len(pairs)

    with pytest.raises(ValueError, match="scores must be finite"):
        CandidateReranker(Wrong()).rank("q", ["a"])


def test_no_such_checkpoint() -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        CandidateReranker("nothing/there")
