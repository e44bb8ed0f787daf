"""RerankerTrainer gives what CrossEncoderTrainer gives, sooner; and all that the base trainer has still works."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder import losses as upstream
from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
from sentence_transformers.util import batch_to_device
from tiny_models import OTHERS, PASSAGES, QUERIES, OutOfMemoryOnce
from transformers import TrainerCallback

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, LongDocumentReranker
from cmp_rerank.ablations import Ablation, Example, IndependentCopies, Prepared, ScheduledAblation, TextPair
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.objectives import Listwise, Objective, PairwiseHinge
from cmp_rerank.text.segmenters import GivenSegments
from cmp_rerank.text.support import GivenSupport
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.training import trainer as trainer_module
from cmp_rerank.training.ahead import TokenisedBatches
from cmp_rerank.training.collator import PREPARED, Preparer

POINTWISE = datasets.Dataset.from_dict(
    {"query": QUERIES * 4, "passage": (PASSAGES + OTHERS) * 2, "label": ([1.0] * 4 + [0.0] * 4) * 2}
)
PAIRS = datasets.Dataset.from_dict({"query": QUERIES, "positive": PASSAGES})
LISTS = datasets.Dataset.from_dict(
    {
        "query": QUERIES,
        "docs": [[a, b] for a, b in zip(PASSAGES, OTHERS, strict=True)],
        "labels": [[1.0, 0.0]] * 4,
    }
)


def arguments(folder: Path, cls: Any = RerankerTrainingArguments, **options: Any) -> Any:
    # SGD: Adam would make steps of a rounding error, wherever a gradient is nothing else.
    defaults = dict(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=3, report_to="none", use_cpu=True, seed=1,
        save_strategy="no", logging_steps=1, disable_tqdm=True, learning_rate=0.1, optim="sgd",
    )  # fmt: skip
    return cls(**(defaults | options))


def no_dropout(model: CrossEncoder) -> CrossEncoder:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def weights(model: CrossEncoder) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def trained(cls: Any, checkpoint: Path, folder: Path, data: Any, make_loss: Any, args: Any) -> CrossEncoder:
    model = no_dropout(CrossEncoder(str(checkpoint), device="cpu")).double()
    cls(model=model, args=args, train_dataset=data, loss=make_loss(model)).train()
    return model


LOSSES: dict[str, Any] = {
    "bce": (POINTWISE, upstream.BinaryCrossEntropyLoss),
    "mnrl": (PAIRS, lambda m: upstream.MultipleNegativesRankingLoss(m, num_negatives=None)),
    "lambda": (LISTS, upstream.LambdaLoss),
    "comparative": (
        POINTWISE,
        lambda m: ComparativeLoss(m, upstream.BinaryCrossEntropyLoss(m), [CmpCrop(), CmpDrop(p=0.2)]),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_weights_are_those_of_the_base_trainer(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Batches in the same order: then only rounding may differ, which is little in double precision."""
    data, make_loss = LOSSES[name]
    base = trained(
        CrossEncoderTrainer, tiny_checkpoint, tmp_path, data, make_loss,
        arguments(tmp_path, CrossEncoderTrainingArguments),
    )  # fmt: skip
    ours = trained(
        RerankerTrainer, tiny_checkpoint, tmp_path, data, make_loss, arguments(tmp_path, length_bucketing=False)
    )
    start = weights(CrossEncoder(str(tiny_checkpoint), device="cpu"))
    moved = (weights(base) - start).abs().max()
    assert moved > 1e-4
    assert (weights(base) - weights(ours)).abs().max() < 1e-9 * moved


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_tokenised_in_the_step(
    name: str, workers: int, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, make_loss = LOSSES[name]
    model = CrossEncoder(str(tiny_checkpoint), device="cpu")
    trainer = RerankerTrainer(
        model=model,
        args=arguments(tmp_path, dataloader_num_workers=workers),
        train_dataset=data,
        loss=make_loss(model),
    )
    inside: list[int] = []
    step, preprocess = RerankerTrainer.training_step, CrossEncoder.preprocess

    def in_step(self: Any, *args: Any) -> Any:
        inside.append(0)
        monkeypatch.setattr(CrossEncoder, "preprocess", counted)
        try:
            return step(self, *args)
        finally:
            monkeypatch.setattr(CrossEncoder, "preprocess", preprocess)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        inside[-1] += 1
        return preprocess(self, *args, **kwargs)

    monkeypatch.setattr(RerankerTrainer, "training_step", in_step)
    trainer.train()
    assert inside == [0, 0, 0]


@pytest.mark.parametrize("name", ["bce", "comparative"])
def test_without_padding_the_weights_are_the_same(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data, make_loss = LOSSES[name]
    found = []
    for unpadded in (False, True):
        made: list[Any] = []

        def make(model: CrossEncoder, unpadded: bool = unpadded, made: list[Any] = made) -> Any:
            loss = make_loss(model)
            if isinstance(loss, ComparativeLoss):
                loss = ComparativeLoss(model, loss.loss, list(loss.plan.ablations), unpadded=unpadded)
            made.append(loss)
            return loss

        args = arguments(tmp_path, unpadded=unpadded, length_bucketing=False, tokens_per_chunk=10**6)
        model = no_dropout(CrossEncoder(str(tiny_checkpoint), device="cpu")).double()
        trainer = RerankerTrainer(model=model, args=args, train_dataset=data, loss=make(model))
        trainer.train()
        scorer = made[0].scorer if name == "comparative" else trainer._scorer
        assert scorer.uses(Unpadded) == unpadded
        found.append(weights(model))
    start = weights(CrossEncoder(str(tiny_checkpoint), device="cpu"))
    moved = (found[0] - start).abs().max()
    assert moved > 1e-4
    assert (found[0] - found[1]).abs().max() < 1e-9 * moved


def largest_pass(trainer: RerankerTrainer, model: CrossEncoder) -> int:
    """Train, and give the most tokens, padding included, that a forward pass of more than one row held."""
    held = [0]

    def count(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        held.append(ids.numel() if len(ids) > 1 else 0)

    handle = model[0].model.bert.embeddings.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    handle.remove()
    return max(held)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, ("stacked", True, 64)),
        ({"strategy": "hybrid"}, ("hybrid", True, 64)),
        ({"unpadded": False}, ("stacked", False, 64)),
        ({"tokens_per_chunk": 10**6}, ("stacked", True, 10**6)),
        ({"strategy": "naive", "unpadded": False, "tokens_per_chunk": 128}, ("naive", False, 128)),
        ({"activation_bytes": 0}, ("auto", True, 64)),  # it is for "auto" only, which shares the trunk here
    ],
    ids=["none", "strategy", "unpadded", "tokens_per_chunk", "all", "activation_bytes"],
)
def test_options_of_the_arguments_reach_a_loss_that_does_not_set_them(
    own: dict[str, Any], expected: tuple[str, bool, int], tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    loss = ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop(layers="top:2")], **own)
    args = arguments(tmp_path, strategy="stacked", unpadded=True, tokens_per_chunk=64, max_steps=1)
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, loss=loss).train()
    assert (loss.scorer.strategy, loss.scorer.unpadded, loss.scorer.budget.tokens) == expected
    assert loss.scorer.uses(Unpadded) == (expected[1] and expected[0] != "auto")


