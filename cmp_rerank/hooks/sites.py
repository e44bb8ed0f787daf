"""Where units are dropped: the writers of the residual stream, discovered by watching one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cmp_rerank.hooks.dropout import inspecting
from cmp_rerank.hooks.turns import in_this_thread

#: Two passes over one input may differ by rounding at most: some kernels add in any order.
NOISE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Site:
    """Where units are dropped: a module, in one of its calls.

    Attributes:
        layer: the layer's depth, from 0; layers that share one module have depths of their own.
        name: the module's name in the model.
        module: the module.
        number: which site, counted over all layers in the order of a forward pass: part of the masks' key.
        call: which call of the module in a forward pass; above 0 only where layers share it.
        units: how many units can be dropped.
        before: whether the module's input is ablated, not its output.
    """

    layer: int
    name: str
    module: nn.Module
    number: int
    call: int
    units: int
    before: bool = False


@dataclass
class Survey:
    """What one forward pass shows of a model: its layers in the order they ran, and what writes in each.

    Attributes:
        stack: the name of the list of layers.
        outputs: for each depth the layer itself, as a site.
        writers: for each depth the modules that write to the residual stream.
        adds_tokens: whether the layers work on tokens that were not embedded from the input (a soft prompt).
    """

    stack: str
    outputs: list[Site] = field(default_factory=list)
    writers: list[list[Site]] = field(default_factory=list)
    adds_tokens: bool = False

    def attention_heads(self, model: nn.Module) -> list[Site]:
        """For each depth its attention's output projection, whose input is the heads side by side.

        It is the layer's first writer: attention comes before the feed-forward part.

        Raises:
            ValueError: if there is none, or the number of heads is unknown.
        """
        sites = []
        for layer, writers in zip(self.outputs, self.writers, strict=True):
            heads = _heads(layer.module) or _heads(model)
            width = getattr(writers[0].module, "in_features", 0) if writers else 0
            if not heads or not width or width % heads:
                raise ValueError(
                    f'unit="head" needs an output projection of attention and the number of heads, and '
                    f'{layer.name} has {len(writers)} residual writers and {heads} heads. Use unit="neuron".'
                )
            first = writers[0]
            sites.append(Site(first.layer, first.name, first.module, first.layer, first.call, heads, before=True))
        return sites


def repeated_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The encoder's stack of layers: the largest list of modules of one class, with its name.

    Raises:
        ValueError: if the model has no such list.
    """
    encoder: Any = model
    for module in model.modules():
        if getattr(vars(module).get("config"), "is_encoder_decoder", False) and hasattr(module, "get_encoder"):
            encoder = module.get_encoder()  # type: ignore[operator]
            break
    inside = set(encoder.modules())
    found = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in model.named_modules()
        if module in inside
        and isinstance(module, nn.ModuleList)
        and len(module)
        and len({type(child) for child in module}) == 1
    ]
    if not found:
        raise ValueError(
            f"CmpDrop found no repeated layers in {type(model).__name__}: nothing can be ablated. Use CmpCrop alone."
        )
    _, name, layers = max(found, key=lambda candidate: candidate[0])
    return name, layers


def survey(model: nn.Module, probe: Callable[[], Any]) -> Survey:
    """Watch a forward pass to find what writes to the residual stream, by a rule that knows no model by name.

    Writers are the Linear modules inside the repeated layers whose output has the shape of the layer's, and whose
    input feeds no other Linear (query, key and value projections share theirs). A Linear with adapters around it
    is one Linear.

    Args:
        model: the model, or a wrapper of it.
        probe: runs one forward pass of the model; at least two rows keep accidental shapes apart.

    Raises:
        ValueError: if the layers do not run, are reversible, or some dropout cannot be disabled.
    """
    stack_name, layers = repeated_layers(model)
    if any(hasattr(layer, "backward_pass") for layer in layers):  # its gradients would be those of the full model
        raise ValueError(
            f"The layers of {type(model).__name__} are reversible: they run again in the backward pass, out of reach "
            "of CmpDrop. Use CmpCrop alone."
        )
    watch = _Watch()
    with inspecting(model), ExitStack() as stack:
        for number, layer in layers.named_children():  # each module once, though layers may share it
            leave = in_this_thread(watch.leave(f"{stack_name}.{number}"))
            stack.callback(layer.register_forward_pre_hook(in_this_thread(watch.enter)).remove)
            stack.callback(layer.register_forward_hook(leave).remove)
            for name, module in _linears(layer, f"{stack_name}.{number}"):
                stack.callback(module.register_forward_hook(in_this_thread(watch.linear(name))).remove)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_pre_hook(in_this_thread(watch.embedding)).remove)
        probe()
        first = watch.last_output
        if first is None:
            raise ValueError(
                f"The layers of {type(model).__name__} ({stack_name}) did not run in a forward pass, or their output "
                "is no tensor of (batch, tokens, hidden): CmpDrop has nothing to ablate. Use CmpCrop alone."
            )
        found = watch.survey(stack_name)
        if model.training:
            watch.reset()
            probe()
            _check_noiseless(model, first, watch.last_output)
    return found


