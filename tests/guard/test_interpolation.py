"""Weights between models: the ends bit by bit, a slow sum, counters, ties, adapters, and nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cmp_rerank.guard.interpolation import copy_of, difference, not_finite, obstacle, put, restored


class Model(nn.Module):
    """Parameters of two precisions, a buffer with fractions, a counter, and tied weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embeddings = nn.Parameter(torch.randn(7, 3, generator=generator))
        self.tied = self.embeddings
        self.low = nn.Parameter(torch.randn(5, generator=generator).to(torch.bfloat16))
        self.register_buffer("running", torch.randn(3, generator=generator, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(seed))


def bits(model: nn.Module) -> dict[str, list[int]]:
    return {name: tensor.contiguous().view(torch.uint8).flatten().tolist() for name, tensor in copies(model).items()}


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.reshape(-1) for name, tensor in copy_of(model).items()}


@pytest.mark.parametrize(("share", "end"), [(0.0, "start"), (1.0, "tuned")])
def test_the_ends_are_bit_by_bit_the_models(share: float, end: str) -> None:
    models = {"start": Model(1), "tuned": Model(2)}
    models["start"].embeddings.data[0, 0] = -0.0  # a sum with 0.0 would lose the sign
    work = copy.deepcopy(models["tuned"])
    put(work, [(models["start"].state_dict(), 1 - share), (models["tuned"].state_dict(), share)])
    expected = bits(models[end]) | {"steps": bits(models["start"])["steps"]}
    assert bits(work) == expected


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_weighted_sum_is_a_slow_loop(sizes: list[int]) -> None:
    shares = [size / sum(sizes) for size in sizes]
    models = [Model(seed) for seed in range(len(shares))]
    work = Model(9)
    put(work, [(model.state_dict(), share) for model, share in zip(models, shares, strict=True)])
    for name, tolerance in (("embeddings", 1e-6), ("low", 2e-2), ("running", 1e-12)):
        columns = [getattr(model, name).double().flatten().tolist() for model in models]
        expected = [sum(s * x for s, x in zip(shares, row, strict=True)) for row in zip(*columns, strict=True)]
        found = getattr(work, name).double().flatten().tolist()
        assert found == pytest.approx(expected, abs=tolerance), name
    assert work.steps.item() == 0
    assert work.tied is work.embeddings


def test_numbers_that_no_training_moved_stay_bit_by_bit() -> None:
    start, work = Model(1), Model(1)
    for shares in ((0.3, 0.7), (0.1, 0.2, 0.7)):
        put(work, [(copy.deepcopy(start).state_dict(), share) for share in shares])
        assert bits(work) == bits(start)


def test_low_precision_is_rounded_once() -> None:
    """In bfloat16 all along, 256 + 0.5 * (259 - 256) would be 256 or 258; 257.5 rounds to 258, 257.4 to 257 or so."""
    one, other, work = (nn.Linear(1, 1, bias=False).to(torch.bfloat16) for _ in range(3))
    one.weight.data.fill_(1.0)
    other.weight.data.fill_(1.0078125)  # the next number
    shares = [0.4] + [0.12] * 5
    put(work, [(model.state_dict(), share) for model, share in zip([one] + [other] * 5, shares, strict=True)])
    assert work.weight.item() == other.weight.item()


def test_everything_is_put_back_after_an_error() -> None:
    model = Model(3).train()
    before = bits(model)

    def fail() -> None:
        with restored(model):
            model.eval()
            put(model, [(Model(4).state_dict(), 1.0)])
            assert bits(model) != before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert bits(model) == before
    assert model.training


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: [(Model(1).state_dict(), 0.5)], r"shares must add up to 1; got \[0.5\]"),
        (lambda: [], "shares must add up to 1; got"),
        (
            lambda: [(nn.Linear(2, 2).state_dict(), 1.0)],
            "only models of one architecture .*'embeddings' is in one only",
        ),
        (lambda: [(copy_of(Model(1)) | {"tied": torch.zeros(7, 3)}, 1.0)], "'embeddings' and 'tied' are one in the"),
    ],
)
def test_refused(parts: Callable[[], list[tuple[dict[str, Tensor], float]]], message: str) -> None:
    model = Model(0)
    with pytest.raises(ValueError, match=message):
        put(model, parts())


def test_what_keeps_models_apart() -> None:
    one, other = nn.Linear(2, 1), nn.Linear(2, 3)
    assert difference(one.state_dict(), copy.deepcopy(one).state_dict()) is None
    assert "shape (1, 2) in one and (3, 2)" in str(obstacle(one.state_dict(), other.state_dict()))
    assert not_finite(one.state_dict()) is None
    one.bias.data.fill_(float("nan"))
    assert not_finite(one.state_dict()) == "bias"
    assert not_finite({"mask": torch.tensor([-torch.inf])}) is None


def test_an_adapter_is_named_and_a_merged_one_is_no_obstacle(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    start = tiny_models.cross_encoder(tmp_path / "start")
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
    tuned = copy.deepcopy(start)
    tuned.add_adapter(config)
    found = obstacle(start.state_dict(), tuned.state_dict())
    assert found is not None
    assert "they have adapters (the tensor" in found
    assert "merge_and_unload() of peft" in found
    merged = copy.deepcopy(start)
    merged[0].model = peft.get_peft_model(merged[0].model, config).merge_and_unload()
    assert obstacle(start.state_dict(), merged.state_dict()) is None
    assert not torch.equal(*(dict(m.named_parameters())[name] for m in (start, merged) for name in [QUERY]))


QUERY = "0.model.bert.encoder.layer.0.attention.self.query.weight"
