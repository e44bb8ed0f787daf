"""The gradient of an embedding is what autograd gives, and is made once, however many passes look up in it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils._python_dispatch import TorchDispatchMode

from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.embedding_gradients import EmbeddingGradients, Table, Tables
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ADAPTER = CrossEncoderAdapter()

PLAN = Plan([CmpCrop(), CmpDrop(p=0.3)])
TOKENS_PER_CHUNK = 150  # many passes


def embeddings(model: CrossEncoder) -> nn.Module:
    return model[0].model.bert.embeddings  # type: ignore[union-attr, return-value]


def gradients(model: CrossEncoder, backwards: int = 1, **options: Any) -> dict[str, torch.Tensor]:
    model.train()
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    batch = tokenise(model, pairs, PLAN)
    scores = Scorer(ADAPTER, PLAN.on_model, **options)(model, batch, [PLAN.views(example) for example in batch])
    loss = (torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape) * scores).sum()
    for left in reversed(range(backwards)):
        loss.backward(retain_graph=left > 0)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], factor: float = 1.0) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], factor * gradient, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: n + m)


@pytest.fixture
def model(tiny_model: CrossEncoder) -> CrossEncoder:
    """In double precision, with more tokens in the vocabulary than in a batch."""
    tiny_model[0].model.resize_token_embeddings(5000, mean_resizing=False)  # type: ignore[union-attr, operator]
    return tiny_model.double()


# The tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [7, 1000])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_is_that_of_autograd(detached: bool, padding: int | None, vocabulary: int) -> None:
    torch.manual_seed(0)
    module = nn.Embedding(vocabulary, 5, padding_idx=padding).double()
    lookups = EmbeddingGradients(module)
    for _ in range(2):  # tables are anew for each
        tables = Tables(detached)
        total = torch.zeros((), dtype=torch.float64)
        expected = torch.zeros((), dtype=torch.float64)
        for _ in range(4):
            tokens = torch.randint(7, (3, 2))
            factors = torch.randn(3, 2, 5, dtype=torch.float64)
            expected = expected + (module(tokens) * factors).sum()
            with lookups.installed(), lookups.over(tables):
                rows = module(input=tokens)
            assert torch.equal(rows, module(tokens))
            total = total + (rows * factors).sum()
        (wanted,) = torch.autograd.grad(expected, module.weight)
        if detached:
            (table,) = tables
            torch.autograd.grad(total, tables.anchors())
            table.settle()
            found = table.take()
        else:
            (found,) = torch.autograd.grad(total, module.weight)
        assert found is not None
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(found, wanted)
        assert [table.take() for table in tables] == [None]


def test_what_a_failed_backward_pass_has_left_does_not_count() -> None:
    table = Table(nn.Embedding(100, 2), detached=True)
    grad = torch.ones(1, 2)
    table.add(torch.tensor([5]), grad)
    table.settle()
    table.add(torch.tensor([6]), grad)
    table.forget()
    table.add(torch.tensor([7]), grad)
    table.settle()
    gradient = table.take()
    assert gradient is not None
    assert gradient.sum(1).nonzero().flatten().tolist() == [5, 7]


def test_what_is_held_is_never_much_more_than_a_gradient() -> None:
    table = Table(nn.Embedding(100, 2), detached=False)
    for _ in range(50):
        table.add(torch.arange(30), torch.ones(30, 2))
        assert sum(len(tokens) for tokens, _ in table._settled) < 100  # half of it, and one more pass
    gradient = table.take()
    assert gradient is not None
    assert gradient[:30].eq(50).all()
    assert gradient[30:].eq(0).all()


def test_memory_that_runs_out_while_adding_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left before is still there."""

    def fail(parts: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    table = Table(nn.Embedding(100, 2), detached=True)
    table.add(torch.arange(60), torch.ones(60, 2))
    table.settle()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "cat", fail)
        with pytest.raises(torch.OutOfMemoryError):
            table.add(torch.arange(10), torch.ones(10, 2))
    table.forget()
    table.add(torch.arange(10), torch.ones(10, 2))
    table.settle()
    gradient = table.take()
    assert gradient is not None
    assert gradient[:, 0].tolist() == 10 * [2] + 50 * [1] + 40 * [0]


