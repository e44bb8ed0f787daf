"""The matrix products of a step: as many multiplications as torch counts, without those of the padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from products import PYTHON, Attention, Buffer, Linear, flop, profile, recorded, replay
from sentence_transformers import CrossEncoder
from torch.utils.flop_counter import FlopCounterMode

from cmp_rerank.ablations import CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

EQUAL = [("one two", "three four five")] * 3
MIXED = [("one two", "three four five"), ("one two", "three four five six seven eight nine ten" * 3)]


def step(model: CrossEncoder, pairs: list[tuple[str, str]], **options: Any) -> Callable[[], None]:
    """A training step, after the first one, in which the engine finds out what it needs."""
    plan = Plan([CmpDrop(p=0.2)])
    examples = tokenise(model, pairs, plan)
    scorer = Scorer(CrossEncoderAdapter(), plan.on_model, **options)

    def run() -> None:
        scorer(model.train(), examples, [plan.views(example) for example in examples]).sum().backward()
        model.zero_grad(set_to_none=True)

    run()
    return run


def counted(model: CrossEncoder, pairs: list[tuple[str, str]], **options: Any) -> int:
    """Multiplications and additions as torch counts them, with attention as products."""
    run = step(model, pairs, **options)
    model[0].model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        run()
    model[0].model.set_attn_implementation("sdpa")
    return counter.get_total_flops()


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_without_padding_all_is_counted(strategy: str, tiny_model: CrossEncoder) -> None:
    run = step(tiny_model, EQUAL, strategy=strategy)
    with recorded(tiny_model) as found:
        run()
    assert flop(found) == counted(tiny_model, EQUAL, strategy=strategy)
    assert {type(each) for each in found} == {Linear, Attention}
    assert any(not each.backward for each in found) == (strategy == "hybrid")  # rows without a graph


@pytest.mark.parametrize("options", [{"strategy": "naive"}, {"strategy": "stacked", "unpadded": True}])
def test_padding_is_left_out(options: dict[str, Any], tiny_model: CrossEncoder) -> None:
    """As if each row were a pass of its own."""
    run = step(tiny_model, MIXED, **options)
    with recorded(tiny_model) as found:
        run()
    alone = sum(counted(tiny_model, [pair], strategy="stacked") for pair in MIXED)
    assert flop(found) == alone < counted(tiny_model, MIXED, strategy="naive")


def test_what_is_replayed_are_these_products() -> None:
    """By torch's own count."""
    made = {
        Linear(5, 3, 2, True): 2,
        Linear(5, 3, 2, False): 1,
        Attention(4, 5, 3, True): 1,
        Attention(4, 5, 3, False): 3,
    }
    buffer = Buffer(torch.device("cpu"), torch.float32)
    with FlopCounterMode(display=False) as counter:
        assert replay(made, buffer) > 0  # type: ignore[arg-type]
    assert counter.get_total_flops() == flop(made)  # type: ignore[arg-type]


def test_a_profile_tells_where_the_time_goes() -> None:
    a, table = torch.randn(600, 600), torch.nn.Embedding(100, 8)

    def products() -> None:
        for _ in range(20):
            torch.mm(a, a)

    def python() -> None:
        table(torch.arange(3))
        sum(range(3_000_000))

    found = profile(products)
    assert max(found, key=found.__getitem__) == "products"
    idle = profile(python)
    assert max(idle, key=idle.__getitem__) == PYTHON
    assert idle["embedding"] > 0
    for shares in (found, idle):
        assert sum(shares.values()) == pytest.approx(1, abs=1e-2)
        assert all(share >= 0 for share in shares.values())
