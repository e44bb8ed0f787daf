"""The losses in the contract of sentence-transformers: models, trainers, ComparativeLoss, names and model cards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
import torch
from optional_libraries import datasets
from packaging.version import Version
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor, nn

import cmp_rerank.losses
from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, MeanOfSteps, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.losses import (
    LOSSES,
    ApproxNDCGLoss,
    CircleLoss,
    ListwiseKLLoss,
    ListwiseMarginMSELoss,
    ListwiseSoftmaxLoss,
    LocalizedContrastiveLoss,
    MarginHingeLoss,
    NeuralNDCGLoss,
    PairwiseSoftmaxLoss,
    RankingLoss,
    SupervisedDistillationLoss,
    TeacherOrderLoss,
    WeightedRankNetLoss,
    loss_class,
)
from cmp_rerank.losses.decompose import decompose
from cmp_rerank.losses.replay import Replay, addressed
from cmp_rerank.ranking_losses.distillation import labels_of_ranks, listwise_kl
from cmp_rerank.ranking_losses.softmax import listwise_softmax

# Ragged lists: several positives and ties, no positive, one positive, only positives.
DOCS = [
    [PASSAGES[0], OTHERS[0], OTHERS[1], PASSAGES[2]],
    [PASSAGES[1], OTHERS[1], PASSAGES[3]],
    [OTHERS[2], PASSAGES[2]],
    [PASSAGES[3], OTHERS[3]],
]
GRADES = [[2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0], [1.0, 2.0]]
TEACHER = [[7.5, -3.0, 0.25, 0.25], [1.0, 1.0, 1.0], [-9.0, 4.0], [3.0, -2.0]]
RANKS = [[1, 7, 3, 3], [1, 1, 1], [40, 2], [1, 2]]
BOTH = [[list(pair) for pair in zip(*rows, strict=True)] for rows in zip(GRADES, TEACHER, strict=True)]

#: A loss for each class and each choice that changes how it computes, with labels of its kind.
CASES: dict[str, tuple[Any, list[Any]]] = {
    "approx": (ApproxNDCGLoss, GRADES),
    "circle": (CircleLoss, GRADES),
    "kl": (ListwiseKLLoss, TEACHER),
    "margin-mse": (lambda m: ListwiseMarginMSELoss(m, normalize=True), TEACHER),
    "softmax": (lambda m: ListwiseSoftmaxLoss(m, epsilon=1.0, label_smoothing=0.1), GRADES),
    "lce": (LocalizedContrastiveLoss, GRADES),
    "hinge": (MarginHingeLoss, TEACHER),
    "neural": (NeuralNDCGLoss, GRADES),
    "neural-transposed": (lambda m: NeuralNDCGLoss(m, transposed=True, k=2), GRADES),
    "psl": (PairwiseSoftmaxLoss, GRADES),
    "supervised-kl": (SupervisedDistillationLoss, BOTH),
    "order": (TeacherOrderLoss, RANKS),
    "order-adr-mse": (lambda m: TeacherOrderLoss(m, upstream.ADRMSELoss(m)), RANKS),
    "order-lambda": (lambda m: TeacherOrderLoss(m, upstream.LambdaLoss(m), labels="reciprocal"), RANKS),
    "order-own": (lambda m: TeacherOrderLoss(m, WeightedRankNetLoss(m)), RANKS),
    "ranknet": (WeightedRankNetLoss, TEACHER),
}
#: Cases of a class that has another case, too.
VARIANTS = ["neural-transposed", "order-adr-mse", "order-lambda", "order-own"]
#: Before, LambdaLoss and RankNetLoss were NaN for a list without pairs (the mean of nothing), which is an error here.
NO_PAIRS = pytest.mark.skipif(
    Version(sentence_transformers.__version__) < Version("6.2"), reason="NaN before sentence-transformers 6.2"
)


def parameters(case: str, *others: object) -> Any:
    return pytest.param(case, *others, marks=NO_PAIRS if case in ("order", "order-lambda") else ())


every = pytest.mark.parametrize("case", map(parameters, CASES))
OWN = [name for name in LOSSES if not hasattr(upstream, name)]


def batch(case: str) -> tuple[list[list[Any]], list[Tensor]]:
    return [QUERIES, DOCS], [torch.tensor(row) for row in CASES[case][1]]


def dataset(case: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"query": QUERIES, "docs": DOCS, "labels": CASES[case][1]})


def test_every_class_is_a_case() -> None:
    made = {type(make(_Named())).__name__ for make, _ in CASES.values()}
    assert made == set(OWN)


class _Named(nn.Module):
    """As much of a model as a constructor looks at."""

    num_labels = 1

    def preprocess(self) -> None: ...


@every
def test_a_batch_is_the_mean_of_its_lists(case: str, tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    loss = CASES[case][0](tiny_model)
    (queries, docs), labels = batch(case)
    singles = [loss([[q], [d]], [y]) for q, d, y in zip(queries, docs, labels, strict=True)]
    assert all(each.isfinite() and each.dim() == 0 for each in singles)
    if not case.startswith("order") or case == "order-own":  # losses of sentence-transformers average over pairs
        torch.testing.assert_close(loss([queries, docs], labels), torch.stack(singles).mean())
        loss.reduction = "sum"
        if isinstance(loss, RankingLoss):
            torch.testing.assert_close(loss([queries, docs], labels), torch.stack(singles).sum())


@every
def test_a_loss_falls_apart_into_queries(case: str, tiny_model: CrossEncoder) -> None:
    inputs, labels = batch(case)
    replay = Replay(CASES[case][0](tiny_model), tiny_model, addressed(inputs), labels)
    scores = torch.randn(11, 1, generator=torch.Generator().manual_seed(1), requires_grad=True)
    split = decompose(replay, scores)
    losses = split.losses(replay, scores)
    whole = torch.autograd.grad(replay.value(scores), scores, retain_graph=True)[0]
    parts = torch.autograd.grad((split.weights * losses).sum(), scores)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert whole.abs().max() > 1e-4
    if not case.startswith("order") or case == "order-own":
        assert split.method == "unreduced"
        weights = split.weights[split.weights != 0]  # a list without a signal has none
        torch.testing.assert_close(weights, torch.full_like(weights, 0.25))
        assert len(weights) >= 2


@every
def test_the_losses_are_compared(case: str, tiny_model: CrossEncoder) -> None:
    inputs, labels = batch(case)
    plain = CASES[case][0](tiny_model)
    loss = ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop(p=0.2)], objective=MeanOfSteps())
    loss(inputs, labels).backward()
    reached = [p for p in tiny_model.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(reached) > 20
    steps = [loss.diagnostics[name].item() for name in ("task_loss_full", "task_loss_step_1", "task_loss_step_2")]
    assert all(math.isfinite(step) for step in steps)
    assert len(set(steps)) == 3  # each step has a loss of its own
    # Without ablations it is the loss itself.
    tiny_model.eval()
    torch.testing.assert_close(loss(inputs, labels), plain(inputs, labels))


@pytest.mark.parametrize(
    ("case", "comparative"),
    [
        *(parameters(case, False) for case in CASES if case not in VARIANTS),
        ("softmax", True),
        ("supervised-kl", True),
        parameters("order", True),
    ],
)
def test_both_trainers_train_alike(case: str, comparative: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    moved = []
    for trainer, arguments, options in (
        (CrossEncoderTrainer, CrossEncoderTrainingArguments, {}),
        (RerankerTrainer, RerankerTrainingArguments, {"length_bucketing": False}),
    ):
        model = CrossEncoder(str(tiny_checkpoint), device="cpu").double()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        loss = CASES[case][0](model)
        if comparative:
            loss = ComparativeLoss(model, loss, [CmpCrop(), CmpDrop(p=0.2)])
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        args = arguments(
            output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=1, report_to="none", use_cpu=True,
            save_strategy="no", disable_tqdm=True, learning_rate=0.1, optim="sgd", logging_steps=1, **options,
        )  # fmt: skip
        run = trainer(model=model, args=args, train_dataset=dataset(case), loss=loss)
        run.train()
        assert math.isfinite(run.state.log_history[0]["loss"])
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - before)
    assert moved[0].abs().max() > 1e-5
    assert (moved[0] - moved[1]).abs().max() < 1e-6 * moved[0].abs().max()


def test_the_value_is_that_of_the_function_on_the_scores_of_the_model(tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    inputs, labels = batch("supervised-kl")
    kl = softmax = 0.0
    for query, docs, y in zip(*inputs, labels, strict=True):
        scores = torch.from_numpy(tiny_model.predict([(query, d) for d in docs], activation_fn=nn.Identity()))
        kl += listwise_kl(scores, y[:, 1], temperature=2.0).item() / 4
        softmax += listwise_softmax(scores.sigmoid(), y[:, 0], epsilon=0.5).item() / 4
    loss = SupervisedDistillationLoss(
        tiny_model,
        supervised=ListwiseSoftmaxLoss(tiny_model, epsilon=0.5, activation_fn=nn.Sigmoid()),
        distilled=ListwiseKLLoss(tiny_model, temperature=2.0),
        weight=0.3,
    )
    assert loss(inputs, labels).item() == pytest.approx(kl + 0.3 * softmax, rel=1e-5)


@pytest.mark.parametrize("size", [None, 1, 3, 0, -1])
def test_passes_may_be_of_any_size(size: int | None, tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    seen: list[int] = []
    preprocess = tiny_model.preprocess
    inputs, labels = batch("kl")
    expected = ListwiseKLLoss(tiny_model)(inputs, labels)

    def note(pairs: Any, **kwargs: Any) -> Any:
        seen.append(len(pairs))
        return preprocess(pairs, **kwargs)

    tiny_model.preprocess = note  # type: ignore[method-assign]
    torch.testing.assert_close(ListwiseKLLoss(tiny_model, mini_batch_size=size)(inputs, labels), expected)
    assert seen == {None: [4, 4, 3], 1: [1] * 11, 3: [3, 3, 3, 2], 0: [11], -1: [11]}[size]


def test_a_marked_document_is_as_if_it_were_not_there(tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    loss = ListwiseSoftmaxLoss(tiny_model, ignore_label=-1)
    inputs, labels = batch("softmax")
    labels[0][3] = -1.0
    less = [QUERIES, [DOCS[0][:3], *DOCS[1:]]]
    expected = loss(less, [labels[0][:3], *labels[1:]])
    torch.testing.assert_close(loss(inputs, labels), expected)
    labels[0][3] = 0.0
    assert abs(loss(inputs, labels) - expected) > 1e-4  # the canary: as a negative it counts
    labels[0][3] = -1.0
    comparative = ComparativeLoss(tiny_model.train(), loss, [CmpCrop()])
    assert comparative(inputs, labels).isfinite()


def test_columns_are_a_list_whose_first_is_positive(tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    columns = [QUERIES, PASSAGES, OTHERS, OTHERS[::-1]]
    lists = [list(row) for row in zip(*columns[1:], strict=True)]
    for name in OWN:
        cls = loss_class(name)
        if cls.by_position:  # type: ignore[attr-defined]
            loss = cls(tiny_model)
            ones = [torch.tensor([1.0, 0.0, 0.0])] * 4
            torch.testing.assert_close(loss(columns, None), loss([QUERIES, lists], ones))


def test_prompts_reach_the_model(tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    inputs, labels = batch("kl")
    order = [labels_of_ranks(torch.tensor(row)) + 1 for row in RANKS]
    for loss, each in ((ListwiseKLLoss(tiny_model), labels), (TeacherOrderLoss(tiny_model), order)):
        plain, prompted = loss(inputs, each), loss(inputs, each, prompt="bears: ", task=None)
        assert abs(plain - prompted) > 1e-5


def test_relations_to_losses_of_sentence_transformers(tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    inputs, labels = batch("kl")

    def gradient(loss: nn.Module, *args: Any) -> Tensor:
        found = torch.autograd.grad(loss(*args), list(tiny_model.parameters()), allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None])

    # ListNet is the divergence plus the teacher's entropy, which has no gradient.
    mine, theirs = (gradient(cls(tiny_model), inputs, labels) for cls in (ListwiseKLLoss, upstream.ListNetLoss))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert mine.abs().max() > 1e-3
    triplets = [QUERIES, PASSAGES, OTHERS]
    scores = torch.tensor([[3.0, 1.0], [0.0, 4.0], [2.0, 2.0], [-5.0, 1.0]])
    torch.testing.assert_close(
        ListwiseMarginMSELoss(tiny_model)(triplets, scores), upstream.MarginMSELoss(tiny_model)(triplets, scores)
    )


def test_a_rank_is_a_label_turned_round(tiny_model: CrossEncoder) -> None:
    """What Rank-DistiLLM does: RankNet on the order. Other labels of the same order give the same."""
    tiny_model.eval()
    inputs, ranks = batch("order")
    expected = upstream.RankNetLoss(tiny_model)(inputs, [-rank.float() for rank in ranks])
    torch.testing.assert_close(TeacherOrderLoss(tiny_model)(inputs, ranks), expected)
    assert abs(upstream.RankNetLoss(tiny_model)(inputs, [rank.float() for rank in ranks]) - expected) > 1e-3
    unranked = [rank.float() for rank in ranks]
    unranked[0][1] = math.nan
    less = [QUERIES, [[DOCS[0][0], *DOCS[0][2:]], *DOCS[1:]]]
    torch.testing.assert_close(
        TeacherOrderLoss(tiny_model, ignore_label=math.nan)(inputs, unranked),
        TeacherOrderLoss(tiny_model)(less, [ranks[0][[0, 2, 3]], *ranks[1:]]),
    )
    reciprocal = TeacherOrderLoss(tiny_model, upstream.LambdaLoss(tiny_model), labels="reciprocal")
    expected = upstream.LambdaLoss(tiny_model)(inputs, [1 / rank for rank in ranks])
    torch.testing.assert_close(reciprocal(inputs, ranks), expected)


@pytest.mark.parametrize("case", [name for name in CASES if name != "order-own"])
def test_what_a_loss_is_made_of_is_in_its_configuration(case: str, tiny_model: CrossEncoder) -> None:
    loss = CASES[case][0](tiny_model)
    config = loss.get_config_dict()
    options = {name: value for name, value in config.items() if name != "activation_fn"}
    again = type(loss)(tiny_model, **options)
    assert again.get_config_dict() == config
    assert "model" not in config
    changed = {"temperature": 0.7, "margin": 0.5, "normalize": False, "epsilon": 0.25, "weight": 3.0} | {
        "label_smoothing": 0.2
    }
    known = {name: value for name, value in changed.items() if name in config}
    assert (
        type(loss)(tiny_model, **options | known).get_config_dict() == config | known
    )  # each option gets where it belongs


def test_the_model_card_names_the_loss_and_its_source(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    args = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    loss = SupervisedDistillationLoss(tiny_model, weight=0.5)
    CrossEncoderTrainer(model=tiny_model, args=args, train_dataset=dataset("supervised-kl"), loss=loss).train()
    tiny_model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "cmp_rerank.ranking_losses.distillation.SupervisedDistillationLoss" in card
    assert '"supervised": "ListwiseSoftmaxLoss(epsilon=0.0' in card
    assert "ren2021rocketqav2" in card


def test_every_loss_has_a_source() -> None:
    for name in OWN:
        citation = loss_class(name).citation  # type: ignore[attr-defined]
        assert citation.strip().startswith("@")
        assert citation.count("{") == citation.count("}")


def test_losses_have_names() -> None:
    theirs = {name for name in upstream.__all__ if name.endswith("Loss")}
    public = {name for name in cmp_rerank.losses.__all__ if name.endswith("Loss")}
    assert set(LOSSES) == theirs | public - {"RankingLoss", "ComparativeLoss"}
    assert not theirs & public
    for name in theirs:
        assert loss_class(name) is getattr(upstream, name)
    for name in OWN:
        assert loss_class(name) is getattr(cmp_rerank.losses, name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("LambdaLos", "did you mean 'LambdaLoss'"), ("x", "choose one of ADRMSELoss, "), (None, "choose one of")],
)
def test_an_unknown_name_is_refused(name: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=f"there is no loss {name!r}; {hint}"):
        loss_class(name)
