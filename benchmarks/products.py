"""The bare matrix products of a training step: which they are, and how long they take by themselves.

What a step cannot do without are the products of its tokens with the weights, and of queries, keys and values, both
forward and backward. Here the shapes of a step are recorded, without the padding: a linear map of ``inputs`` to
``outputs`` units over ``tokens`` is one product forward and two backward, the attention of a row is two and four.
`replay` runs products of these shapes on buffers at hand, and nothing else: what is left of the time of a step is
everything but products.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn


class Linear(NamedTuple):
    """A linear map over some tokens."""

    tokens: int
    inputs: int
    outputs: int
    backward: bool

    @property
    def flop(self) -> int:
        """Multiplications and additions.

        >>> Linear(2, 3, 5, backward=False).flop, Linear(2, 3, 5, backward=True).flop
        (60, 180)
        """
        return 2 * self.tokens * self.inputs * self.outputs * (3 if self.backward else 1)

    def run(self, buffer: Buffer) -> None:
        """The products."""
        x, y, w = (buffer(*shape) for shape in self._shapes())
        torch.mm(x, w.t(), out=y)
        if self.backward:
            torch.mm(y, w, out=x)
            torch.mm(y.t(), x, out=w)

    def _shapes(self) -> tuple[tuple[int, int], ...]:
        return (self.tokens, self.inputs), (self.tokens, self.outputs), (self.outputs, self.inputs)


class Attention(NamedTuple):
    """The attention of some rows of one length; ``heads`` counts those of all rows."""

    heads: int
    tokens: int
    units: int
    backward: bool

    @property
    def flop(self) -> int:
        """Multiplications and additions."""
        return 4 * self.heads * self.tokens**2 * self.units * (3 if self.backward else 1)

    def run(self, buffer: Buffer) -> None:
        """The products."""
        q, square = buffer(self.heads, self.tokens, self.units), buffer(self.heads, self.tokens, self.tokens)
        other = buffer(self.heads, self.tokens, self.units, which=1)
        for _ in range(3 if self.backward else 1):  # backward: of the values and the weights, of queries and of keys
            torch.bmm(q, other.mT, out=square)
            torch.bmm(square, other, out=q)


class Buffer:
    """Tensors of given shapes, each made once."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._kind = {"device": device, "dtype": dtype}
        self._made: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, *shape: int, which: int = 0) -> Tensor:
        """The tensor of a shape; small numbers, so that repeated products stay finite."""
        key = (*shape, -1 - which)
        if key not in self._made:
            self._made[key] = torch.full(shape, 1e-3, **self._kind)  # type: ignore[arg-type]
        return self._made[key]


Products = Counter[Linear | Attention]


@contextmanager
def recorded(model: CrossEncoder) -> Iterator[Products]:
    """Yields the products of the passes inside, each with how often it came."""
    found: Products = Counter()
    lengths: list[int] = []

    def of_pass(_: nn.Module, args: Any, kwargs: Any) -> None:
        lengths[:] = kwargs["attention_mask"].sum(dim=1).tolist()

    def of_linear(module: nn.Linear, args: tuple[Tensor, ...]) -> None:
        (x,) = args
        # Of the tokens of its rows those that are there. Unpadded passes have a token in each row, and no others.
        real = round(sum(lengths) * len(x) / len(lengths))
        tokens = min(x.shape[:-1].numel(), real)
        found[Linear(tokens, module.in_features, module.out_features, torch.is_grad_enabled())] += 1

    plain = nn.functional.scaled_dot_product_attention

    def of_attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows, heads, longest, units = query.shape
        # A call on other rows than those of the pass (shared ones, or some of one length) has little padding.
        here = Counter(lengths if rows == len(lengths) else [longest] * rows)
        for tokens, number in here.items():
            found[Attention(number * heads, tokens, units, torch.is_grad_enabled())] += 1
        return plain(query, *args, **kwargs)

    with ExitStack() as stack:
        hook = model[0].model.base_model.register_forward_pre_hook(of_pass, with_kwargs=True)
        stack.callback(hook.remove)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_pre_hook(of_linear).remove)
        stack.enter_context(patch.object(nn.functional, "scaled_dot_product_attention", of_attention))
        yield found


def flop(products: Products) -> int:
    """Multiplications and additions of all products."""
    return sum(number * each.flop for each, number in products.items())


@torch.no_grad()
def replay(products: Products, buffer: Buffer) -> float:
    """Run the products, and nothing else.

    Returns:
        Seconds: of the process on a CPU, of the clock on an accelerator.
    """
    clock = time.process_time
    if torch.cuda.is_available():
        clock = time.perf_counter
        torch.cuda.synchronize()
    start = clock()
    for each, number in products.items():
        for _ in range(number):
            each.run(buffer)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


#: Kinds of operations in a profile, the first that fits by the beginning of the name counts.
KINDS: dict[str, tuple[str, ...]] = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"),
    "attention": ("_scaled_dot_product", "_softmax", "_flash", "_efficient"),
    "activation": ("gelu", "tanh", "relu", "silu", "sigmoid"),
    "norm": ("native_layer_norm", "_fused_rms_norm", "layer_norm"),
    "dropout and masks": ("native_dropout", "bernoulli", "bitwise", "__", "lt", "where", "masked_fill"),
    "embedding": ("embedding", "index_select"),
    "copies": ("copy_", "cat", "index", "clone", "gather", "fill_", "zero_", "empty", "constant_pad"),
    "optimizer": ("_foreach", "_fused_adam", "addcdiv", "addcmul", "lerp", "sqrt"),
    "sums and scales": ("add", "mul", "sum", "div", "sub", "neg", "mean"),
}
#: What is in no operation: the interpreter between them, and the profiler itself.
PYTHON = "python"


def profile(run: Callable[[], object]) -> dict[str, float]:
    """Which share of the time of a function goes into which kind of operation.

    Args:
        run: the function.

    Returns:
        Shares by kind, by the clock: on a CPU of the whole time, with what is in no operation; on an accelerator of
        the time that it works.
    """
    with torch.profiler.profile() as seen:
        began = time.perf_counter()
        run()
        microseconds = 1e6 * (time.perf_counter() - began)
    spent: Counter[str] = Counter()
    for event in seen.key_averages():
        own = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        name = event.key.removeprefix("aten::")
        spent[next((kind for kind, names in KINDS.items() if name.startswith(names)), "other")] += own
    if not torch.cuda.is_available():
        spent[PYTHON] = max(microseconds - sum(spent.values()), 0)
    whole = sum(spent.values())
    return {kind: round(spent[kind] / whole, 4) for kind in (*KINDS, "other", PYTHON) if spent[kind] or kind in KINDS}