def test_half_precision_is_added_up_in_single() -> None:
    """Of a token that comes often, each gradient is little beside the sum of the others."""
    table = Table(nn.Embedding(5000, 2, dtype=torch.bfloat16), detached=False)
    for _ in range(40):
        table.add(torch.full((100,), 7), torch.ones(100, 2, dtype=torch.bfloat16))
    gradient = table.take()
    assert gradient is not None
    assert gradient.dtype == torch.bfloat16
    assert gradient[7].tolist() == [4000, 4000]


# In training --------------------------------------------------------------------------------------------------------


class Made(TorchDispatchMode):
    """Counts the gradients of tables by the size of their vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.embedding_dense_backward.default:
            self.counts[args[2]] = self.counts.get(args[2], 0) + 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_one_gradient_for_all_passes(strategy: Any, model: CrossEncoder) -> None:
    with Made() as naive:
        expected = gradients(model, strategy="naive")
    with Made() as made:
        found = gradients(model, strategy=strategy, tokens_per_chunk=TOKENS_PER_CHUNK)
    same(found, expected)
    assert naive.counts[5000] == 3  # one for each step
    # What is kept and what is run again are two parts of the graph.
    assert made.counts[5000] == (2 if strategy == "hybrid" else 1)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_a_second_backward_pass_of_one_graph(strategy: Any, model: CrossEncoder) -> None:
    expected = gradients(model, strategy="naive")
    found = gradients(model, backwards=2, strategy=strategy, tokens_per_chunk=TOKENS_PER_CHUNK)
    same(found, expected, factor=2)


def test_memory_that_runs_out_after_a_lookup(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The halves of the chunk come again: what it had left already must not count twice."""
    expected = gradients(model, strategy="naive")
    real, failed = Table.add, []

    def leave(self: Table, tokens: torch.Tensor, grad: torch.Tensor) -> None:
        real(self, tokens, grad)
        if self._detached and tokens.shape[0] > 1 and not failed:
            failed.append(tokens.shape)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Table, "add", leave)
    found = gradients(model, strategy="hybrid", tokens_per_chunk=TOKENS_PER_CHUNK)
    assert failed
    same(found, expected)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_nothing_of_a_step_outlives_it(strategy: Any, model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which may come late: a graph holds the memory of a device."""
    made: list[weakref.ref[Table]] = []
    real = Table.__init__

    def init(self: Table, *args: Any) -> None:
        real(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Table, "__init__", init)
    gc.disable()
    try:
        gradients(model, strategy=strategy, tokens_per_chunk=TOKENS_PER_CHUNK)
        assert made
        assert all(table() is None for table in made)
    finally:
        gc.enable()


@contextmanager
def doubled(module: nn.Module) -> Iterator[None]:
    """As NEFTune does: a hook that changes what was looked up."""
    handle = module.register_forward_hook(lambda _, __, output: 2 * output)
    yield
    handle.remove()


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_hooks_on_the_embedding_still_count(strategy: Any, model: CrossEncoder) -> None:
    with doubled(embeddings(model).word_embeddings):  # type: ignore[arg-type]
        expected = gradients(model, strategy="naive")
        found = gradients(model, strategy=strategy, tokens_per_chunk=TOKENS_PER_CHUNK)
    same(found, expected)
    with pytest.raises(AssertionError):  # the canary
        same(found, gradients(model, strategy="naive"))


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_checkpointed_embeddings(strategy: Any, model: CrossEncoder) -> None:
    expected = gradients(model, strategy="naive")
    bert = model[0].model.bert  # type: ignore[union-attr]
    bert.embeddings = checkpoint_wrapper(bert.embeddings)  # type: ignore[union-attr, arg-type]
    found = gradients(model, strategy=strategy, tokens_per_chunk=TOKENS_PER_CHUNK)
    same({name.replace("._checkpoint_wrapped_module", ""): gradient for name, gradient in found.items()}, expected)


def test_frozen_embeddings(model: CrossEncoder) -> None:
    embeddings(model).requires_grad_(False)
    expected = gradients(model, strategy="naive")
    assert not any("embeddings" in name for name in expected)
    for strategy in ("stacked", "hybrid"):
        same(gradients(model, strategy=strategy, tokens_per_chunk=TOKENS_PER_CHUNK), expected)


def test_embeddings_that_are_trained_only_since_the_forward_pass(model: CrossEncoder) -> None:
    """Autograd gives nothing to what was no parameter then."""
    found = []
    for strategy in ("naive", "hybrid"):
        embeddings(model).requires_grad_(False)
        model.train()
        batch = tokenise(model, list(zip(QUERIES, PASSAGES, strict=True)), PLAN)
        views = [PLAN.views(example) for example in batch]
        scores = Scorer(ADAPTER, PLAN.on_model, strategy=strategy)(model, batch, views)  # type: ignore[arg-type]
        embeddings(model).requires_grad_(True)
        scores.sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    same(found[1], found[0])


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_special_embeddings_are_left_alone(options: Any) -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    patched = nn.Embedding(10, 2)
    patched.forward = lambda tokens: 2 * nn.functional.embedding(tokens, patched.weight)  # type: ignore[method-assign]
    for module in (nn.Embedding(10, 2, **options), Scaled(10, 2), patched):
        lookups, tables = EmbeddingGradients(module), Tables()
        tokens = torch.tensor([1, 1, 2])
        with lookups.installed(), lookups.over(tables):
            rows = module(tokens)
        rows.sum().backward()
        assert torch.equal(rows, module(tokens))
        assert not list(tables)
        assert module.weight.grad is not None


def test_compiled_models_are_left_alone(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    model[0].model = torch.compile(model[0].model, backend="eager")  # type: ignore[assignment]
    with Made() as made:
        gradients(model, strategy="stacked", tokens_per_chunk=TOKENS_PER_CHUNK)
    assert made.counts[5000] > 1


def test_another_weight_for_a_moment() -> None:
    module = nn.Embedding(10, 2)
    other = nn.Parameter(torch.ones(10, 2))
    tokens = torch.tensor([1, 2])
    lookups, tables = EmbeddingGradients(module), Tables()
    with lookups.installed(), lookups.over(tables):
        first = torch.func.functional_call(module, {"weight": other}, (tokens,))
        second = module(tokens)
    assert torch.equal(first, torch.ones(2, 2))
    assert torch.equal(second, module(tokens))
    (first.sum() + 3 * second.sum()).backward()
    assert other.grad is not None
    assert module.weight.grad is not None
    assert other.grad.sum() == 4
    assert module.weight.grad.sum() == 12


def test_a_backward_pass_that_failed_and_comes_again() -> None:
    """By whoever kept the graph; the trainers make another."""
    module = nn.Embedding(50, 4)
    lookups, tables = EmbeddingGradients(module), Tables()
    with lookups.installed(), lookups.over(tables):
        rows = [module(torch.tensor(token)) for token in range(3)]
    total = torch.stack(rows).sum()
    calls: list[int] = []

    def fail_first(grad: torch.Tensor) -> None:
        calls.append(0)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    rows[0].register_hook(fail_first)
    with pytest.raises(torch.OutOfMemoryError):
        total.backward(retain_graph=True)
    total.backward()
    assert len(calls) == 2
    assert module.weight.grad is not None
    assert module.weight.grad[:4, 0].tolist() == [1, 1, 1, 0]
