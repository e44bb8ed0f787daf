"""Whether a loss, taken apart into examples and put together again, is still the same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES, bert_config, cross_encoder
from torch import Tensor, nn
from transformers import PreTrainedModel

from cmp_rerank.losses.decompose import decompose
from cmp_rerank.losses.replay import Replay, addressed

PAIRS = [QUERIES, PASSAGES]
TRIPLETS = [QUERIES, PASSAGES, OTHERS]
# Lists of different lengths, one of them of a single passage and one with equal labels.
LISTS = [QUERIES, [[a, b] for a, b in zip(PASSAGES, OTHERS, strict=True)]]
RAGGED = [
    QUERIES,
    [[PASSAGES[0], OTHERS[0], OTHERS[1]], [PASSAGES[1]], [OTHERS[2], PASSAGES[2]], [OTHERS[3], OTHERS[2]]],
]
LIST_LABELS = [torch.tensor([1.0, 0.0])] * 4
RAGGED_LABELS = [
    torch.tensor([2.0, 0.0, 1.0]),
    torch.tensor([1.0]),
    torch.tensor([0.0, 1.0]),
    torch.tensor([0.0, 0.0]),
]
BINARY = torch.tensor([1.0, 0.0, 1.0, 1.0])

# Every cross-encoder loss of sentence-transformers 6, with the options that change how it reduces.
CASES: dict[str, tuple[str, dict[str, Any], list[list[Any]], Any]] = {
    "bce": ("BinaryCrossEntropyLoss", {}, PAIRS, BINARY),
    "bce-soft-weighted": (
        "BinaryCrossEntropyLoss",
        {"pos_weight": torch.tensor(4.0)},
        PAIRS,
        torch.tensor([0.9, 0.2, 0.4, 1.0]),
    ),
    "bce-sum": ("BinaryCrossEntropyLoss", {"reduction": "sum"}, PAIRS, BINARY),
    "mse": ("MSELoss", {}, PAIRS, torch.tensor([3.0, -2.0, 0.5, 0.0])),
    "margin-mse": ("MarginMSELoss", {}, TRIPLETS, torch.tensor([2.0, 1.0, 0.0, -1.0])),
    "margin-mse-two": ("MarginMSELoss", {}, [*TRIPLETS, PASSAGES[::-1]], [torch.tensor([2.0, 1.0])] * 4),
    "listnet": ("ListNetLoss", {}, RAGGED, RAGGED_LABELS),
    "listmle": ("ListMLELoss", {}, RAGGED, RAGGED_LABELS),
    "listmle-sorted": ("ListMLELoss", {"respect_input_order": False}, RAGGED, RAGGED_LABELS),
    "plistmle": ("PListMLELoss", {"mini_batch_size": 3}, RAGGED, RAGGED_LABELS),
    "lambda": ("LambdaLoss", {}, RAGGED, RAGGED_LABELS),
    "lambda-top-2": ("LambdaLoss", {"k": 2}, RAGGED, RAGGED_LABELS),
    "lambda-ndcg-1": ("LambdaLoss", {"weighting_scheme": upstream.NDCGLoss1Scheme()}, RAGGED, RAGGED_LABELS),
    "ranknet": ("RankNetLoss", {"mini_batch_size": 2}, RAGGED, RAGGED_LABELS),
    "adr-mse": ("ADRMSELoss", {}, RAGGED, RAGGED_LABELS),
    "in-batch": ("MultipleNegativesRankingLoss", {"num_negatives": 2}, PAIRS, None),
    "in-batch-hard": ("MultipleNegativesRankingLoss", {"num_negatives": None}, TRIPLETS, None),
    "cached-in-batch": ("CachedMultipleNegativesRankingLoss", {"mini_batch_size": 3}, TRIPLETS, None),
}


class Scoreless(nn.Module):
    """A model that is never asked for a score: a stand-in is."""

    num_labels = 1
    device = torch.device("cpu")


def replay_of(model: CrossEncoder, loss: nn.Module, columns: list[list[Any]], labels: Any) -> Replay:
    torch.manual_seed(1)
    return Replay(loss, model, addressed(columns), labels)


def random_scores(replay: Replay, labels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(len(replay.recording.pairs), labels, generator=generator, requires_grad=True)


@pytest.mark.parametrize("case", CASES)
def test_examples_add_up_to_the_gradient_of_the_loss(case: str, tiny_model: CrossEncoder) -> None:
    name, options, columns, labels = CASES[case]
    replay = replay_of(tiny_model, getattr(upstream, name)(tiny_model, **options), columns, labels)
    scores = random_scores(replay)
    split = decompose(replay, scores)
    whole = torch.autograd.grad(replay.value(scores), scores)[0]
    losses = split.losses(replay, scores)
    parts = torch.autograd.grad((split.weights * losses).sum(), scores)[0]
    assert losses.shape == (4,)
    assert whole.abs().max() > 1e-4  # the comparison is not one of zeros
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_an_example_depends_on_its_own_scores_alone(case: str, tiny_model: CrossEncoder) -> None:
    name, options, columns, labels = CASES[case]
    replay = replay_of(tiny_model, getattr(upstream, name)(tiny_model, **options), columns, labels)
    scores = random_scores(replay)
    losses = decompose(replay, scores).losses(replay, scores)
    reached = 0
    for i, loss in enumerate(losses):
        gradient = torch.autograd.grad(loss, scores, retain_graph=True)[0] if loss.requires_grad else scores * 0
        assert gradient[replay.owner != i].abs().max() == 0
        reached += int(gradient[replay.owner == i].abs().max() > 0)
    assert reached >= 2  # a list of one passage, or of equal labels, may have nothing to learn


@pytest.mark.parametrize("case", ["bce", "mse", "margin-mse", "listnet", "listmle", "plistmle", "in-batch-hard"])
def test_the_mean_over_examples_is_the_batch_value(case: str, tiny_model: CrossEncoder) -> None:
    name, options, columns, labels = CASES[case]
    replay = replay_of(tiny_model, getattr(upstream, name)(tiny_model, **options), columns, labels)
    scores = random_scores(replay)
    losses = decompose(replay, scores).losses(replay, scores)
    torch.testing.assert_close(losses.mean(), replay.value(scores))


LIST_LOSSES: dict[str, Any] = {
    "listnet": upstream.ListNetLoss,
    "listmle": upstream.ListMLELoss,
    "plistmle": upstream.PListMLELoss,
    "ranknet": upstream.RankNetLoss,
    "lambda": upstream.LambdaLoss,
    "lambda-ndcg-1": lambda m: upstream.LambdaLoss(m, weighting_scheme=upstream.NDCGLoss1Scheme()),
    "lambda-ndcg-2": lambda m: upstream.LambdaLoss(m, weighting_scheme=upstream.NDCGLoss2Scheme()),
    "adr-mse": upstream.ADRMSELoss,
}
GRADES = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4).filter(any)


@pytest.mark.parametrize("name", LIST_LOSSES)
@settings(max_examples=15, deadline=None)
@given(grades=GRADES, seed=st.integers(0, 3))
@example(grades=[[0], [0]], seed=0)
def test_weighted_losses_are_the_batch_value(name: str, grades: list[list[int]], seed: int) -> None:
    """Whatever lists a batch has: empty ones, single documents, equal grades, constant losses."""
    queries = [f"query {i}" for i in range(len(grades))]
    lists = [[f"document {i} {j}" for j in range(len(each))] for i, each in enumerate(grades)]
    labels = [torch.tensor(each, dtype=torch.float32) for each in grades]
    replay = replay_of(Scoreless(), LIST_LOSSES[name](Scoreless()), [queries, lists], labels)  # type: ignore[arg-type]
    scores = torch.randn(len(replay.owner), 1, generator=torch.Generator().manual_seed(seed))
    split = decompose(replay, scores)
    found = split.weights @ split.losses(replay, scores)
    expected = replay.value(scores)
    if expected.isnan() and not any(len(set(each)) > 1 for each in grades) and not name.startswith(("adr", "list")):
        expected = torch.zeros(())  # a mean over no pair, before sentence-transformers 6.2
    if expected.isnan():  # ListNet, of a list without documents; the mean counts it
        kept = [i for i, each in enumerate(grades) if each]
        alone = replay_of(
            replay.model,
            replay.loss,
            [[queries[i] for i in kept], [lists[i] for i in kept]],
            [labels[i] for i in kept],
        )
        expected = alone.value(scores) * len(kept) / len(grades)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert all(weight == 0 for weight, each in zip(split.weights.tolist(), grades, strict=True) if not each)


def test_weights_are_shares_of_what_the_loss_averages_over(tiny_model: CrossEncoder) -> None:
    """RankNet averages over comparable pairs: of the ragged batch, 3, 0, 1 and 0 of them."""
    name, options, columns, labels = CASES["ranknet"]
    replay = replay_of(tiny_model, getattr(upstream, name)(tiny_model, **options), columns, labels)
    split = decompose(replay, random_scores(replay))
    torch.testing.assert_close(split.weights.detach(), torch.tensor([0.75, 0.0, 0.25, 0.0]))
    assert split.method == "one by one"


def test_class_weights_show_in_the_weights(tmp_path: Any) -> None:
    model = cross_encoder(tmp_path, bert_config, num_labels=3)
    loss = upstream.CrossEntropyLoss(model, weight=torch.tensor([1.0, 2.0, 5.0]))
    replay = replay_of(model, loss, PAIRS, torch.tensor([0, 1, 2, 2]))
    scores = random_scores(replay, labels=3)
    split = decompose(replay, scores)
    torch.testing.assert_close(split.weights.detach(), torch.full((4,), 1 / 13.0))  # 1 + 2 + 5 + 5
    torch.testing.assert_close((split.weights * split.losses(replay, scores)).sum(), replay.value(scores))


def test_a_saturated_example_keeps_its_weight(tiny_model: CrossEncoder) -> None:
    """In float32 the gradient of a very easy example is 0; its weight is still that of the others."""
    replay = replay_of(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), PAIRS, BINARY)
    scores = torch.tensor([[0.3], [-0.2], [200.0], [0.1]])
    torch.testing.assert_close(decompose(replay, scores).weights, torch.full((4,), 0.25))


def test_a_replay_is_the_real_run(tiny_model: CrossEncoder) -> None:
    """Serving the model's own scores gives the loss that the loss computes itself, random negatives included."""
    for case in ("bce", "in-batch", "lambda"):
        name, options, columns, labels = CASES[case]
        loss = getattr(upstream, name)(tiny_model, **options)
        torch.manual_seed(1)
        expected = loss(columns, labels)
        replay = replay_of(tiny_model, loss, columns, labels)
        features = tiny_model.preprocess([tuple(pair) for pair in replay.recording.pairs])
        torch.testing.assert_close(replay.value(tiny_model(features)["scores"]), expected, rtol=1e-5, atol=1e-6)


