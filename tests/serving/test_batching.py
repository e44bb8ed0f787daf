"""The queue: what shares a pass, whose turn it is, and that nothing is lost, whatever fails or is cancelled."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.serving.batching import Batcher, Pass, neighbours

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=30).map(sorted)


@given(lengths, st.data(), st.integers(1, 1000), st.integers(0, 100))
def test_a_pass_holds_what_pays(lengths: list[int], data: st.DataObject, budget: int, start: int) -> None:
    at = data.draw(st.integers(0, len(lengths) - 1))
    low, high = neighbours(lengths, at, budget, start)
    assert 0 <= low <= at < high <= len(lengths)
    chosen = lengths[low:high]
    assert len(chosen) == 1 or len(chosen) * chosen[-1] <= budget
    # Each one but the given brought padding of at most what a pass of its own costs.
    padding = sum(chosen[-1] - length for length in chosen)
    assert padding <= start * (len(chosen) - 1)
    # No one more would fit and pay.
    if low > 0:
        assert (len(chosen) + 1) * chosen[-1] > budget or chosen[-1] - lengths[low - 1] > start
    if high < len(lengths):
        longer = lengths[high]
        assert (len(chosen) + 1) * longer > budget or len(chosen) * (longer - chosen[-1]) > start


class Recorder:
    """Scores a text by its length, slowly if asked; remembers its passes."""

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.told: list[Pass] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.passes.append(list(texts))
        self.entered.set()
        assert self.gate.wait(10)
        if any(text.startswith("bad") for text in texts):
            raise ValueError("a bad text")
        return np.array([np.nan if text.startswith("nan") else len(text) for text in texts], dtype=np.float32)


@pytest.fixture
def scorer() -> Recorder:
    return Recorder()


@pytest.fixture
def batcher(scorer: Recorder) -> Iterator[Batcher]:
    made = Batcher(scorer, tokens=40, start=3, done=scorer.told.append)
    yield made
    scorer.gate.set()
    made.close()


def held(scorer: Recorder, batcher: Batcher) -> None:
    """Keep the thread busy with one text, so that what follows waits."""
    scorer.gate.clear()
    scorer.entered.clear()
    batcher.submit(["!"])
    assert scorer.entered.wait(10)


def test_requests_that_wait_share_passes_of_similar_length(scorer: Recorder, batcher: Batcher) -> None:
    held(scorer, batcher)
    first, second = batcher.submit(["a" * 10, "a" * 30]), batcher.submit(["b" * 11, "b" * 29])
    scorer.gate.set()
    assert first.result(10).tolist() == [10, 30]
    assert second.result(10).tolist() == [11, 29]
    assert [sorted(texts) for texts in scorer.passes[1:]] == [["a" * 10, "b" * 11], ["b" * 29], ["a" * 30]]
    told = scorer.told[1]
    assert (told.pairs, told.requests, told.tokens, told.padding) == (2, 2, 21, 1)


def test_a_small_request_is_not_held_up_by_a_large_one(scorer: Recorder, batcher: Batcher) -> None:
    held(scorer, batcher)
    large = batcher.submit(["a" * 30] * 50)
    small = batcher.submit(["b" * 20])
    scorer.gate.set()
    small.result(10)
    large.result(10)
    order = [texts[0][0] for texts in scorer.passes[1:]]
    assert order.index("b") == 1
    assert len(order) == 51


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 60), max_size=12), min_size=1, max_size=8),
    st.integers(1, 100),
    st.integers(0, 20),
)
def test_every_request_gets_its_own_scores_in_its_order(sizes: list[list[int]], tokens: int, start: int) -> None:
    scorer = Recorder()
    batcher = Batcher(scorer, tokens=tokens, start=start)
    with ThreadPoolExecutor(len(sizes)) as pool:
        futures = list(pool.map(batcher.submit, [["x" * size for size in own] for own in sizes]))
    assert [future.result(10).tolist() for future in futures] == sizes
    batcher.close()
    assert sum(map(len, scorer.passes)) == sum(map(len, sizes))
    assert all(len(texts) == 1 or len(texts) * max(map(len, texts)) <= tokens for texts in scorer.passes)


@pytest.mark.parametrize(("text", "error"), [("bad" * 3, ValueError), ("nan" * 3, ArithmeticError)])
def test_whoever_is_to_blame_fails_alone(
    scorer: Recorder, batcher: Batcher, text: str, error: type[Exception]
) -> None:
    held(scorer, batcher)
    good, bad = batcher.submit(["a" * 9, "a" * 30]), batcher.submit([text, "b" * 30, "b" * 35])
    scorer.gate.set()
    assert good.result(10).tolist() == [9, 30]
    with pytest.raises(error):
        bad.result(10)
    assert batcher.submit(["c"]).result(10).tolist() == [1]
    assert scorer.passes[1] == sorted(
        ["a" * 9, text], key=lambda each: each != "a" * 9
    )  # they were together at first
    assert not any("b" * 35 in texts for texts in scorer.passes)  # what was left of it is not scored


def test_what_is_cancelled_is_not_scored(scorer: Recorder, batcher: Batcher) -> None:
    held(scorer, batcher)
    gone, stays = batcher.submit(["a" * 30] * 5), batcher.submit(["b" * 30])
    assert gone.cancel()
    scorer.gate.set()
    assert stays.result(10).tolist() == [30]
    with pytest.raises(CancelledError):
        gone.result(0)
    assert [texts[0][0] for texts in scorer.passes] == ["!", "b"]


def test_one_that_is_cancelled_within_its_pass_harms_nobody(scorer: Recorder, batcher: Batcher) -> None:
    scorer.gate.clear()
    future = batcher.submit(["a" * 30])
    assert scorer.entered.wait(10)
    assert future.cancel()
    scorer.gate.set()
    assert batcher.submit(["b"]).result(10).tolist() == [1]


def test_closing_finishes_what_waits_and_takes_no_more(scorer: Recorder, batcher: Batcher) -> None:
    held(scorer, batcher)
    futures = [batcher.submit(["a" * 30] * 3) for _ in range(3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.alive:
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(["b"])
    scorer.gate.set()
    closing.join(10)
    assert [future.result(0).tolist() for future in futures] == [[30] * 3] * 3


def test_one_that_nobody_asks_holds_no_thread_and_is_forgotten() -> None:
    before = threading.active_count()
    scorer = Recorder()
    seen = weakref.ref(scorer)
    batcher = Batcher(scorer, tokens=40)
    assert batcher.submit([]).result().tolist() == []
    assert batcher.alive
    assert threading.active_count() == before
    del batcher, scorer
    gc.collect()
    assert seen() is None
    closed = Batcher(Recorder(), tokens=40)
    closed.close()
    assert not closed.alive


def test_nothing_to_score(batcher: Batcher) -> None:
    assert batcher.submit([]).result(1).tolist() == []


@pytest.mark.parametrize(("options", "message"), [({"tokens": 0}, "tokens"), ({"tokens": 5, "start": -1}, "start")])
def test_numbers_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batcher(len, **options)  # type: ignore[arg-type]
