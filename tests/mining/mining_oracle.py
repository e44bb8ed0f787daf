"""Mining as a slow loop: what ``pick="top"`` without random negatives must give."""

from __future__ import annotations

from collections.abc import Mapping

Number = float


def in_order(scores: Mapping[str, float]) -> list[str]:
    """By score, ties by id, both descending."""
    left, ordered = dict(scores), []
    while left:
        best = None
        for document, score in left.items():
            if best is None or score > left[best] or (score == left[best] and document > best):
                best = document
        assert best is not None
        ordered.append(best)
        del left[best]
    return ordered


def mine_slowly(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    *,
    negatives: int,
    relevant: int,
    ranks: tuple[int, int],
    judgments: str,
    min_score: float | None,
    max_score: float | None,
    absolute_margin: float | None,
    relative_margin: float | None,
    short: str,
) -> dict[str, tuple[set[str], list[str]]]:
    """Query -> (positives, negatives in the order of their ranks)."""
    result = {}
    for query, judged in qrels.items():
        positives = set()
        for document, grade in judged.items():
            if grade >= relevant:
                positives.add(document)
        if not positives:
            continue
        place = 0
        chosen: list[str] = []
        scores = run.get(query, {})
        for document in in_order(scores):
            if judgments == "any":
                usable = judged.get(document, 0) <= 0
            elif judgments == "judged":
                usable = document in judged and judged[document] <= 0
            else:
                usable = document not in judged
            if not usable:
                continue
            place += 1
            if place < ranks[0] or place > ranks[1] or len(chosen) == negatives:
                continue
            score = scores[document]
            if min_score is not None and score < min_score:
                continue
            if max_score is not None and score > max_score:
                continue
            close = False
            for positive in positives:
                if positive in scores:
                    limit = scores[positive]
                    if absolute_margin is not None and score > limit - absolute_margin:
                        close = True
                    if relative_margin is not None and score > limit - abs(limit) * relative_margin:
                        close = True
            if not close:
                chosen.append(document)
        if len(chosen) == negatives or (short == "keep" and chosen):
            result[query] = (positives, chosen)
    return result