def test_random_negatives_differ_between_recordings_and_not_within_one(tiny_model: CrossEncoder) -> None:
    """The canary: the loss really draws at random, so that equal pairs within a recording mean something."""
    loss = upstream.MultipleNegativesRankingLoss(tiny_model, num_negatives=1)
    torch.manual_seed(0)
    columns = addressed(PAIRS)
    recordings = [Replay(loss, tiny_model, columns, None) for _ in range(6)]
    drawn = {tuple((q.address, d.address) for q, d in r.recording.pairs) for r in recordings}
    assert len(drawn) > 1
    for replay in recordings:
        replay.value(random_scores(replay))  # raises if the pairs were others


def test_the_random_state_goes_on_as_if_the_loss_had_run_once(tiny_model: CrossEncoder) -> None:
    loss = upstream.MultipleNegativesRankingLoss(tiny_model, num_negatives=1)
    torch.manual_seed(3)
    loss(PAIRS, None)
    expected = torch.rand(3)
    torch.manual_seed(3)
    replay = Replay(loss, tiny_model, addressed(PAIRS), None)
    scores = random_scores(replay)
    decompose(replay, scores).losses(replay, scores)
    assert torch.equal(torch.rand(3), expected)


def test_the_model_and_the_reduction_are_put_back(tiny_model: CrossEncoder) -> None:
    loss = upstream.BinaryCrossEntropyLoss(tiny_model)
    replay = Replay(loss, tiny_model, addressed(PAIRS), BINARY)
    decompose(replay, random_scores(replay))
    assert loss.model is tiny_model
    assert loss.bce_with_logits_loss.reduction == "mean"
    with pytest.raises(ValueError, match="Got 3 labels for 4 rows"):
        Replay(loss, tiny_model, addressed(PAIRS), BINARY[:3])
    assert loss.model is tiny_model


