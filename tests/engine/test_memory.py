"""When memory runs out, the chunk halves, training continues, and the gradients are those of a large memory."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import OTHERS, PASSAGES, QUERIES

from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.memory import Budget, kept_bytes
from cmp_rerank.engine.shared_trunk import SharedTrunk
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ADAPTER = CrossEncoderAdapter()

PLAN = Plan([CmpDrop(p=0.3, steps=2)])
TOP = Plan([CmpDrop(p=0.3, steps=2, layers="top:1")])  # with layers below, that steps can share


@contextmanager
def small_memory(model: CrossEncoder, tokens: int, *, only_second_passes: bool = False) -> Iterator[list[int]]:
    """A device whose memory holds a pass of at most so many tokens; yields the passes that it took."""
    taken: list[int] = []

    def check(_: Any, args: Any, kwargs: Any) -> None:
        size = (args[0] if args else kwargs["input_ids"]).numel()
        in_backward = torch._C._current_graph_task_id() != -1
        if size > tokens and (in_backward or not only_second_passes):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        taken.append(size)

    hook = model[0].model.bert.register_forward_pre_hook(check, with_kwargs=True)
    yield taken
    hook.remove()


def gradient(model: CrossEncoder, scorer: Scorer, plan: Plan = PLAN) -> torch.Tensor:
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    batch = tokenise(model, pairs, plan)
    scores = scorer(model.train(), batch, [plan.views(e) for e in batch])
    (torch.linspace(1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape) * scores).sum().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    assert found.abs().max() > 0
    return found


@pytest.mark.parametrize(
    ("strategy", "plan", "memory"),
    [("stacked", PLAN, 200), ("hybrid", PLAN, 200), ("auto", PLAN, 200), ("trunk", TOP, 200), ("auto", TOP, 120)],
)
@pytest.mark.parametrize("only_second_passes", [False, True], ids=["anywhere", "in the backward pass"])
def test_training_goes_on(
    strategy: Any,
    plan: Plan,
    memory: int,
    only_second_passes: bool,
    tiny_model: CrossEncoder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Budget, "start", lambda self, device: 10**6)  # as few passes as the budget allows
    tiny_model.double()
    expected = gradient(tiny_model, Scorer(ADAPTER, plan.on_model, strategy="naive"), plan)
    scorer = Scorer(ADAPTER, plan.on_model, strategy=strategy, tokens_per_chunk=2000)
    gradient(tiny_model, scorer, plan)  # what it finds out once, it finds out here
    with small_memory(tiny_model, memory, only_second_passes=only_second_passes) as taken:
        with caplog.at_level(logging.WARNING):
            found = gradient(tiny_model, scorer, plan)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        if only_second_passes and strategy != "hybrid":
            assert scorer.budget.events == 0  # no pass is run twice
            return
        assert scorer.budget.events > 0
        assert scorer.budget.tokens is not None
        assert scorer.budget.tokens <= memory
        assert sum("Out of memory in a pass of" in r.message for r in caplog.records) == scorer.budget.events
        events = scorer.budget.events
        gradient(tiny_model, scorer, plan)
        assert scorer.budget.events == events  # it has learned how much fits
        assert max(taken) > 50  # and does not crawl


def test_one_row_that_does_not_fit_is_an_error(tiny_model: CrossEncoder) -> None:
    with small_memory(tiny_model, 10), pytest.raises(torch.OutOfMemoryError):
        gradient(tiny_model, Scorer(ADAPTER, PLAN.on_model, tokens_per_chunk=100))
    trunk = Scorer(ADAPTER, TOP.on_model, strategy="trunk")
    gradient(tiny_model, trunk, TOP)
    with small_memory(tiny_model, 10), pytest.raises(torch.OutOfMemoryError):
        gradient(tiny_model, trunk, TOP)
    with small_memory(tiny_model, 10, only_second_passes=True), pytest.raises(torch.OutOfMemoryError):
        gradient(tiny_model, Scorer(ADAPTER, PLAN.on_model, strategy="hybrid"))


def test_a_pass_that_only_finds_out_may_fail(tiny_model: CrossEncoder) -> None:
    """It says nothing about how many tokens fit, nor about what is right for the model."""
    for scorer, plan in (
        (Scorer(ADAPTER, PLAN.on_model), PLAN),
        (Scorer(ADAPTER, TOP.on_model, strategy="trunk"), TOP),
    ):
        expected = gradient(tiny_model, Scorer(ADAPTER, plan.on_model, strategy="naive"), plan)
        gradient_of_sites = Scorer(ADAPTER, plan.on_model, strategy="stacked")  # knows the sites, and nothing else
        gradient(tiny_model, gradient_of_sites, plan)
        scorer._model = gradient_of_sites._model
        failed = []

        def fail(*_: Any, failed: list[int] = failed) -> None:
            if not failed:
                failed.append(1)
                raise torch.OutOfMemoryError("CUDA out of memory.")

        hook = tiny_model[0].model.bert.register_forward_pre_hook(fail)
        found = gradient(tiny_model, scorer, plan)
        hook.remove()
        assert failed
        assert torch.allclose(found, expected, atol=1e-6 * float(expected.abs().max()))
        assert scorer.budget.events == 1
        assert scorer.budget.tokens is not None
        assert scorer.budget.tokens > 1000
        assert scorer.strategy != "trunk" or scorer.uses(SharedTrunk)


def test_other_errors_are_not_swallowed(tiny_model: CrossEncoder) -> None:
    passes = []

    def fail(*_: Any) -> None:
        passes.append(1)
        raise RuntimeError("expected scalar type Float")

    tiny_model[0].model.bert.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        gradient(tiny_model, Scorer(ADAPTER))
    assert len(passes) == 1


def test_lean_training_keeps_no_activations(tiny_model: CrossEncoder) -> None:
    """After memory ran out, not even those of the full model's rows."""
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy="stacked")
    scorer.budget.recompute_activations = True
    kept = 0

    def note(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += x.numel() * (not x.requires_grad or x.grad_fn is not None)
        return x

    batch = tokenise(tiny_model, list(zip(QUERIES, PASSAGES, strict=True)), PLAN)
    tiny_model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        scorer(tiny_model, batch, [PLAN.views(e) for e in batch])
    assert kept < 100


def test_memory_that_is_free(tmp_path: Path) -> None:
    from cmp_rerank.engine.memory import _free_in_container, _free_in_system, available

    total = _free_in_system()
    assert total is not None
    assert 2**20 < total < 2**50
    assert 0 < (available(torch.device("cpu")) or 0) < total
    assert available(torch.device("meta")) is None  # nothing is known of others
    assert _free_in_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("300\n")
    for limit, left in (("1000\n", 700), ("max\n", None), ("200\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert _free_in_container(tmp_path) == left


def test_measuring_leaves_no_graph_behind() -> None:
    """A tensor that autograd keeps of its own output, and that is handed back as it is, is never given free."""
    layer = torch.nn.Linear(3, 3)
    with kept_bytes(layer):
        layer(torch.ones(2, 3, requires_grad=True)).tanh().softmax(1).exp()
    left = weakref.ref(layer.weight)
    del layer
    gc.collect()
    assert left() is None


def test_kept_bytes_are_those_of_the_graph() -> None:
    from cmp_rerank.engine.memory import kept_bytes

    layer = torch.nn.Linear(10, 10, bias=False)
    x = torch.randn(7, 10, requires_grad=True)
    with kept_bytes(layer) as kept:
        (layer(x) + layer(x)).exp()
    # x, once for both, and the result of exp; neither the weights nor the sum.
    assert kept == [2 * 7 * 10 * 4]


@pytest.mark.parametrize("own_dropout", [False, True])
def test_auto_keeps_as_much_as_fits(
    own_dropout: bool, tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three rows for each pair, from those of the full model to all."""
    from cmp_rerank.engine import scorer as module

    plan = Plan([CmpCrop(steps=2)]) if own_dropout else PLAN
    if own_dropout:
        for layer in tiny_model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.1
    tiny_model.double().train()
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    batch = tokenise(tiny_model, pairs, plan)
    views = [plan.views(example) for example in batch]

    def run(scorer: Scorer) -> tuple[int, torch.Tensor]:
        """Bytes that its graph keeps, and the gradients of whatever it draws."""
        torch.manual_seed(3)
        with kept_bytes(tiny_model) as kept:
            scores = scorer(tiny_model, batch, views)
        (torch.linspace(1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape) * scores).sum().backward()
        found = torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None])
        tiny_model.zero_grad(set_to_none=True)
        return kept[0], found

    all_rows, expected = run(Scorer(ADAPTER, plan.on_model, strategy="stacked"))
    full_rows, _ = run(Scorer(ADAPTER, plan.on_model, strategy="hybrid"))
    assert full_rows < 0.6 * all_rows
    scorer = Scorer(ADAPTER, plan.on_model)
    found = []
    for room in (None, 0, *(int(full_rows + share * (all_rows - full_rows)) for share in (0.3, 0.6, 0.9, 1.2))):
        monkeypatch.setattr(module, "available", lambda device, room=room: room)
        kept, gradient = run(scorer)
        found.append(kept)
        assert (
            kept == run(Scorer(ADAPTER, plan.on_model, activation_bytes=room))[0] if room is not None else full_rows
        )
        if room is not None:
            assert kept <= max(1.03 * room, full_rows)  # a small model keeps little more than what a batch has anyway
        if not own_dropout:
            assert torch.allclose(gradient, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    assert found[:2] == [full_rows] * 2
    assert found == sorted(found)
    assert len(set(found)) == 5  # more room, more rows
    assert found[-1] == all_rows


def test_measuring_draws_no_random_numbers(tiny_model: CrossEncoder) -> None:
    plan = Plan([CmpCrop()])
    batch = tokenise(tiny_model, list(zip(QUERIES, PASSAGES, strict=True)), plan)
    views = [plan.views(example) for example in batch]
    states = []
    for room in (0, 1):  # measured, and not even asked
        torch.manual_seed(0)
        scorer = Scorer(ADAPTER, activation_bytes=room) if room else Scorer(ADAPTER, strategy="hybrid")
        scorer(tiny_model.train(), batch, views)
        assert (scorer._model is not None and scorer._model.footprint is not None) == bool(room)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r'is for strategy="auto"; got strategy=.hybrid.'):
        Scorer(ADAPTER, strategy="hybrid", activation_bytes=10)
    with pytest.raises(ValueError, match="at least 0; got -1"):
        Scorer(ADAPTER, activation_bytes=-1)
    with pytest.raises(ValueError, match="a whole number, at least 0; got '8GB'"):
        Scorer(ADAPTER, activation_bytes="8GB")  # type: ignore[arg-type]