@pytest.mark.parametrize(("own", "bound"), [({}, 96), ({"tokens_per_chunk": 300}, 300)])
def test_the_limit_of_the_arguments_holds_for_the_passes(
    own: dict[str, Any], bound: int, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpDrop()], **own)
    args = arguments(tmp_path, strategy="stacked", tokens_per_chunk=96, max_steps=1)
    trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, loss=loss)
    assert bound // 2 < largest_pass(trainer, tiny_model) <= bound


def test_options_of_the_last_trainer_count(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """A loss that is used again does not keep what the arguments of another trainer said."""
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    unset = ComparativeLoss(tiny_model, plain, [CmpDrop()])
    fixed = ComparativeLoss(tiny_model, plain, [CmpDrop()], strategy="hybrid", unpadded=False, tokens_per_chunk=99)
    found = []
    for options in (
        {"strategy": "stacked", "unpadded": True, "tokens_per_chunk": 64},
        {"strategy": "naive", "tokens_per_chunk": 32},
        {},
    ):
        for loss in (unset, fixed):
            args = arguments(tmp_path, **options)
            RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, loss=loss)
            found.append((loss.scorer.strategy, loss.scorer.unpadded, loss.scorer.budget.tokens))
    assert found[::2] == [("stacked", True, 64), ("naive", False, 32), ("auto", False, None)]
    assert found[1::2] == [("hybrid", False, 99)] * 3


def test_each_loss_of_several_datasets_gets_the_options(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    losses = {
        "a": ComparativeLoss(tiny_model, plain, [CmpDrop()]),
        "b": ComparativeLoss(tiny_model, plain, [CmpCrop()], strategy="hybrid"),
    }
    args = arguments(tmp_path, strategy="stacked", tokens_per_chunk=64)
    data = {"a": POINTWISE, "b": POINTWISE}
    RerankerTrainer(model=tiny_model, args=args, train_dataset=data, loss=losses)
    assert [loss.scorer.strategy for loss in losses.values()] == ["stacked", "hybrid"]
    assert [loss.scorer.budget.tokens for loss in losses.values()] == [64, 64]


def test_training_pairs_are_tokenised_once(tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[tuple[str, str]] = []
    preprocess = CrossEncoder.preprocess

    def counted(self: Any, pairs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(pair for pair in pairs if not isinstance(pair, str))  # the model card counts tokens of texts
        return preprocess(self, pairs, *args, **kwargs)

    monkeypatch.setattr(CrossEncoder, "preprocess", counted)
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=3, token_cache=str(tmp_path / "tokens"))
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE).train()
    assert len(seen) == len(POINTWISE)
    # A second run finds them on disk.
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE).train()
    assert len(seen) == len(POINTWISE)
    # Other data, or another window, are other tokens.
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE.select(range(8))).train()
    assert len(seen) == len(POINTWISE) + 8
    tiny_model.max_seq_length = 20
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE).train()
    assert len(seen) == 2 * len(POINTWISE) + 8


def test_the_home_folder_has_its_short_name_in_token_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    args = RerankerTrainingArguments("~/run", token_cache="~/tokens", report_to=[])
    assert (args.output_dir, args.token_cache) == (str(tmp_path / "run"), str(tmp_path / "tokens"))


