"""Objects by name: what is known, what is refused, and that what is built is what is described."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import CrossEncoder

from cmp_rerank.ablations import CmpCrop, CmpDrop, FixedCounts, IndependentCopies
from cmp_rerank.objectives import Listwise
from cmp_rerank.pipeline.components import ABLATION, LOSS, OBJECTIVE, Slot, build, problems
from cmp_rerank.text.segmenters import Sentences
from cmp_rerank.text.support import GivenSupport, LexicalSupport


def texts(slot: Slot, value: Any) -> list[str]:
    return [f"{'.'.join(map(str, each.key))}: {each.text}" for each in problems(slot, value)]


@pytest.mark.parametrize(
    ("slot", "value", "made"),
    [
        (ABLATION, "crop", CmpCrop()),
        (ABLATION, {"kind": "CmpCrop"}, CmpCrop()),
        (ABLATION, {"kind": "cmp_rerank.ablations:CmpCrop"}, CmpCrop()),
        (ABLATION, {"kind": "drop", "p": 0.2, "layers": "top:1"}, CmpDrop(p=0.2, layers="top:1")),
        (
            ABLATION,
            {
                "kind": "crop",
                "segmenter": {"kind": "Sentences", "language": "de"},
                "schedule": {"kind": "FixedCounts", "kept": [4]},
            },
            CmpCrop(segmenter=Sentences("de"), schedule=FixedCounts((4,))),
        ),
        (ABLATION, {"kind": "copies", "ablation": {"kind": "drop", "p": 0.3}}, IndependentCopies(CmpDrop(p=0.3))),
        (OBJECTIVE, {"kind": "listwise", "temperature": 0.5}, Listwise(temperature=0.5)),
    ],
)
def test_what_a_description_stands_for(slot: Slot, value: Any, made: Any) -> None:
    assert texts(slot, value) == []
    assert repr(build(slot, value)) == repr(made)


def test_a_loss_gets_its_model_and_its_parts(tiny_model: CrossEncoder) -> None:
    loss = build(
        LOSS, {"kind": "LambdaLoss", "k": 3, "weighting_scheme": {"kind": "LambdaRankScheme"}}, model=tiny_model
    )
    assert loss.model is tiny_model
    assert (loss.k, type(loss.weighting_scheme).__name__) == (3, "LambdaRankScheme")
    weighted = {"kind": "BinaryCrossEntropyLoss", "pos_weight": {"kind": "torch:tensor", "data": 2.0}}
    assert texts(LOSS, weighted) == []
    assert build(LOSS, weighted, model=tiny_model).bce_with_logits_loss.pos_weight == 2
    assert {"BinaryCrossEntropyLoss", "LambdaLoss", "MultipleNegativesRankingLoss"} < set(LOSS.names())
    assert "NDCGLoss1Scheme" not in OBJECTIVE.names()


@pytest.mark.parametrize(
    ("slot", "value", "message"),
    [
        (LOSS, "LambdaLos", "there is no loss 'LambdaLos'; did you mean 'LambdaLoss'?"),
        (LOSS, {"kind": "lambdaloss"}, "kind: there is no loss 'lambdaloss'; did you mean 'LambdaLoss'?"),
        (
            LOSS,
            {"kind": "LambdaLoss", "sigmma": 1},
            "sigmma: LambdaLoss has no option 'sigmma'; did you mean 'sigma'?",
        ),
        (LOSS, {"kind": "LambdaLoss", "model": "m"}, "model: LambdaLoss has no option 'model'"),
        (LOSS, {"kind": "LambdaLoss", "k": "three"}, "k: input should be a valid integer"),
        (
            LOSS,
            {"kind": "BinaryCrossEntropyLoss", "pos_weight": 2.0},
            "pos_weight: input should be an instance of Tensor",
        ),
        (LOSS, 3, "a loss is a name, or a mapping with its kind and options"),
        (LOSS, {"k": 3}, "got {'k': 3}"),
        (LOSS, {"kind": ["a"]}, "a loss is a name"),
        (LOSS, "nowhere:Loss", "'nowhere:Loss' cannot be imported: No module named 'nowhere'"),
        (LOSS, "torch.nn:Liner", "the module 'torch.nn' has no 'Liner'; did you mean 'Linear'?"),
        (LOSS, "sys:path", "must be a class or a function"),
        (LOSS, "ComparativeLoss", "ComparativeLoss needs loss and ablations; got none"),
        (ABLATION, {"kind": "drop", "p": 3}, "p must be a rate"),
        (
            ABLATION,
            {"kind": "crop", "segmenter": {"kind": "Sentence"}},
            "segmenter.kind: there is no object 'Sentence'",
        ),
        (
            ABLATION,
            {"kind": "crop", "segmenter": {"kind": "Sentences", "lang": "de"}},
            "segmenter.lang: Sentences has no option 'lang'; did you mean 'language'?",
        ),
    ],
)
def test_what_is_refused(slot: Slot, value: Any, message: str) -> None:
    found = texts(slot, value)
    assert len(found) == 1
    assert message in found[0]


def test_an_option_that_torch_refuses_is_an_error_that_names_it(tiny_model: CrossEncoder) -> None:
    with pytest.raises(
        ValueError, match="BinaryCrossEntropyLoss: cannot assign 'list' object to buffer 'pos_weight'"
    ):
        build(LOSS, {"kind": "BinaryCrossEntropyLoss", "pos_weight": [2]}, model=tiny_model)


def test_all_that_is_wrong_is_found() -> None:
    value = {"kind": "crop", "best_": 1, "segmenter": {"kind": "Sentence"}, "schedule": [{"kind": "Never"}]}
    assert [each.key for each in problems(ABLATION, value)] == [
        ("segmenter", "kind"), ("schedule", 0, "kind"), ("best_",),
    ]  # fmt: skip


def test_a_class_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_steps.py").write_text(
        "from dataclasses import dataclass\nfrom cmp_rerank.ablations import CmpDrop\n"
        "@dataclass(frozen=True)\nclass Gentle(CmpDrop):\n    p: float = 0.01\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert texts(ABLATION, {"kind": "my_steps:Gentle", "layers": "top:1"}) == []
        assert build(ABLATION, "my_steps:Gentle").p == 0.01
        assert "Gentle has no option 'q'" in texts(ABLATION, {"kind": "my_steps:Gentle", "q": 1})[0]
    finally:
        sys.modules.pop("my_steps", None)


def test_support_is_offered_where_it_is_taken_and_not_given() -> None:
    support = GivenSupport({("q", "d"): [(0, 1)]})
    offered = {"support": support}
    assert build(ABLATION, "crop", offered=offered).support is support
    assert build(ABLATION, "drop", offered=offered) == CmpDrop()
    given = {"kind": "crop", "support": {"kind": "LexicalSupport"}}
    assert isinstance(build(ABLATION, given, offered=offered).support, LexicalSupport)