class _Custom(nn.Module):
    """A loss of a user's own, of any function of (scores of pairs, labels)."""

    def __init__(self, model: CrossEncoder, reduce: Any) -> None:
        super().__init__()
        self.model = model
        self.reduce = reduce

    def forward(self, inputs: list[list[str]], labels: Tensor) -> Tensor:
        features = self.model.preprocess(list(zip(*inputs, strict=True)))
        return self.reduce(self.model(features)["scores"].view(-1), labels)  # type: ignore[no-any-return]


def test_a_custom_loss_that_averages_is_taken_apart(tiny_model: CrossEncoder) -> None:
    loss = _Custom(tiny_model, lambda s, y: ((s - y) ** 4).mean())
    replay = replay_of(tiny_model, loss, PAIRS, BINARY)
    scores = random_scores(replay)
    split = decompose(replay, scores)
    torch.testing.assert_close(split.weights.detach(), torch.full((4,), 0.25))
    torch.testing.assert_close(split.losses(replay, scores), ((scores - BINARY[:, None]) ** 4).view(-1))


class _OfTheModel(_Custom):
    """A loss that has to do with the model itself, beside its scores."""

    def forward(self, inputs: list[list[str]], labels: Tensor) -> Tensor:
        decay = sum(p.square().sum() for p in self.model.parameters())
        mode = 7.0 if self.model.training else 0.0
        layers = len(self.model[0].model.base_model.encoder.layer) if isinstance(self.model, CrossEncoder) else 0
        return super().forward(inputs, labels) + 0.1 * decay + mode + layers


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_finds_its_model_in_what_stands_in_for_it(training: bool, tiny_model: CrossEncoder) -> None:
    """Without the decay of its parameters, as of no parameters, a loss would be another one, unnoticed."""
    tiny_model.double().train(training)
    for module in tiny_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    loss = _OfTheModel(tiny_model, lambda s, y: ((s - y) ** 2).mean())
    calls: list[Any] = []
    replay = replay_of(tiny_model, loss, PAIRS, BINARY)
    scores = tiny_model(tiny_model.preprocess(list(zip(*PAIRS, strict=True))))["scores"]
    handle = tiny_model.register_forward_hook(lambda *_: calls.append("forward"))
    value = replay.value(scores)
    assert not calls  # the model itself was not run
    handle.remove()
    expected = loss(PAIRS, BINARY)
    torch.testing.assert_close(value, expected)
    parameters = [p for p in tiny_model.parameters() if p.requires_grad]
    for found, wanted in zip(
        *(torch.autograd.grad(each, parameters, allow_unused=True) for each in (value, expected)), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(decompose(replay, scores).weights, torch.full((4,), 0.25).double())


def test_a_teacher_in_a_loss_is_left_alone(tiny_model: CrossEncoder, tiny_checkpoint: Path) -> None:
    class Taught(_Custom):
        def __init__(self) -> None:
            super().__init__(tiny_model, nn.functional.mse_loss)
            self.teacher = CrossEncoder(str(tiny_checkpoint), device="cpu").eval()

        def forward(self, inputs: list[list[str]], labels: Any = None) -> Tensor:
            pairs = list(zip(*inputs, strict=True))
            with torch.no_grad():
                taught = self.teacher(self.teacher.preprocess(pairs))["scores"].view(-1)
            return super().forward(inputs, taught)

    loss = Taught()
    replay = replay_of(tiny_model, loss, PAIRS, None)
    scores = random_scores(replay)
    teacher = loss.teacher(loss.teacher.preprocess(list(zip(*PAIRS, strict=True))))["scores"].detach()
    torch.testing.assert_close(replay.value(scores), ((scores - teacher) ** 2).mean())
    assert isinstance(loss.teacher[0].model, PreTrainedModel)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda s, y: ((s - y).mean()) ** 2,  # a function of the mean
        lambda s, y: ((s[:, None] - s[None, :] - (y[:, None] - y[None, :])) ** 2).mean(),  # pairs across queries
        lambda s, y: torch.logsumexp(s, 0) - (s * y).sum(),  # a softmax over the batch
        lambda s, y: ((s - y) ** 2).sum().sqrt(),
    ],
)
def test_a_loss_that_does_not_decompose_is_refused(reduce: Any, tiny_model: CrossEncoder) -> None:
    replay = replay_of(tiny_model, _Custom(tiny_model, reduce), PAIRS, BINARY)
    with pytest.raises(ValueError, match=r"_Custom does not decompose.*sum or mean over examples"):
        decompose(replay, random_scores(replay))


