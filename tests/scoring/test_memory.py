"""When memory runs out, the chunk halves, training goes on, and the gradients are those of a large memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import OTHERS, PASSAGES, QUERIES

from cmp_rerank.ablation import CmpDrop, Plan
from cmp_rerank.ablation.examples import tokenise
from cmp_rerank.scoring import Scorer

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
) -> None:
    tiny_model.double()
    expected = gradient(tiny_model, Scorer(plan.drop, strategy="naive"), plan)
    scorer = Scorer(plan.drop, strategy=strategy, tokens_per_chunk=2000)
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
        gradient(tiny_model, Scorer(PLAN.drop, tokens_per_chunk=100))
    trunk = Scorer(TOP.drop, strategy="trunk")
    gradient(tiny_model, trunk, TOP)
    with small_memory(tiny_model, 10), pytest.raises(torch.OutOfMemoryError):
        gradient(tiny_model, trunk, TOP)
    with small_memory(tiny_model, 10, only_second_passes=True), pytest.raises(torch.OutOfMemoryError):
        gradient(tiny_model, Scorer(PLAN.drop, strategy="hybrid"))


def test_a_pass_that_only_finds_out_may_fail(tiny_model: CrossEncoder) -> None:
    """It says nothing about how many tokens fit, nor about what is right for the model."""
    for scorer, plan in ((Scorer(PLAN.drop), PLAN), (Scorer(TOP.drop, strategy="trunk"), TOP)):
        expected = gradient(tiny_model, Scorer(plan.drop, strategy="naive"), plan)
        gradient_of_sites = Scorer(plan.drop, strategy="stacked")  # knows the sites, and nothing else
        gradient(tiny_model, gradient_of_sites, plan)
        scorer._ablation = gradient_of_sites._ablation
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
        assert scorer.strategy != "trunk" or scorer._trunk is not None


def test_other_errors_are_not_swallowed(tiny_model: CrossEncoder) -> None:
    passes = []

    def fail(*_: Any) -> None:
        passes.append(1)
        raise RuntimeError("expected scalar type Float")

    tiny_model[0].model.bert.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        gradient(tiny_model, Scorer(None))
    assert len(passes) == 1


def test_lean_training_keeps_no_activations(tiny_model: CrossEncoder) -> None:
    """After memory ran out, not even those of the full model's rows."""
    scorer = Scorer(PLAN.drop, strategy="stacked")
    scorer.budget.lean = True
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
    from cmp_rerank.scoring.memory import _free_in_container, _free_in_system, available

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


def test_kept_bytes_are_those_of_the_graph() -> None:
    from cmp_rerank.scoring.memory import kept_bytes

    layer = torch.nn.Linear(10, 10, bias=False)
    x = torch.randn(7, 10, requires_grad=True)
    with kept_bytes(layer) as kept:
        (layer(x) + layer(x)).exp()
    # x, once for both, and the result of exp; neither the weights nor the sum.
    assert kept == [2 * 7 * 10 * 4]


@pytest.mark.parametrize(("room", "strategy"), [(2**40, "stacked"), (1000, "hybrid"), (None, "hybrid")])
def test_auto_keeps_what_fits(
    room: int | None, strategy: str, tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmp_rerank.scoring import scorer as module

    monkeypatch.setattr(module, "available", lambda device: room)
    state = torch.get_rng_state()
    scorer = Scorer(PLAN.drop)
    batch = tokenise(tiny_model, list(zip(QUERIES, PASSAGES, strict=True)), PLAN)
    kept = 0

    def note(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += x.numel() * (not x.requires_grad or x.grad_fn is not None)
        return x

    tiny_model.train()
    views = [PLAN.views(e) for e in batch]
    scorer(tiny_model, batch, views)  # measures
    assert torch.equal(torch.get_rng_state(), state)  # by a pass that leaves no trace

    def of(scorer: Scorer) -> int:
        nonlocal kept
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            scorer(tiny_model, batch, views)
        return kept

    assert of(scorer) == pytest.approx(of(Scorer(PLAN.drop, strategy=strategy)), rel=0.01)  # type: ignore[arg-type]
    if room == 1000:
        # The measure is right to some padding: a little more room than it says is enough.
        assert scorer._bytes_per_token is not None
        tokens = sum(len(view) for steps in views for view in steps)
        monkeypatch.setattr(module, "available", lambda device: scorer._bytes_per_token * tokens + 1)
        assert of(scorer) > 2 * of(Scorer(PLAN.drop, strategy="hybrid"))
