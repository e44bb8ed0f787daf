"""Pairs of many requests, scored together: passes of pairs of similar length, without waiting for more to come."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cmp_rerank.ir.arguments import check_count, check_number

Score = Callable[[Sequence[Any]], np.ndarray]


class Pass(NamedTuple):
    """What a pass held.

    Attributes:
        pairs: How many pairs.
        requests: Of how many requests.
        tokens: How many tokens, padding not included.
        padding: How many tokens of padding.
        seconds: How long it took.
    """

    pairs: int
    requests: int
    tokens: int
    padding: int
    seconds: float


def neighbours(lengths: Sequence[int], at: int, budget: int, start: int) -> tuple[int, int]:
    """Which of the waiting pairs go into one pass with a given one: those next to it in length.

    A pair joins if the pass keeps to the budget, and if the padding that it brings costs no more than a pass of its
    own would to start. The nearest in length comes first.

    Args:
        lengths: Tokens of the waiting pairs, ascending.
        at: The pair that must be in.
        budget: How many tokens a pass holds, padding included. A pair that is longer has a pass of its own.
        start: What starting a pass costs, in tokens.

    Returns:
        The first of them, and the one after the last.

    Example:
        >>> neighbours([20, 21, 90, 100, 100, 400], at=3, budget=512, start=24)
        (2, 5)
        >>> neighbours([20, 21, 90, 100, 100, 400], at=3, budget=256, start=24)
        (3, 5)
    """
    low, high = at, at + 1
    while True:
        longest, size = lengths[high - 1], high - low
        options = []  # (padding, side)
        if low > 0 and (size + 1) * longest <= budget:
            options.append((longest - lengths[low - 1], 0))
        if high < len(lengths) and (size + 1) * lengths[high] <= budget:
            options.append((size * (lengths[high] - longest), 1))
        if not options or min(options)[0] > start:
            return low, high
        if min(options)[1]:
            high += 1
        else:
            low -= 1


class _Waiting(NamedTuple):
    """A pair that waits; sorted by length, then by arrival (numbers differ, so that nothing else is compared)."""

    length: int
    number: int
    place: int
    request: _Request


@dataclass(eq=False)
class _Request:
    """The pairs of a request, and their scores as far as they are known."""

    items: Sequence[Sized]
    future: Future[np.ndarray] = field(default_factory=Future)
    left: dict[int, _Waiting] = field(default_factory=dict)
    unscored: int = 0

    def __post_init__(self) -> None:
        self.scores = np.full(len(self.items), np.nan)
        self.unscored = len(self.items)


class Batcher:
    """Scores pairs in a thread of its own, which begins with the first request.

    Requests take turns: a pass holds the first waiting pair of the request whose turn it is, and whatever waits of
    similar length, of any request. So a small request is not held up by a large one for longer than a pass in which
    neither has a part. Nothing waits for company: a pass begins as soon as the one before has ended.

    Args:
        score: Gives the scores of items, (items,).
        tokens: How many tokens a pass holds, padding included.
        start: What starting a pass costs, in tokens.
        done: Called after each pass.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> batcher = Batcher(lambda texts: np.array([len(text) for text in texts], dtype=float), tokens=100)
        >>> batcher.submit(["one", "three"]).result().tolist()
        [3.0, 5.0]
        >>> batcher.close()
    """

    def __init__(
        self, score: Score, *, tokens: int, start: int = 0, done: Callable[[Pass], None] | None = None
    ) -> None:
        check_count("tokens", tokens)
        check_number("start", start, 0)
        self._score, self._tokens, self._start, self._done = score, tokens, start, done
        self._changed = threading.Condition()
        self._turns: deque[_Request] = deque()
        self._waiting: list[_Waiting] = []
        self._number = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return not self._closed and (self._thread is None or self._thread.is_alive())

    def submit(self, items: Sequence[Sized]) -> Future[np.ndarray]:
        """Have items scored.

        Args:
            items: What `score` takes; the length of each is its number of tokens.

        Returns:
            The scores, (items,), when all are known. Cancelling it takes what still waits out of the queue.

        Raises:
            RuntimeError: The batcher was closed.
        """
        request = _Request(items)
        with self._changed:
            if not self.alive:
                raise RuntimeError("the batcher is closed; it takes no more requests")
            for place, item in enumerate(items):
                waiting = _Waiting(len(item), self._number, place, request)
                self._number += 1
                request.left[place] = waiting
                insort(self._waiting, waiting)
            if items:
                self._turns.append(request)
                self._changed.notify()
                if self._thread is None:  # one that nobody asked for anything holds no thread, nor the model in it
                    self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
                    self._thread.start()
        if not items:
            request.future.set_result(request.scores)
        return request.future

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._turns or self._closed)
                chosen = self._take()
                if not chosen and not self._turns:  # closed, and nothing left
                    if self._closed:
                        return
                    continue
            self._score_pass(chosen)

    def _take(self) -> list[_Waiting]:
        """The pairs of the next pass, out of the queue; empty where all that waited was cancelled."""
        while self._turns:
            request = self._turns[0]
            if request.future.cancelled():
                self._drop(request)
            if not request.left:  # dropped, or its last pairs went into passes of others
                self._turns.popleft()
                continue
            self._turns.rotate(-1)
            first = bisect_left(self._waiting, next(iter(request.left.values())))
            low, high = neighbours([each.length for each in self._waiting], first, self._tokens, self._start)
            chosen = self._waiting[low:high]
            del self._waiting[low:high]
            for each in chosen:
                del each.request.left[each.place]
            return chosen
        return []

    def _drop(self, request: _Request) -> None:
        for each in request.left.values():
            del self._waiting[bisect_left(self._waiting, each)]
        request.left.clear()

    def _score_pass(self, chosen: Sequence[_Waiting]) -> None:
        if not chosen:
            return
        requests = list(dict.fromkeys(each.request for each in chosen))
        begin = time.perf_counter()
        try:
            scores = self._scores(chosen)
        except Exception as error:
            if len(requests) == 1:
                self._fail(requests[0], error)
            else:  # whoever is to blame, the others are not
                for request in requests:
                    self._score_pass([each for each in chosen if each.request is request])
            return
        if self._done is not None:
            longest, tokens = max(each.length for each in chosen), sum(each.length for each in chosen)
            padding = longest * len(chosen) - tokens
            self._done(Pass(len(chosen), len(requests), tokens, padding, time.perf_counter() - begin))
        for each, score in zip(chosen, scores, strict=True):
            request = each.request
            request.scores[each.place] = score
            request.unscored -= 1
            if not request.unscored and request.future.set_running_or_notify_cancel():
                request.future.set_result(request.scores)

    def _scores(self, chosen: Sequence[_Waiting]) -> np.ndarray:
        scores = np.asarray(self._score([each.request.items[each.place] for each in chosen]), dtype=np.float64)
        if scores.shape != (len(chosen),) or not np.isfinite(scores).all():
            raise ArithmeticError(
                f"scores of {len(chosen)} pairs must be as many finite numbers; got {scores.tolist()!r:.80}; check "
                "the model, or load it in 32 bits"
            )
        return scores

    def _fail(self, request: _Request, error: Exception) -> None:
        with self._changed:
            self._drop(request)
        if not request.future.done() and request.future.set_running_or_notify_cancel():
            request.future.set_exception(error)
