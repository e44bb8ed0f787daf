"""The conformance test of ablations: the package's own pass it, and each broken promise is found."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from extensions.mask_tokens import MaskTokens
from native_dropout import NativeDrop
from tiny_models import SIZES, bart_config, random_model, t5_config
from torch import Tensor, nn

from cmp_rerank.ablations import Ablation, CmpCrop, CmpDrop, Example, FixedCounts, IndependentCopies, View
from cmp_rerank.testing import check_ablation
from cmp_rerank.text.segmenters import WordWindows


@pytest.mark.parametrize(
    "ablation",
    [
        CmpCrop(),
        CmpCrop(segmenter=WordWindows(3), support=None),
        CmpDrop(p=0.2),
        CmpDrop(p=0.3, layers="top:1"),
        CmpDrop(p=0.3, site="layer"),
        CmpDrop(p=0.4, unit="head"),
        MaskTokens(mask_id=4),
        IndependentCopies(CmpDrop(p=0.2)),
        IndependentCopies(CmpCrop()),
    ],
    ids=repr,
)
def test_ablations_that_conform(ablation: Ablation) -> None:
    check_ablation(ablation)


@dataclass(frozen=True)
class Taking(Ablation):
    """Takes one token more at each step; broken in one way."""

    how: str
    steps: int = 1

    def views(self, example: Example, steps: int) -> Sequence[View]:
        everything = np.arange(len(example))
        if self.how == "not nested":
            return [View(np.delete(everything, step)) for step in range(1, steps + 1)]
        if self.how == "grows":
            return [View(everything[: len(example) - 1 - steps + step]) for step in range(1, steps + 1)]
        if self.how == "python's random numbers":
            return [View(everything[: len(example) - random.randrange(1, 3)])] * steps
        if self.how == "other numbers each time":
            return [View(np.delete(everything, int(np.random.default_rng().integers(len(example)))))] * steps
        if self.how == "changes the example":
            example.features["input_ids"][0] += 1
        if self.how == "nothing left":
            return [View(everything[:0])] * steps
        if self.how == "not ascending":
            return [View(everything[:0:-1])] * steps
        if self.how == "short features":
            return [View(everything, features={"input_ids": everything[1:]})] * steps
        if self.how == "replaces again":
            return [View(everything, features={"input_ids": 50 + everything + step}) for step in range(steps)]
        if self.how == "takes nothing":
            return [View(everything)] * steps
        if self.how == "too few":
            return [View(everything[:-1])] * (steps - 1)
        return [View(everything[: len(example) - step]) for step in range(1, steps + 1)]


def test_the_canary_of_tokens_conforms() -> None:
    check_ablation(Taking("right"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("not nested", "is not nested"),
        ("grows", "is not nested"),
        ("python's random numbers", "global random state"),
        ("other numbers each time", "other views for the same example"),
        ("changes the example", "changes the example"),
        ("nothing left", "leaves no token"),
        ("not ascending", "must ascend"),
        ("short features", "one value for each token"),
        ("replaces again", "is something else in the next one"),
        ("takes nothing", "takes nothing away"),
        ("too few", "gives 2 views for 3 steps"),
    ],
)
def test_broken_promises_about_tokens_are_found(how: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_ablation(Taking(how))


class Scaling:
    """Hooks that scale the first layer's output by 1 - level / 10; broken in one way."""

    def __init__(self, model: Any, how: str) -> None:
        self.model, self.how, self.first_layer = model, how, 0
        self.scale: Tensor | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        from cmp_rerank.hooks.dropout import dropout_disabled, dropout_rates

        layer: nn.Module = self.model.bert.encoder.layer[0]

        def hook(_: nn.Module, args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            scale = self.scale if self.how != "by the first row" else self.scale[:1].expand_as(self.scale)  # type: ignore[index, union-attr]
            if self.how == "does nothing":
                return None
            x = x * scale[:, None, None]  # type: ignore[index]
            if self.how == "looks at other rows":
                x = x + x.mean(dim=0, keepdim=True)
            return (x, *output[1:]) if isinstance(output, tuple) else x

        rates = dropout_rates(self.model) if self.how != "leaves dropout on" else []
        assert rates or self.how == "leaves dropout on"
        handle = layer.register_forward_hook(hook)
        if self.how == "leaves dropout on":
            yield
            handle.remove()
            return
        with dropout_disabled(self.model):
            try:
                yield
            finally:
                if self.how != "leaves a hook":
                    handle.remove()

    @contextmanager
    def rows(self, seeds: Tensor, positions: Tensor, levels: Sequence[int]) -> Iterator[None]:
        level = torch.tensor(levels, device=seeds.device)
        if self.how == "at level 0, too":
            level = level + 1
        self.scale = 1 - level / 10
        yield


@dataclass(frozen=True)
class Scale(Ablation):
    how: str = "right"
    steps: int = 1
    on_model = True

    def hooks(self, model: Any, probe: Any) -> Any:
        return Scaling(model, self.how)


def test_the_canary_of_models_conforms() -> None:
    check_ablation(Scale())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("does nothing", "takes nothing away"),
        ("at level 0, too", "not a plain pass"),
        ("looks at other rows", "not a plain pass|depend on how rows are batched"),
        ("by the first row", "depend on how rows are batched"),
        ("leaves a hook", "leaves something on the model"),
        ("leaves dropout on", "not a plain pass"),
    ],
)
def test_broken_promises_about_models_are_found(how: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_ablation(Scale(how))


def test_what_is_no_ablation() -> None:
    with pytest.raises(AssertionError, match="is no Ablation object"):
        check_ablation("crop")  # type: ignore[arg-type]

    class NoRepr(Ablation):
        def views(self, example: Example, steps: int) -> Sequence[View]:
            return [View(np.arange(1))] * steps

    with pytest.raises(AssertionError, match="objects that are not equal"):
        check_ablation(NoRepr())
    with pytest.raises(AssertionError, match="takes nothing away"):
        check_ablation(CmpCrop(schedule=FixedCounts((9, 9, 9))))


@pytest.mark.parametrize(
    "ablation",
    [
        CmpCrop(steps=2, schedule=FixedCounts((2, 1))),
        CmpCrop(schedule=FixedCounts((1,))),
        CmpCrop(steps=4, schedule=FixedCounts((3, 2, 1, 0))),
    ],
    ids=repr,
)
def test_as_many_steps_are_checked_as_an_ablation_has(ablation: Ablation) -> None:
    check_ablation(ablation)
    with pytest.raises(ValueError, match="but the plan has 3"):
        check_ablation(ablation, steps=3)


def test_by_default_several_steps_are_checked() -> None:
    with pytest.raises(AssertionError, match="gives 2 views for 3 steps"):
        check_ablation(Taking("too few"))
    with pytest.raises(AssertionError, match="gives 4 views for 5 steps"):
        check_ablation(Taking("too few", steps=5))


VOCABULARY = dict(vocab_size=100, num_labels=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("XLMRoberta", SIZES | VOCABULARY | dict(type_vocab_size=1, max_position_embeddings=160)),
        ("Roberta", SIZES | VOCABULARY | dict(type_vocab_size=2, max_position_embeddings=160)),
        ("ModernBert", SIZES | VOCABULARY | dict(cls_token_id=0, sep_token_id=2)),
        ("T5", t5_config(**VOCABULARY).to_dict()),
        ("Bart", bart_config(**VOCABULARY).to_dict()),
        ("Bart", bart_config(**VOCABULARY).to_dict() | dict(eos_token_id=20)),  # an ordinary token of the examples
    ],
)
def test_sequence_classifiers_of_any_family(kind: str, config: dict[str, Any]) -> None:
    made = getattr(transformers, f"{kind}Config")(**config)
    model = random_model(getattr(transformers, f"{kind}ForSequenceClassification"), made)
    check_ablation(CmpDrop(p=0.3), model=model)


def test_native_dropout_needs_whole_batches() -> None:
    """It is right only with one pass for each step: the test says so."""
    with pytest.raises((AssertionError, ValueError)):
        check_ablation(NativeDrop(p=0.2))