def _check_noiseless(model: nn.Module, first: Tensor, second: Tensor | None) -> None:
    if any(hasattr(module, "neftune_noise_alpha") for module in model.modules()):
        raise ValueError(
            f"NEFTune (neftune_noise_alpha) adds other noise to the embeddings of {type(model).__name__} in each "
            "pass: the steps of CmpDrop could not be compared. Leave it out, or use CmpCrop alone."
        )
    same = second is not None and first.shape == second.shape
    if not same or not torch.allclose(first.float(), second.float(), rtol=NOISE_TOLERANCE, atol=NOISE_TOLERANCE):  # type: ignore[union-attr]
        raise ValueError(
            f"{type(model).__name__} gives two outputs for one input although every dropout rate that CmpDrop found "
            "is 0: it has a random part that cannot be disabled, and steps could not be compared. Keep its rates in "
            "dropout modules, or in attributes or configuration entries with 'drop' in their name."
        )


class _Watch:
    """Hooks that note the layers, Linears and embeddings of a forward pass."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.embedded: torch.Size | None = None
        self.depth: int | None = None
        self.calls: Counter[nn.Module] = Counter()
        self.layers: list[tuple[str, nn.Module, int, Tensor]] = []
        #: what ran on an input, by the identity of the input, which is held so that none is reused
        self.linears: dict[int, tuple[Tensor, list[_Run]]] = {}

    @property
    def last_output(self) -> Tensor | None:
        return self.layers[-1][3] if self.layers else None

    def call(self, module: nn.Module) -> int:
        """Which call of the module this is, from 0."""
        self.calls[module] += 1
        return self.calls[module] - 1

    def embedding(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.embedded is None and self.depth is None and args and args[0].ndim == 2:
            self.embedded = args[0].shape

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.depth = len(self.layers)

    def leave(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(hidden, Tensor) and hidden.ndim == 3:
                self.layers.append((name, module, self.call(module), hidden))
            self.depth = None

        return leave

    def linear(self, name: str) -> Callable[..., None]:
        def linear(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            call = self.call(module)
            if self.depth is not None and args and isinstance(output, Tensor):
                _, runs = self.linears.setdefault(id(args[0]), (args[0], []))
                runs.append(_Run(name, module, call, self.depth, output.shape))

        return linear

    def survey(self, stack: str) -> Survey:
        found = Survey(stack, writers=[[] for _ in self.layers])
        for depth, (name, module, call, hidden) in enumerate(self.layers):
            found.outputs.append(Site(depth, name, module, depth, call, hidden.shape[2]))
        # dictionaries keep their order, so these come in the order of the forward pass
        alone = [runs[0] for _, runs in self.linears.values() if len(runs) == 1]
        writers = [
            run for run in alone if run.depth < len(self.layers) and run.shape == self.layers[run.depth][3].shape
        ]
        for number, run in enumerate(writers):
            found.writers[run.depth].append(Site(run.depth, run.name, run.module, number, run.call, run.shape[2]))
        if self.embedded is not None:
            found.adds_tokens = any(hidden.shape[:2] != self.embedded for *_, hidden in self.layers)
        return found


class _Run(NamedTuple):
    """One call of a Linear."""

    name: str
    module: nn.Module
    call: int
    depth: int
    shape: torch.Size


def _linears(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that are a Linear or, like an adapter around one, claim to be."""
    for name, child in module.named_children():
        if isinstance(getattr(child, "in_features", None), int) and isinstance(
            getattr(child, "out_features", None), int
        ):
            yield f"{prefix}.{name}", child
        else:
            yield from _linears(child, f"{prefix}.{name}")


def _heads(model: nn.Module) -> int | None:
    for module in model.modules():
        heads = getattr(vars(module).get("config"), "num_attention_heads", None)
        if isinstance(heads, int):
            return heads
    return None


def default_probe(model: Any) -> Callable[[], Any]:
    """A forward pass over two short rows, for a sentence-transformers model or one of transformers.

    Raises:
        ValueError: if the model is neither.
    """
    if hasattr(model, "preprocess"):
        device = model.device

        def through_text() -> Any:
            features = model.preprocess([("a query", "a first passage"), ("a query", "a passage")])
            return model({k: v.to(device) if isinstance(v, Tensor) else v for k, v in features.items()})

        return through_text
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"CmpDrop does not know how to run {type(model).__name__}: pass a probe that does.")
    tokens = torch.arange(7, 19).remainder(getattr(config, "vocab_size", 19)).repeat(2, 1)
    if isinstance(end := getattr(config, "eos_token_id", None), int):
        tokens[:, -1] = end  # heads of encoder-decoders read the state of the end
    tokens = tokens.to(next(model.parameters()).device)
    return lambda: model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