def test_a_trainer_that_trains_again_has_the_tokens_of_its_model_now(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As in a search for hyperparameters, whose trials have models of their own."""
    limit = {"max_seq_length": 128}

    def init() -> CrossEncoder:
        model = CrossEncoder(str(tiny_checkpoint), device="cpu")
        model.max_seq_length = limit["max_seq_length"]
        return model

    trainer = RerankerTrainer(
        model_init=init, args=arguments(tmp_path, max_steps=1), train_dataset=POINTWISE,
        loss=upstream.BinaryCrossEntropyLoss,
    )  # fmt: skip
    lengths, stores = [], []
    for limit["max_seq_length"] in (128, 128, 12, 12):
        trainer.train()
        lengths.append(max(len(e) for batch in trainer.get_train_dataloader() for e in batch[PREPARED].examples))
        assert trainer._ahead is not None
        stores.append(trainer._ahead.store)
        assert trainer._ahead._tokenise.tokeniser.preparer.model is trainer.model  # the one before can go
    assert lengths[0] == lengths[1] > 12 == lengths[2] == lengths[3]
    assert [store is stores[0] for store in stores] == [True, True, False, False]
    assert stores[2] is stores[3]  # equal settings have equal tokens


def test_kept_tokens_are_those_of_the_same_settings(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Support, segments and templates are contents: as many of them, under the same names, are not the same ones."""
    args = arguments(tmp_path, token_cache=str(tmp_path / "tokens"))
    texts = POINTWISE["passage"]

    def kept(make_crop: Any) -> tuple[Path, list[Any]]:
        loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [make_crop()])
        trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, loss=loss)
        list(trainer.get_train_dataloader())
        assert trainer._ahead is not None
        store = trainer._ahead.store
        found = [store.examples(place) or [] for place in trainer._ahead.places(range(len(POINTWISE)))]
        return store.folder, [(e.support, e.segment.tolist()) for (e,) in found]

    def supported(number: int) -> Any:
        support = {(q, p): [number] for q, p in zip(POINTWISE["query"], texts, strict=True)}
        return lambda: CmpCrop(support=GivenSupport(support))

    def divided(at: int) -> Any:
        return lambda: CmpCrop(segmenter=GivenSegments({text: [(0, at), (at, len(text))] for text in texts}))

    class Nameless:  # its description is where it lies
        def __call__(self, text: str) -> list[tuple[int, int]]:
            return [(0, 4), (4, len(text))]

    nameless = Nameless()
    for one, other in ((supported(0), supported(1)), (divided(5), divided(9))):
        folder, first = kept(one)
        assert kept(one) == (folder, first)
        assert len(first) == len(POINTWISE)
        elsewhere, second = kept(other)
        assert folder != elsewhere
        assert first != second
    folder, _ = kept(lambda: CmpCrop(segmenter=nameless))
    assert tmp_path not in folder.parents  # not kept
    folder, _ = kept(CmpCrop)
    tiny_model.tokenizer.chat_template = "{{ query }}"
    elsewhere = kept(CmpCrop)[0]
    monkeypatch.setattr(trainer_module, "_own_code", lambda: "another version")
    assert len({folder, elsewhere, kept(CmpCrop)[0]}) == 3


def named_segmenter(at: int) -> Any:
    """A function, of the same name for each ``at``."""

    def segments(text: str) -> list[tuple[int, int]]:
        return [(0, at), (at, len(text))]

    return segments


@dataclass(frozen=True)
class Around(Ablation):
    """An ablation of a user's own that asks another one."""

    ablation: Ablation
    steps: int = 1
    needs_text = True

    def prepare(self, pair: TextPair) -> Prepared:
        return self.ablation.prepare(pair)

    def views(self, example: Example, steps: int) -> Any:
        return self.ablation.views(example, steps)


@pytest.mark.parametrize(
    "around",
    [
        lambda crop: crop,
        lambda crop: ScheduledAblation(crop, count=lambda progress: 1),
        IndependentCopies,
        Around,
    ],
    ids=["crop", "scheduled", "copies", "own"],
)
@pytest.mark.parametrize("option", ["segmenter", "support"])
def test_functions_of_one_name_have_tokens_of_their_own_which_are_not_kept(
    option: str, around: Any, tiny_model: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def named_scorer(number: int) -> Any:
        return lambda query, segments: [float(i == number) for i in range(len(segments))]

    task = upstream.BinaryCrossEntropyLoss(tiny_model)
    options = [{option: named_segmenter(5 + i) if option == "segmenter" else named_scorer(i)} for i in range(2)]
    losses = [ComparativeLoss(tiny_model, task, [around(CmpCrop(**each))]) for each in options]
    assert repr(losses[0].plan) == repr(losses[1].plan)
    args = arguments(tmp_path, token_cache=str(tmp_path / "tokens"))
    trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, loss=losses[0])
    found = []
    for trainer.loss in [*losses, losses[1]]:
        list(trainer.get_train_dataloader())
        assert trainer._ahead is not None
        store = trainer._ahead.store
        assert tmp_path not in store.folder.parents
        examples = [store.examples(place) or [] for place in trainer._ahead.places(range(len(POINTWISE)))]
        found.append((store.folder, [(e.support, e.segment.tolist()) for (e,) in examples]))
    assert found[0][1] != found[1][1]
    assert found[1] == found[2]
    assert "Nothing is kept in" in caplog.text


