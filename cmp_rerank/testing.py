"""Conformance tests for what users add to the package: whether an own ablation keeps the promises of its kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cmp_rerank.ablations import Ablation, Example, Plan, TextPair, View
from cmp_rerank.ablations.base import FIXED, PASSAGE, QUERY
from cmp_rerank.engine import Scorer
from cmp_rerank.hooks.random_state import RandomState
from cmp_rerank.hooks.wrappers import unwrapped
from cmp_rerank.models.base import ModelAdapter
from cmp_rerank.models.classifier import ClassifierAdapter
from cmp_rerank.models.pairs import prepared_example

_WORD = re.compile(r"\w+|[^\w\s]")
_FIRST_ID = 10  # lower ones are often special tokens
_PAIRS = (
    (
        "what do pandas eat",
        "Pandas are bears. They live in China. They eat bamboo. It rains there. Winters are cold.",
    ),
    ("who makes honey", "Rain fell all day. Honey is made by bees! Nobody was hurt. The river rose. It was sweet."),
    ("q", "Short."),
)


def word_pair(query: str, passage: str, relevant: bool = True) -> tuple[TextPair, dict[str, np.ndarray]]:
    """A pair whose tokens are its words, and their ids: what an ablation's ``prepare`` is given, without a tokenizer.

    Example:
        >>> pair, features = word_pair("who eats", "Pandas eat.")
        >>> pair.part.tolist(), pair.offsets.tolist()
        ([0, 1, 1, 0, 2, 2, 2, 0], [[0, 6], [7, 10], [10, 11]])
    """
    asked = _WORD.findall(query)
    spans = [word.span() for word in _WORD.finditer(passage)]
    part = np.array([FIXED, *[QUERY] * len(asked), FIXED, *[PASSAGE] * len(spans), FIXED])
    offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)
    ids = _FIRST_ID + np.arange(len(part)) % 80
    pair = TextPair(query, passage, relevant, part, offsets, (0, len(passage)), lambda: offsets)
    return pair, {"input_ids": ids, "token_type_ids": (part == PASSAGE).astype(np.int64)}


def _features_for(model: nn.Module | None, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features of a `word_pair` as the model reads them: token types and a last token as it has them."""
    config = None if model is None else getattr(unwrapped(model), "config", None)
    if config is None:
        return features
    features = dict(features)
    if (getattr(config, "type_vocab_size", None) or 0) < 2:
        del features["token_type_ids"]
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) else end
    if end is not None:  # once, at the end: encoder-decoders look for it there, and count it
        ids = features["input_ids"]
        features["input_ids"] = np.append(np.where(ids == end, _FIRST_ID - 1, ids)[:-1], end)
    return features


def check_ablation(
    ablation: Ablation,
    *,
    steps: int | None = None,
    examples: Sequence[Example] | None = None,
    model: nn.Module | None = None,
    adapter: ModelAdapter | None = None,
) -> None:
    """Check that an ablation keeps the promises that training rests on.

    - Its steps are nested: each leaves a subset of the tokens of the one before it, and what was replaced stays so.
    - Its random choices derive from the seed of the example, and from nothing else.
    - It changes neither the example nor the random state.
    - On a model: a row at level 0 is a plain pass without dropout; other levels change the scores; a row's scores do
      not depend on the rows beside it; every way to run the rows gives the same scores and gradients; nothing is left
      on the model afterwards, also not after an exception.
    - It takes something away from at least one of the examples.

    Args:
        ablation: what to check; a new object for one step, whose ``steps`` can be changed, is made by its ``once()``.
        steps: how many steps to check. Default: those of the ablation; of an ablation of one step three, unless it
            refuses that many.
        examples: what to check it on. Default: three pairs of a few sentences, whose words are their tokens; with
            token types, and an end-of-sequence token as the last one, where the model's configuration has them.
        model: what ``hooks`` are checked on, where ``on_model`` is true. Default: a small random BERT.
        adapter: the kind of model; needed if it is not a sequence classifier of transformers.

    Raises:
        AssertionError: with what does not hold.

    Example:
        >>> from cmp_rerank import CmpCrop, CmpDrop
        >>> check_ablation(CmpCrop())
        >>> check_ablation(CmpDrop(p=0.2))
    """
    assert isinstance(ablation, Ablation), f"{ablation!r} is no Ablation object"
    once = ablation.once()
    assert once.steps == 1, f"once() gives {once!r}, which stands for {once.steps} steps"
    assert once == ablation.once(), (
        f"once() gives objects that are not equal: define __eq__, or make {once!r} a dataclass"
    )
    kept = repr(once.prepared_by)
    assert " at 0x" not in kept, f"the repr {kept} holds an address: the token cache cannot tell its settings"
    plan = Plan([once] * (_steps(ablation) if steps is None else steps))
    if examples is None:
        examples = []
        for number, texts in enumerate(_PAIRS):
            pair, features = word_pair(*texts)
            examples.append(
                prepared_example(plan.preparing, pair, _features_for(model, features), seed=7 * number + 1)
            )
    taken = False
    for example in examples:
        taken |= _check_views(plan, example)
    if plan.on_model:
        _check_on_model(plan, examples, model, adapter)
        taken = True
    assert taken, f"{ablation!r} takes nothing away from any of {len(examples)} examples"


