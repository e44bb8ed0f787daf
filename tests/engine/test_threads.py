"""Two threads at once: with models of their own, or with one, each gets the scores that it gets alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor

from cmp_rerank.ablations import CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

PAIRS = list(zip(QUERIES * 2, [*PASSAGES, *OTHERS], strict=True))
PLAN = Plan([CmpDrop(p=0.3)])
ROUNDS = 12


def scorer(unpadded: bool = True) -> Scorer:
    options: dict[str, Any] = {"strategy": "stacked", "tokens_per_chunk": 10**6}
    return Scorer(CrossEncoderAdapter(), PLAN.on_model, unpadded=unpadded, **options)


def scores(model: CrossEncoder, scorer: Scorer) -> Tensor:
    examples = tokenise(model, PAIRS, PLAN)
    with torch.no_grad():
        return scorer(model, examples, [PLAN.views(example) for example in examples])


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def made(tiny_checkpoint: Path) -> Callable[[], CrossEncoder]:
    return lambda: CrossEncoder(str(tiny_checkpoint), device="cpu").eval()


def together(*jobs: Callable[[], Tensor]) -> list[list[Tensor]]:
    """What each job gives, round by round, while the others run."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = [threads.submit(lambda job=job: [job() for _ in range(ROUNDS)]) for job in jobs]
        return [each.result() for each in found]


def left(model: CrossEncoder) -> tuple[str, int]:
    """The attention that the configuration names, and the number of hooks."""
    hooks = sum(len(each._forward_pre_hooks) + len(each._forward_hooks) for each in model.modules())
    return model[0].model.config._attn_implementation, hooks


@pytest.mark.parametrize("unpadded", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("share", ["nothing", "model", "model and scorer"])
def test_two_threads(share: str, unpadded: tuple[bool, bool], made: Callable[[], CrossEncoder]) -> None:
    first = made()
    expected = scores(first, scorer(False))
    models = [first, made() if share == "nothing" else first]
    one = scorer(unpadded[0])
    scorers = [one, one if share == "model and scorer" else scorer(unpadded[1])]
    found = together(*(lambda m=m, s=s: scores(m, s) for m, s in zip(models, scorers, strict=True)))
    for each in (score for run in found for score in run):
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    assert [each.uses(Unpadded) for each in scorers] == [each.unpadded for each in scorers]
    assert [left(model) for model in models] == [("sdpa", 0)] * 2


def test_a_plain_call_in_another_thread_is_left_alone(made: Callable[[], CrossEncoder]) -> None:
    """Hooks are on its model meanwhile; see test_plain_calls for where this could go wrong."""
    model = made()
    batch = model.tokenizer(*zip(*PAIRS, strict=True), padding=True, return_tensors="pt")

    def plain() -> Tensor:
        with torch.no_grad():
            return model[0].model(**batch).logits  # type: ignore[operator, no-any-return]

    expected = plain(), scores(model, scorer(False))
    one_scorer = scorer()
    for run, one in zip(together(plain, lambda: scores(model, one_scorer)), expected, strict=True):
        for each in run:
            torch.testing.assert_close(each, one, rtol=1e-5, atol=1e-5)
    assert left(model) == ("sdpa", 0)