def test_a_loss_that_chooses_pairs_by_score_is_refused(tiny_model: CrossEncoder) -> None:
    class Hardest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model

        def forward(self, inputs: list[list[str]], labels: Tensor) -> Tensor:
            queries, passages = inputs
            first = self.model(self.model.preprocess(list(zip(queries, passages, strict=True))))["scores"]
            pair = (queries[int(first.argmax())], passages[int(first.argmin())])
            return first.mean() + self.model(self.model.preprocess([pair]))["scores"].mean()

    replay = replay_of(tiny_model, Hardest(), PAIRS, BINARY)
    with pytest.raises(ValueError, match="chooses the pairs that it scores by their scores"):
        replay.value(random_scores(replay))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], "The batch is empty"),
        ([[], []], "The batch is empty"),
        ([["a", "b"], ["c"]], r"one row per example; got \[2, 1\]"),
        ([["a"], [7]], "got int in column 1 .*, row 0"),
        ([["a"], [["b", None]]], "got NoneType in column 1 .*, row 0"),
        ([["a", "b"], ["c", "  \n"]], "The passage in column 1, row 1 is empty"),
        ([["a"], [["b", ""]]], "The passage in column 1, row 0 is empty"),
    ],
)
def test_bad_columns(columns: list[list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        addressed(columns)


def test_a_loss_that_changes_its_texts_is_refused(tiny_model: CrossEncoder) -> None:
    class Shouting(_Custom):
        def forward(self, inputs: list[list[str]], labels: Tensor) -> Tensor:
            return super().forward([[text.upper() for text in column] for column in inputs], labels)

    with pytest.raises(ValueError, match="Shouting changes its texts"):
        replay_of(tiny_model, Shouting(tiny_model, lambda s, y: (s - y).mean()), PAIRS, BINARY)