def _steps(ablation: Ablation) -> int:
    """How many steps to check where nobody says: several if it allows that, since one is nested in any case."""
    if ablation.steps > 1:
        return ablation.steps
    try:
        ablation.check(3)
    except ValueError:
        return 1
    return 3


def _check_views(plan: Plan, example: Example) -> bool:
    """Check the views of an example; whether any takes something of its tokens."""
    before = _picture(example)
    state = RandomState.now()
    own = plan.kinds[0].views(example, len(plan))
    if own is not None:
        _check_own(plan, example, own)
    views, again = plan.views(example), plan.views(example)
    assert state.same_as(RandomState.now()), f"{plan!r} draws from the global random state: derive from example.seed"
    assert _picture(example) == before, f"{plan!r} changes the example that it is given"
    for one, other in zip(views, again, strict=True):
        assert one.same_as(other), f"{plan!r} gives other views for the same example: derive from example.seed"
    full = views[0]
    for before_it, view in pairwise(views):
        if plan.kinds[0].nested:
            _check_nested(plan, example, before_it, view)
        else:
            assert view.copy, f"{plan!r} is not nested, but its steps are no independent copies"
    return any(not view.reads_same(full) for view in views)


def _check_own(plan: Plan, example: Example, views: Sequence[View]) -> None:
    """Check the views that the ablation itself gives, before the plan puts them together."""
    assert len(views) == len(plan), f"{plan!r} gives {len(views)} views for {len(plan)} steps"
    for number, view in enumerate(views, start=1):
        tokens = view.tokens
        where = f"step {number} of {plan!r}"
        assert tokens.ndim == 1, f"{where}: tokens must have shape (tokens,), got {tokens.shape}"
        assert np.issubdtype(tokens.dtype, np.integer), f"{where}: tokens must be indices, got {tokens.dtype}"
        assert len(tokens), f"{where} leaves no token"
        assert (np.diff(tokens) > 0).all(), f"{where}: tokens must ascend, got {tokens.tolist()}"
        assert tokens[0] >= 0 and tokens[-1] < len(example), f"{where}: tokens outside of the example"  # noqa: PT018
        for name, values in view.features.items():
            assert values.shape == (len(example),), (
                f"{where}: {name} must have one value for each token of the example"
            )
    if plan.kinds[0].nested:
        for before, after in pairwise(views):
            _check_nested(plan, example, before, after)


def _check_nested(plan: Plan, example: Example, before: View, after: View) -> None:
    lost = set(after.tokens.tolist()) - set(before.tokens.tolist())
    assert not lost, f"{plan!r} is not nested: a step has the tokens {sorted(lost)}, which the one before it has not"
    for name, values in before.features.items():
        replaced = values != example.features[name]
        now = after.feature(example, name)
        kept = replaced[after.tokens]
        assert (now[kept] == values[after.tokens][kept]).all(), (
            f"{plan!r} is not nested: what a step has replaced of {name} is something else in the next one"
        )
    for level, later in zip(before.levels, after.levels, strict=True):
        assert level <= later, f"{plan!r} is not nested: its level falls from {level} to {later}"


