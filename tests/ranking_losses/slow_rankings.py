"""The ranking losses as slow loops over one list, in plain Python, without padding: the oracles of the fast ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

Numbers = Sequence[float]


def smoothed(y: Numbers, e: float) -> list[float]:
    return [(1 - e) * each + e * sum(y) / len(y) for each in y]


def softmax(s: Numbers) -> list[float]:
    powers = [math.exp(each - max(s)) for each in s]
    return [power / sum(powers) for power in powers]


def listwise_softmax(
    s: Numbers, y: Numbers, epsilon: float = 0.0, normalize: bool = False, label_smoothing: float = 0.0
) -> float:
    y = smoothed(y, label_smoothing)
    if normalize and sum(y) > 0:
        y = [each / sum(y) for each in y]
    return sum(yi * (-math.log(p) + epsilon * (1 - p)) for yi, p in zip(y, softmax(s), strict=True))


def localized_contrastive(s: Numbers, y: Numbers, label_smoothing: float = 0.0) -> float:
    negatives = [si for si, yi in zip(s, y, strict=True) if yi == 0]
    positives = [si for si, yi in zip(s, y, strict=True) if yi > 0]
    if not positives or not negatives:
        return 0.0
    losses = []
    for positive in positives:
        target = smoothed([1.0] + [0.0] * len(negatives), label_smoothing)
        losses.append(-sum(t * math.log(p) for t, p in zip(target, softmax([positive, *negatives]), strict=True)))
    return sum(losses) / len(losses)


def gain_of(y: float, gain: str) -> float:
    return 2**y - 1 if gain == "exponential" else y


def discount(place: int, k: int | None) -> float:
    return 1 / math.log2(1 + place) if k is None or place <= k else 0.0


def ideal_dcg(y: Numbers, gain: str, k: int | None = None) -> float:
    best = sorted((gain_of(yi, gain) for yi in y), reverse=True)
    return sum(g * discount(place, k) for place, g in enumerate(best, 1))


def one_minus_ndcg(s: Numbers, y: Numbers, gain: str = "exponential", k: int | None = None) -> float:
    """What the smooth forms tend to. Documents of equal score share the mean discount of their places."""
    if not any(y):
        return 0.0
    dcg = 0.0
    for si, yi in zip(s, y, strict=True):
        first = 1 + sum(other > si for other in s)
        last = sum(other >= si for other in s)
        shared = [discount(place, k) for place in range(first, last + 1)]
        dcg += gain_of(yi, gain) * sum(shared) / len(shared)
    return 1 - dcg / ideal_dcg(y, gain, k)


def approx_ndcg(
    s: Numbers, y: Numbers, temperature: float = 0.1, gain: str = "exponential", label_smoothing: float = 0.0
) -> float:
    y = smoothed(y, label_smoothing)
    if not any(y):
        return 0.0
    dcg = 0.0
    for i, si in enumerate(s):
        rank = 1 + sum(1 / (1 + math.exp((si - sj) / temperature)) for j, sj in enumerate(s) if j != i)
        dcg += gain_of(y[i], gain) / math.log2(1 + rank)
    return 1 - dcg / ideal_dcg(y, gain)


def neural_ndcg(
    s: Numbers,
    y: Numbers,
    temperature: float = 1.0,
    k: int | None = None,
    transposed: bool = False,
    gain: str = "exponential",
    label_smoothing: float = 0.0,
    iterations: int = 50,
) -> float:
    y = smoothed(y, label_smoothing)
    n = len(s)
    if not any(y):
        return 0.0
    matrix = []  # [place][document]
    for place in range(1, n + 1):
        spread = [sum(abs(sj - other) for other in s) for sj in s]
        matrix.append(softmax([((n + 1 - 2 * place) * s[j] - spread[j]) / temperature for j in range(n)]))
    for _ in range(iterations):
        for what in ("rows", "columns") if transposed else ("columns", "rows"):
            for i in range(n):
                cells = [(i, j) for j in range(n)] if what == "rows" else [(j, i) for j in range(n)]
                total = sum(matrix[a][b] for a, b in cells)
                for a, b in cells:
                    matrix[a][b] /= total
    dcg = sum(discount(place + 1, k) * matrix[place][j] * gain_of(y[j], gain) for place in range(n) for j in range(n))
    return 1 - dcg / ideal_dcg(y, gain, k)


def pairwise_softmax(s: Numbers, y: Numbers, surrogate: str = "tanh", temperature: float = 0.2) -> float:
    def f(d: float) -> float:
        if surrogate == "exp":
            return math.exp(d)
        return {"tanh": math.tanh(d) + 1, "atan": max(math.atan(d) + 1, 0.0), "relu": max(d + 1, 0.0)}[surrogate]

    losses = []
    for si, yi in zip(s, y, strict=True):
        if yi > 0:
            rivals = [f(sj - si) ** (1 / temperature) for sj, yj in zip(s, y, strict=True) if yj == 0]
            losses.append(math.log(1 + sum(rivals)))
    return sum(losses) / len(losses) if losses else 0.0


def weighted_ranknet(s: Numbers, y: Numbers, normalize: bool = False) -> float:
    def rank(label: float) -> float:
        places = [place for place, each in enumerate(sorted(y, reverse=True), 1) if each == label]
        return sum(places) / len(places)

    total = weights = 0.0
    for si, yi in zip(s, y, strict=True):
        for sj, yj in zip(s, y, strict=True):
            if yi > yj:
                weight = 1 / (rank(yi) + rank(yj))
                weights += weight
                total += weight * math.log(1 + math.exp(sj - si))
    return total / weights if normalize and weights else total


def circle(
    s: Numbers, y: Numbers, margin: float = 0.25, scale: float = 10.0, weights: Numbers | None = None
) -> float:
    """``weights``: those of other scores, to vary the scores and keep the weights."""
    if weights is None:
        weights = circle_weights(s, y, margin)
    products = [
        math.exp(scale * wj * (sj - margin)) * math.exp(-scale * wi * (si - 1 + margin))
        for si, yi, wi in zip(s, y, weights, strict=True)
        if yi > 0
        for sj, yj, wj in zip(s, y, weights, strict=True)
        if yj == 0
    ]
    return math.log(1 + sum(products))


def circle_weights(s: Numbers, y: Numbers, margin: float = 0.25) -> list[float]:
    return [max(1 + margin - si if yi > 0 else si + margin, 0.0) for si, yi in zip(s, y, strict=True)]


def margin_hinge(s: Numbers, y: Numbers, margin: float = 1.0) -> float:
    losses = [
        max(0.0, margin - (si - sj))
        for si, yi in zip(s, y, strict=True)
        for sj, yj in zip(s, y, strict=True)
        if yi > yj
    ]
    return sum(losses) / len(losses) if losses else 0.0


def listwise_margin_mse(s: Numbers, t: Numbers, normalize: bool = False) -> float:
    n = len(s)
    if normalize:
        deviation = math.sqrt(sum((each - sum(t) / n) ** 2 for each in t) / n)
        t = [each / deviation if deviation else 0.0 for each in t]
    squares = [((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i in range(n) for j in range(i)]
    return sum(squares) / len(squares)


def listwise_kl(s: Numbers, t: Numbers, temperature: float = 1.0) -> float:
    p = softmax([each / temperature for each in t])
    q = softmax([each / temperature for each in s])
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