@pytest.mark.parametrize("ablation", [CmpDrop(p=0.2), CmpCrop()])
def test_schedules_have_no_part_in_the_tokens(ablation: Ablation, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """Those of a plan without them are taken, whatever function a schedule is."""
    args = arguments(tmp_path, token_cache=str(tmp_path / "tokens"))
    scheduled = [ScheduledAblation(ablation, count=lambda progress, at=at: progress.step > at) for at in (1, 2)]
    for each in (ablation, *scheduled):
        loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [each])
        trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, loss=loss)
        list(trainer.get_train_dataloader())
        assert trainer._ahead is not None
        assert [trainer._ahead.store.folder] == list((tmp_path / "tokens").iterdir())


def test_kinds_of_models_and_orders_of_datasets_have_tokens_of_their_own(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A LongDocumentReranker reads whole documents; rows are numbered by the order of datasets; each has its plan."""
    texts = {"one": [text * 9 for text in PASSAGES], "two": OTHERS}
    data = {
        name: datasets.Dataset.from_dict({"query": QUERIES, "passage": passages, "label": [1.0, 0.0] * 2})
        for name, passages in texts.items()
    }

    def losses(model: CrossEncoder, **ablations: Any) -> dict[str, ComparativeLoss]:
        task = upstream.BinaryCrossEntropyLoss(model)
        return {name: ComparativeLoss(model, task, [step]) for name, step in ablations.items()}

    def content(long: bool, names: list[str], cache: Path | None, **ablations: Any) -> list[Any]:
        model = CrossEncoder(str(tiny_checkpoint), device="cpu", max_length=40)
        model = LongDocumentReranker(model) if long else model
        args = arguments(tmp_path / "run", max_steps=4, token_cache=cache and str(cache))
        train = datasets.DatasetDict({name: data[name] for name in names})
        trainer = RerankerTrainer(model=model, args=args, train_dataset=train, loss=losses(model, **ablations))
        return [
            (e.features["input_ids"].tolist(), e.segment.tolist(), e.croppable)
            for batch in trainer.get_train_dataloader()
            for e in batch[PREPARED].examples
        ]

    order = ["one", "two"]
    variants: list[tuple[bool, list[str], dict[str, Any]]] = [
        (False, order, {"one": CmpCrop(), "two": CmpDrop()}),
        (True, order, {"one": CmpCrop(), "two": CmpDrop()}),
        (False, order[::-1], {"one": CmpCrop(), "two": CmpDrop()}),
        (False, order, {"two": CmpCrop(), "one": CmpDrop()}),
        (False, order, {"one": CmpDrop(), "two": CmpCrop()}),
    ]
    cache = tmp_path / "tokens"
    fresh = [content(long, names, None, **ablations) for long, names, ablations in variants]
    for _ in range(2):
        for (long, names, ablations), expected in zip(variants, fresh, strict=True):
            assert content(long, names, cache, **ablations) == expected
    assert len({str(found) for found in fresh}) == 4  # the last two differ in the order of losses alone


@pytest.mark.parametrize("loss", ["plain", "comparative"])
def test_queries_without_documents(loss: str, tiny_checkpoint: Path, tmp_path: Path, caplog: Any) -> None:
    """They train what the base trainer does; in batches of similar length they come with other rows."""
    lists = [[PASSAGES[0], OTHERS[0], OTHERS[1]], [], [OTHERS[2], PASSAGES[2]], []]
    columns = {"query": QUERIES * 2, "docs": lists * 2, "labels": [[2.0, 0.0, 1.0], [], [0.0, 1.0], []] * 2}
    data = datasets.Dataset.from_dict(columns)

    def make(model: CrossEncoder) -> Any:
        plain = upstream.LambdaLoss(model)
        return plain if loss == "plain" else ComparativeLoss(model, plain, [CmpCrop(), CmpDrop(p=0.2)])

    options: dict[str, Any] = dict(max_steps=2)
    base = trained(
        CrossEncoderTrainer, tiny_checkpoint, tmp_path, data, make,
        arguments(tmp_path, CrossEncoderTrainingArguments, **options),
    )  # fmt: skip
    ours = trained(
        RerankerTrainer, tiny_checkpoint, tmp_path, data, make,
        arguments(tmp_path, length_bucketing=False, **options),
    )  # fmt: skip
    start = weights(CrossEncoder(str(tiny_checkpoint), device="cpu"))
    moved = (weights(base) - start).abs().max()
    assert moved > 1e-4
    assert (weights(base) - weights(ours)).abs().max() < 1e-6 * moved  # LambdaLoss computes in float32
    model = CrossEncoder(str(tiny_checkpoint), device="cpu")
    args = arguments(tmp_path, per_device_train_batch_size=2, max_steps=4)
    run = RerankerTrainer(model=model, args=args, train_dataset=data, loss=make(model))
    assert all(any(docs for docs in batch["docs"]) for batch in run.get_train_dataloader())
    run.train()
    assert "could not be" not in caplog.text


@pytest.mark.parametrize("loss", ["plain", "comparative"])
@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
def test_a_batch_with_nothing_to_learn_has_gradients(
    loss: str, strategy: str, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    """Of zeros: the other processes of a distributed training wait for them. The loss alone returns a constant."""
    columns = {"query": QUERIES, "docs": [[text] for text in PASSAGES], "labels": [[1.0]] * 4}
    plain: Any = upstream.ListMLELoss(tiny_model)
    if loss == "comparative":
        plain = ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop(p=0.2)])
    args = arguments(tmp_path, strategy=strategy)
    run = RerankerTrainer(
        model=tiny_model.train(), args=args, train_dataset=datasets.Dataset.from_dict(columns), loss=plain
    )
    (batch,) = run.get_train_dataloader()
    value = run.compute_loss(tiny_model, batch)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)  # an epsilon before sentence-transformers 6.2
    gradients = [p.grad for p in tiny_model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.abs().max() < 1e-6 for gradient in gradients)


def test_evaluation_has_its_own_batches(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """Also where the data are those that it trains on."""
    args = arguments(tmp_path, tokens_per_batch=60, per_device_eval_batch_size=8)
    trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, eval_dataset=POINTWISE)
    trainer.train()
    batches = [batch["label"] for batch in trainer.get_eval_dataloader()]
    assert [len(batch) for batch in batches] == [8, 8]
    assert sorted(torch.cat(batches).tolist()) == sorted(POINTWISE["label"])


def test_losses_are_copied_where_an_accelerator_may_be_touched(
    tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the main process, when the loader is made: not in its workers."""
    monkeypatch.setattr(CrossEncoder, "device", property(lambda self: torch.device("cuda")))
    loss = upstream.BinaryCrossEntropyLoss(tiny_model, pos_weight=torch.tensor(2.0))
    preparer = Preparer(tiny_model, {"a": loss, "b": ComparativeLoss(tiny_model, loss, [CmpDrop()])})
    (twin,) = preparer._twins.values()
    assert twin is not loss
    assert twin.bce_with_logits_loss.pos_weight == 2.0
    assert not list(twin.parameters())  # the model stays where it is


def test_batches_have_similar_lengths(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    def sampler(**options: Any) -> Any:
        args = arguments(tmp_path, **options)
        trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE)
        return trainer.get_train_dataloader().batch_sampler

    assert isinstance(sampler(), TokenisedBatches)
    by_tokens = sampler(tokens_per_batch=200)
    batches = [np.array([place.row for place in batch]) for batch in by_tokens]
    assert all(by_tokens.ahead.index.lengths(batch).sum() <= 200 for batch in batches)
    assert sorted(np.concatenate(batches)) == list(range(16))
    assert not isinstance(sampler(length_bucketing=False), TokenisedBatches)
    assert not isinstance(sampler(batch_sampler="no_duplicates"), TokenisedBatches)  # what the caller chose


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_resume_is_the_uninterrupted_run(share: float, tiny_checkpoint: Path, tmp_path: Path) -> None:
    def run(folder: str, steps: int, resume: bool) -> CrossEncoder:
        model = CrossEncoder(str(tiny_checkpoint), device="cpu")
        args = arguments(
            tmp_path / folder, max_steps=steps, save_strategy="steps", save_steps=3, lr_scheduler_type="constant"
        )
        task = upstream.BinaryCrossEntropyLoss(model)
        loss = ComparativeLoss(model, task, [CmpDrop(p=0.2)], compare_share=share)
        trainer = RerankerTrainer(model=model, args=args, train_dataset=POINTWISE, loss=loss)
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = run("whole", 6, False)
    run("parts", 3, False)
    assert torch.equal(weights(run("parts", 6, True)), weights(whole))


def test_an_interrupted_trainer_resumes_with_the_views_of_its_step(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The batches of the step that was interrupted do not count when it is taken again."""

    def run(interrupted: bool, cls: Any = RerankerTrainer, kind: Any = RerankerTrainingArguments) -> torch.Tensor:
        model = no_dropout(CrossEncoder(str(tiny_checkpoint), device="cpu"))
        args = arguments(
            tmp_path / f"{cls.__name__} {interrupted}", kind, max_steps=6, save_strategy="steps", save_steps=3
        )
        loss = ComparativeLoss(model, upstream.BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop(p=0.2)])
        trainer = cls(model=model, args=args, train_dataset=POINTWISE, loss=loss)
        before = trainer.training_step

        def step(*arguments: Any, **options: Any) -> Any:
            result = before(*arguments, **options)
            if trainer.state.global_step == 3:
                trainer.training_step = before
                raise KeyboardInterrupt
            return result

        if interrupted:
            trainer.training_step = step
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        trainer.train(resume_from_checkpoint=interrupted)
        return weights(model)

    assert torch.equal(run(True), run(False))
    plain = (CrossEncoderTrainer, CrossEncoderTrainingArguments)
    assert torch.equal(run(True, *plain), run(False, *plain))


def test_evaluation_callbacks_model_card_and_gradient_accumulation(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps += 1

    count = Count()
    evaluator = CrossEncoderClassificationEvaluator(list(zip(QUERIES, PASSAGES, strict=True)), [1, 0, 1, 0])
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpDrop(p=0.2)])
    trainer = RerankerTrainer(
        model=tiny_model,
        args=arguments(tmp_path, eval_strategy="steps", eval_steps=2, gradient_accumulation_steps=2),
        train_dataset=POINTWISE,
        eval_dataset=POINTWISE.select(range(6)),
        evaluator=evaluator,
        loss=loss,
        callbacks=[count],
    )
    trainer.train()
    assert count.steps == 3
    logs = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    assert {"loss", "task_loss_full", "violation_rate", "eval_loss"} <= set(logs)
    assert any(name.startswith("eval_") and "accuracy" in name for name in logs)
    expected = CrossEncoderTrainer(
        model=tiny_model, args=arguments(tmp_path, CrossEncoderTrainingArguments),
        eval_dataset=POINTWISE.select(range(6)),
    ).evaluate()["eval_loss"]  # fmt: skip
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    tiny_model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "ComparativeLoss" in card
    assert "CmpDrop(p=0.2)" in card


def test_several_datasets_with_their_own_losses(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    trainer = RerankerTrainer(
        model=tiny_model,
        args=arguments(tmp_path, max_steps=-1, num_train_epochs=1),
        train_dataset={"points": POINTWISE, "lists": LISTS},
        eval_dataset={"points": POINTWISE, "lists": LISTS},
        loss={
            "points": ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop()]),
            "lists": upstream.LambdaLoss(tiny_model),
        },
    )
    trainer.train()
    assert trainer.state.global_step == 5  # 16 points and 4 lists, 4 to a batch
    assert {"eval_points_loss", "eval_lists_loss"} <= set(trainer.evaluate())


def test_each_dataset_tells_its_own_loss_what_the_window_cut(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    def compared() -> ComparativeLoss:
        return ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop()])

    long = POINTWISE.map(lambda row: {"passage": 20 * row["passage"]})
    data = {"a": POINTWISE.select(range(16)), **{name: long.select(range(6)) for name in "bcd"}}
    both, alone = compared(), compared()
    trainer = RerankerTrainer(
        model=tiny_model,
        args=arguments(tmp_path, max_steps=-1, num_train_epochs=1),
        train_dataset=data,
        loss={"d": both, "c": upstream.BinaryCrossEntropyLoss(tiny_model), "b": both, "a": alone},
    )
    trainer.train()
    assert (both.truncation.passages, both.truncation.cut) == (12, 12)
    assert (alone.truncation.passages, alone.truncation.cut) == (16, 0)


def test_a_loss_that_needs_its_model_runs_as_it_is(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Shouting(upstream.BinaryCrossEntropyLoss):
        def forward(self, inputs: Any, labels: Any, **kwargs: Any) -> Any:
            return super().forward([[text.upper() for text in column] for column in inputs], labels, **kwargs)

    found = []
    for cls, kind, options in (
        (CrossEncoderTrainer, CrossEncoderTrainingArguments, {}),
        (RerankerTrainer, RerankerTrainingArguments, {"length_bucketing": False}),
    ):
        model = no_dropout(CrossEncoder(str(tiny_checkpoint), device="cpu")).double()
        args = arguments(tmp_path, kind, eval_strategy="steps", eval_steps=1, **options)
        with caplog.at_level(logging.WARNING):
            cls(
                model=model, args=args, train_dataset=POINTWISE, eval_dataset=POINTWISE, loss=Shouting(model)
            ).train()  # fmt: skip
        found.append(weights(model))
    assert torch.equal(*found)
    told = [r.message for r in caplog.records if "could not be prepared" in r.message]
    assert len(told) == 1
    assert "changes its texts" in told[0]


class Hardest(torch.nn.Module):
    """Scores all pairs of a batch, and trains on the hardest negative of each query."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def scores(self, pairs: list[tuple[str, str]]) -> torch.Tensor:
        features = self.model.preprocess(pairs)
        found: torch.Tensor = self.model(batch_to_device(features, self.model.device))["scores"]
        return found.flatten()

    def forward(self, inputs: Any, labels: Any = None, **_: Any) -> torch.Tensor:
        queries, passages = inputs
        with torch.no_grad():
            every = self.scores([(q, p) for q in queries for p in passages]).reshape(len(queries), -1).clone()
        every.fill_diagonal_(-torch.inf)
        hardest = [passages[i] for i in every.argmax(1).tolist()]
        positive, negative = (self.scores(list(zip(queries, texts, strict=True))) for texts in (passages, hardest))
        return torch.nn.functional.softplus(negative - positive).mean()


def test_a_loss_that_chooses_pairs_by_their_scores_runs_as_it_is(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for cls, kind, options in (
        (CrossEncoderTrainer, CrossEncoderTrainingArguments, {}),
        (RerankerTrainer, RerankerTrainingArguments, {"length_bucketing": False}),
    ):
        model = no_dropout(CrossEncoder(str(tiny_checkpoint), device="cpu")).double()
        with caplog.at_level(logging.WARNING):
            cls(
                model=model, args=arguments(tmp_path, kind, **options), train_dataset=PAIRS, loss=Hardest(model)
            ).train()
        found.append(weights(model))
    assert torch.equal(*found)
    assert len([r for r in caplog.records if "Hardest chooses pairs by their scores" in r.message]) == 1


def test_plain_arguments_and_an_own_collator_are_fine(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator

    args = arguments(tmp_path, CrossEncoderTrainingArguments)
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE).train()
    collator = CrossEncoderDataCollator(preprocess_fn=tiny_model.preprocess)
    RerankerTrainer(model=tiny_model, args=args, train_dataset=POINTWISE, data_collator=collator).train()


def test_an_empty_passage_is_left_to_the_loss(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """The base trainer scores empty passages; a plain loss must not fail on them here."""
    data = datasets.Dataset.from_dict(
        {"query": QUERIES, "passage": [*PASSAGES[:3], ""], "label": [1.0, 0.0, 1.0, 0.0]}
    )
    RerankerTrainer(model=tiny_model, args=arguments(tmp_path), train_dataset=data).train()


def test_memory_that_runs_out_in_the_backward_pass(tiny_checkpoint: Path, tmp_path: Path, caplog: Any) -> None:
    """Kept activations cannot be run again by themselves: the trainer repeats the step."""

    start = weights(CrossEncoder(str(tiny_checkpoint), device="cpu"))
    for ablations in ([], [CmpCrop(), CmpDrop(p=0.2)]):
        found, draws = [], []
        for failing in (False, True):
            OutOfMemoryOnce.fail = int(failing)
            model = no_dropout(CrossEncoder(str(tiny_checkpoint), device="cpu")).double()
            if failing:
                model[0].model.bert.embeddings.register_forward_hook(lambda _, __, out: OutOfMemoryOnce.apply(out))
            loss: Any = upstream.BinaryCrossEntropyLoss(model)
            if ablations:
                loss = ComparativeLoss(model, loss, ablations, strategy="stacked")
                loss.register_forward_hook(lambda loss, _, __, draws=draws: draws.append(loss.comparison.drawn))
            trainer = RerankerTrainer(model=model, args=arguments(tmp_path), train_dataset=POINTWISE, loss=loss)
            trainer.train()
            assert trainer._scorer.budget.events == int(failing)
            found.append(weights(model))
        moved = (found[0] - start).abs().max()
        assert moved > 1e-4
        assert (found[0] - found[1]).abs().max() < 1e-9 * moved
        if ablations:  # the step that is repeated has the same views again
            assert draws == [(0, 0), (1, 0), (2, 0), (0, 0), (0, 0), (1, 0), (2, 0)]
    assert any("Out of memory" in record.message for record in caplog.records)


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"bf16": True},
    "checkpointing": {"gradient_checkpointing": True},
    "lora": {},
    "compile": {"torch_compile": True, "torch_compile_backend": "eager"},
}


def in_mode(
    mode: str, strategy: Any, checkpoint: Path, folder: Path, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights before and after training, in double precision but for bf16."""
    model = no_dropout(CrossEncoder(str(checkpoint), device="cpu"))
    if mode == "lora":
        from peft import LoraConfig, TaskType

        torch.manual_seed(0)
        model.add_adapter(LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query", "value"]))
    if mode != "bf16":
        model.double()
    kinds: set[torch.dtype] = set()
    model[0].model.base_model.encoder.layer[0].register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    loss = ComparativeLoss(
        model,
        upstream.BinaryCrossEntropyLoss(model),
        [CmpCrop(), CmpDrop(p=0.2, layers="top:1")],
        objective=objective,
        strategy=strategy,
    )
    before = weights(model)
    args = arguments(folder, **MODES[mode])
    trainer = RerankerTrainer(model=model, args=args, train_dataset=POINTWISE, loss=loss)
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)
    assert loss.diagnostics["task_loss_full"] != loss.diagnostics["task_loss_step_2"]  # something was dropped
    if mode != "bf16":
        assert kinds == {torch.float64}
    return before, weights(model)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk"])
@pytest.mark.parametrize("mode", ["bf16", "checkpointing", "lora", pytest.param("compile", marks=pytest.mark.slow)])
def test_modes_of_training(mode: str, strategy: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The weights are those of one pass for each step; and where a mode changes no gradient, those of no mode."""
    # In bf16 a hinge would turn a rounding error, which is not that of every processor, into another weight.
    objective = Listwise() if mode == "bf16" else PairwiseHinge()
    before, found = in_mode(mode, strategy, tiny_checkpoint, tmp_path, objective)
    moved = (found - before).abs().max()
    assert moved > 1e-3
    assert ((found != before).double().mean() < 0.2) == (mode == "lora")  # adapters and head only
    _, expected = in_mode("lora" if mode == "lora" else "plain", "naive", tiny_checkpoint, tmp_path, objective)
    if mode == "bf16":  # as far from double precision as one pass for each step is
        _, rounded = in_mode(mode, "naive", tiny_checkpoint, tmp_path, objective)
        rounding = (rounded - expected).norm()
        assert 1e-4 * (expected - before).norm() < rounding < 0.1 * (expected - before).norm()
        assert (found - expected).norm() < 2 * rounding
    else:
        assert (found - expected).abs().max() < 1e-9 * moved


@pytest.mark.slow
def test_compiled_weights_are_those_of_eager_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def make_loss(model: CrossEncoder) -> ComparativeLoss:
        return ComparativeLoss(model, upstream.BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop(p=0.2)])

    eager, compiled = (
        weights(
            trained(RerankerTrainer, tiny_checkpoint, tmp_path, POINTWISE, make_loss, arguments(tmp_path, **options))
        )
        for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"})
    )
    assert (eager - compiled).abs().max() < 1e-6


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens_per_batch must be a whole number, at least 1; got 0"):
        arguments(tmp_path, tokens_per_batch=0)
    with pytest.raises(ValueError, match="needs length_bucketing"):
        arguments(tmp_path, tokens_per_batch=10, length_bucketing=False)
    with pytest.raises(ValueError, match="tokens_per_batch needs the default batch_sampler"):
        arguments(tmp_path, tokens_per_batch=10, batch_sampler="no_duplicates")


def test_a_dataset_without_rows_is_named(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    empty = POINTWISE.select([])
    for data, message in ((empty, "got none."), ({"a": POINTWISE, "b": empty}, "got none in 'b'.")):
        trainer = RerankerTrainer(model=tiny_model, args=arguments(tmp_path), train_dataset=data)
        with pytest.raises(ValueError, match=f"A training dataset must have rows; {message}"):
            trainer.train()


def test_a_dataset_whose_loss_is_unknown_is_named(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    loss = {name: upstream.BinaryCrossEntropyLoss(tiny_model) for name in ("a", "b")}
    trainer = RerankerTrainer(model=tiny_model, args=arguments(tmp_path), loss=loss)
    one, other = (datasets.Dataset.from_dict({"query": ["q"], "passage": ["p"], "label": [1.0]}) for _ in range(2))
    for data, message in ((one, "a dataset without a name"), (datasets.DatasetDict(c=other), "the name 'c'")):
        with pytest.raises(ValueError, match=f"its own loss here, by its name, one of 'a', 'b'; got {message}. Give"):
            trainer.evaluate(data)


@pytest.mark.parametrize("labels", [[1.0, None], [[1.0, 0.5], [0.0, None]]])
def test_a_label_that_is_missing_is_named(labels: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Upstream's collator ends in torch's "Could not infer dtype of NoneType"."""
    data = datasets.Dataset.from_dict({"query": ["q"], "docs": [["a", "b"]], "labels": [labels]})
    model = CrossEncoder(str(tiny_checkpoint), device="cpu")
    trainer = RerankerTrainer(
        model=model, args=arguments(tmp_path), train_dataset=data, loss=upstream.ListNetLoss(model)
    )
    with pytest.raises(ValueError, match=r"labels must be numbers; got .*None.* in the column 'labels'; leave"):
        trainer.train()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"id": [7], "query": ["q"], "passage": ["p"], "label": [1.0]},
            "must hold texts; got int in column 0 .*, row 0",
        ),
        ({"query": ["q"], "passage": ["p"], "relevance": [1.0]}, "got float in column 2 .*, row 0.* is named label,"),
        (
            {"query": ["q"], "passage": ["p"]},
            "BinaryCrossEntropyLoss fails without labels .* in a column named label",
        ),
        ({"query": ["q"], "passage": ["p"], "label": ["1"]}, "labels must be numbers; got '1' in the column 'label'"),
    ],
)
def test_a_column_that_does_not_fit_is_named(
    columns: dict[str, list[Any]], message: str, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop()])
    data = datasets.Dataset.from_dict(columns)
    trainer = RerankerTrainer(model=tiny_model, args=arguments(tmp_path), train_dataset=data, loss=loss)
    with pytest.raises(ValueError, match=message):
        trainer.train()


@pytest.mark.parametrize("passage", ["p", ""])  # prepared ahead, and left to the loss
@pytest.mark.parametrize("ablations", [None, [], [CmpCrop()]])
def test_grades_are_no_labels_of_binary_cross_entropy(
    ablations: list[Any] | None, passage: str, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    loss: Any = upstream.BinaryCrossEntropyLoss(tiny_model)
    if ablations is not None:
        loss = ComparativeLoss(tiny_model, loss, ablations)
    data = datasets.Dataset.from_dict({"query": ["q"], "passage": [passage], "label": [3]})
    options: Any = dict(model=tiny_model, args=arguments(tmp_path), loss=loss)
    trainer = RerankerTrainer(train_dataset=data, eval_dataset=data, **options)
    assert trainer.evaluate()["eval_loss"] != 0  # what nobody trains on is left alone
    with pytest.raises(ValueError, match="BinaryCrossEntropyLoss needs labels from 0 to 1; got 3;"):
        trainer.train()


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (("passage", "query", "label"), True),
        (("id", "question", "answer"), True),
        (("label", "query", "passage"), False),
        (("query", "question"), False),
        (("premise", "hypothesis", "label"), False),
    ],
)
def test_a_query_that_is_not_first_is_warned_of(
    names: tuple[str, ...], warned: bool, tiny_model: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = datasets.Dataset.from_dict({name: [1.0 if name == "label" else "a text"] for name in names})
    for given in (data, {"a": data}):
        caplog.clear()
        RerankerTrainer(
            model=tiny_model, args=arguments(tmp_path), train_dataset=given,
            loss=upstream.BinaryCrossEntropyLoss(tiny_model),
        )  # fmt: skip
        assert ("is taken for the query" in caplog.text) == warned