def _check_on_model(
    plan: Plan, examples: Sequence[Example], model: nn.Module | None, adapter: ModelAdapter | None
) -> None:
    if model is None:
        model = _small_bert()
    adapter = adapter or ClassifierAdapter.of(model)
    training = model.training
    model.train()
    views = [plan.views(example) for example in examples]
    before = _model_picture(model)
    try:
        scores, gradients = _run(plan, adapter, model, examples, views, "naive")
        assert _model_picture(model) == before, f"{plan!r} leaves something on the model (hooks, rates, modes)"
        plain = _plain(adapter, model, examples, views)
        _same(scores[:, 0], plain, f"{plan!r}: a row at level 0 is not a plain pass without dropout")
        different = (scores[:, 1:] - scores[:, :1]).abs().amax(dim=-1)  # (examples, steps)
        assert (different > 0).any(), f"{plan!r} takes nothing away: no score changes"
        for strategy in ("stacked", "hybrid", "auto"):
            found, other = _run(plan, adapter, model, examples, views, strategy)
            _same(found, scores, f"{plan!r}: scores depend on how rows are batched (strategy {strategy!r})")
            for one, expected in zip(other, gradients, strict=True):
                _same(one, expected, f"{plan!r}: gradients depend on how rows are batched (strategy {strategy!r})")
        _fails(plan, adapter, model, examples, views)
        assert _model_picture(model) == before, (
            f"{plan!r} leaves something on the model after an exception (hooks, rates, modes)"
        )
    finally:
        model.train(training)


def _run(
    plan: Plan, adapter: ModelAdapter, model: nn.Module, examples: Any, views: Any, strategy: Any
) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad(set_to_none=True)
    # Small chunks: rows that are stacked have others beside them than those of one step.
    scores = Scorer(adapter, plan.on_model, strategy=strategy, tokens_per_chunk=64)(model, examples, views)
    weights = torch.linspace(0.5, 1.5, scores.numel(), dtype=scores.dtype, device=scores.device)
    (weights * scores.flatten()).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return scores.detach(), gradients


def _plain(adapter: ModelAdapter, model: nn.Module, examples: Any, views: Any) -> Tensor:
    model.eval()
    try:
        with torch.no_grad():
            return Scorer(adapter, strategy="naive")(model, examples, [steps[:1] for steps in views])[:, 0]
    finally:
        model.train()


def _fails(plan: Plan, adapter: ModelAdapter, model: nn.Module, examples: Any, views: Any) -> None:
    """A forward pass that raises."""
    scorer = Scorer(adapter, plan.on_model, strategy="stacked")
    scorer(model, examples, views)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = list(model.modules())[-1].register_forward_pre_hook(fail)
    try:
        scorer(model, examples, views)
    except KeyboardInterrupt:
        pass
    finally:
        handle.remove()


def _same(found: Tensor, expected: Tensor, what: str) -> None:
    size = max(float(expected.abs().max()), 1e-3)
    difference = float((found - expected).abs().max())
    assert difference <= 1e-4 * size, f"{what}: they differ by {difference:.3g} (up to {size:.3g})"


def _picture(example: Example) -> Any:
    arrays = {**example.features, "segment": example.segment, "until": example.until}
    return {name: None if a is None else (a.dtype, a.tobytes()) for name, a in arrays.items()}, example.support


def _model_picture(model: nn.Module) -> Any:
    hooks: Callable[[nn.Module], Any] = lambda m: (  # noqa: E731
        [id(hook) for hook in m._forward_hooks.values()],
        [id(hook) for hook in m._forward_pre_hooks.values()],
    )
    plain = (bool, int, float, str)
    return [
        (
            hooks(module),
            module.training,
            {name: value for name, value in vars(module).items() if isinstance(value, plain)},
            repr(vars(module).get("config")),
        )
        for module in model.modules()
    ], [parameter.detach().sum().item() for parameter in model.parameters()]


def _small_bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=1,
        initializer_range=0.1,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = BertForSequenceClassification(config)
    return model
