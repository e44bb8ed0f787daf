"""ComparativeLoss against a slow loop: one pair, one step, one forward pass at a time."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from slow_loop import gradients, same_gradients, slow_score
from tiny_models import OTHERS, PASSAGES, QUERIES, bert_config, byte_bpe, cross_encoder, modernbert_config
from torch import Tensor, nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.ablations import Plan
from cmp_rerank.losses.comparative import relevance
from cmp_rerank.losses.replay import addressed
from cmp_rerank.models.pairs import tokenise
from cmp_rerank.version import package_version

BINARY = torch.tensor([1.0, 0.0, 1.0, 1.0])
LISTS = [[a, b] for a, b in zip(PASSAGES, OTHERS, strict=True)]
LIST_LABELS = [torch.tensor([1.0, 0.0])] * 4


def slow_hinges(losses: list[Tensor], baseline: Tensor) -> Tensor:
    values = [*losses, baseline]
    pairs = [(i, j) for i in range(len(values)) for j in range(i + 1, len(values))]
    return sum(torch.clamp(values[i] - values[j], min=0) for i, j in pairs) / len(pairs)  # type: ignore[return-value]


def slow_loss(
    model: CrossEncoder,
    pairs: list[list[tuple[str, str]]],
    relevant: list[list[bool]],
    plan: Plan,
    draw: str,
    task: Any,
) -> Tensor:
    """The mean over examples of the compared losses; ``task(i, scores)`` is the task loss of example i."""
    total = torch.zeros(())
    for i, own in enumerate(pairs):
        examples = [
            tokenise(model, [pair], plan, relevant=[r], draw=draw)[0]
            for pair, r in zip(own, relevant[i], strict=True)
        ]
        views = [plan.views(example) for example in examples]
        (drop,) = plan.on_model
        assert isinstance(drop, CmpDrop)
        losses = [
            task(i, torch.cat([slow_score(model, drop, e, v[k]) for e, v in zip(examples, views, strict=True)]))
            for k in range(1 + len(plan))
        ]
        total = total + slow_hinges(losses, torch.zeros(()))
    return total / len(pairs)


@pytest.fixture(params=["bert", "modernbert"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> CrossEncoder:
    made = {
        "bert": lambda: cross_encoder(tmp_path, bert_config),
        "modernbert": lambda: cross_encoder(tmp_path, modernbert_config, byte_bpe),
    }
    return made[request.param]().double().train()


@pytest.mark.parametrize("plan", [[CmpCrop(), CmpDrop(p=0.2)], [CmpDrop(p=0.2, steps=2)], [CmpCrop(2), CmpDrop(0.1)]])
def test_pointwise_equals_the_slow_loop(plan: list[Any], model: CrossEncoder) -> None:
    loss = ComparativeLoss(model, upstream.BinaryCrossEntropyLoss(model), plan)
    value = loss([QUERIES, PASSAGES], BINARY)
    value.backward()
    fast = gradients(model)
    model.zero_grad()

    def task(i: int, scores: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(scores[0], BINARY[i].double())

    pairs = [[pair] for pair in zip(QUERIES, PASSAGES, strict=True)]
    expected = slow_loss(model, pairs, [[True], [False], [True], [True]], Plan(plan), "0 (0, 0)", task)
    expected.backward()
    torch.testing.assert_close(value.detach(), expected.detach().to(value.dtype), rtol=1e-6, atol=1e-7)
    same_gradients(fast, gradients(model), rtol=1e-5, atol=1e-7)


def test_listwise_equals_the_slow_loop(model: CrossEncoder) -> None:
    loss = ComparativeLoss(model, upstream.ListNetLoss(model), [CmpCrop(), CmpDrop(p=0.2)], tokens_per_chunk=64)
    value = loss([QUERIES, LISTS], LIST_LABELS)
    value.backward()
    fast = gradients(model)
    model.zero_grad()

    def task(i: int, scores: Tensor) -> Tensor:
        return -(LIST_LABELS[i].softmax(0) * scores.float().log_softmax(0)).sum()

    pairs = [[(q, d) for d in ds] for q, ds in zip(QUERIES, LISTS, strict=True)]
    expected = slow_loss(model, pairs, [[True, False]] * 4, loss.plan, "0 (0, 0)", task)
    expected.backward()
    torch.testing.assert_close(value.detach().float(), expected.detach(), rtol=1e-5, atol=1e-6)
    same_gradients(fast, gradients(model), rtol=1e-3, atol=1e-5)  # ListNet computes in float32


def test_margin_loss_equals_the_slow_loop(model: CrossEncoder) -> None:
    margins = torch.tensor([2.0, 1.0, 0.0, -1.0])
    loss = ComparativeLoss(model, upstream.MarginMSELoss(model), [CmpCrop(), CmpDrop(p=0.2)])
    value = loss([QUERIES, PASSAGES, OTHERS], margins)
    pairs = [[(q, d), (q, n)] for q, d, n in zip(QUERIES, PASSAGES, OTHERS, strict=True)]
    expected = slow_loss(
        model, pairs, [[True, False]] * 4, loss.plan, "0 (0, 0)", lambda i, s: (s[0] - s[1] - margins[i]) ** 2
    )
    torch.testing.assert_close(value.detach(), expected.detach().to(value.dtype), rtol=1e-6, atol=1e-7)


def test_without_ablations_it_is_the_wrapped_loss(tiny_model: CrossEncoder) -> None:
    """In value, gradient and consumed randomness: the model's own dropout is on and draws the same."""
    tiny_model.train()
    for name, batch in {
        "BinaryCrossEntropyLoss": ([QUERIES, PASSAGES], BINARY),
        "ListNetLoss": ([QUERIES, LISTS], LIST_LABELS),
        "MultipleNegativesRankingLoss": ([QUERIES, PASSAGES], None),
        "CachedMultipleNegativesRankingLoss": ([QUERIES, PASSAGES], None),
    }.items():
        plain = getattr(upstream, name)(tiny_model)
        results = []
        for loss in (plain, ComparativeLoss(tiny_model, plain, [])):
            tiny_model.zero_grad()
            torch.manual_seed(7)
            value = loss(*batch)
            value.backward()
            results.append((value.detach(), gradients(tiny_model), torch.rand(1)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][2], results[1][2])
        same_gradients(results[1][1], results[0][1], rtol=0, atol=0)


def test_evaluation_is_the_wrapped_loss(tiny_model: CrossEncoder) -> None:
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    loss = ComparativeLoss(tiny_model, plain, [CmpDrop()])
    tiny_model.eval()
    with torch.no_grad():
        assert torch.equal(loss([QUERIES, PASSAGES], BINARY), plain([QUERIES, PASSAGES], BINARY))
    assert loss.diagnostics == {}
    tiny_model.train()
    loss([QUERIES, PASSAGES], BINARY)
    assert loss.diagnostics != {}  # the canary: in training it does something else


def test_the_full_model_runs_without_dropout_and_the_steps_differ(tiny_model: CrossEncoder) -> None:
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    loss = ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop(p=0.3, steps=2)])
    tiny_model.eval()
    expected = plain([QUERIES, PASSAGES], BINARY).detach()
    tiny_model.train()
    loss([QUERIES, PASSAGES], BINARY)
    steps = [v.item() for k, v in loss.diagnostics.items() if k.startswith("task_loss")]
    assert steps[0] == pytest.approx(expected.item(), rel=1e-5)
    assert len(set(steps)) == 4
    assert list(loss.diagnostics) == [
        "task_loss_full",
        "task_loss_step_1",
        "task_loss_step_2",
        "task_loss_step_3",
        "violation_rate",
        "beaten_rate",
        "zero_weight_rate",
    ]
    assert 0 <= loss.diagnostics["violation_rate"] <= 1


def test_crop_alone_keeps_the_models_own_dropout(tiny_model: CrossEncoder) -> None:
    """Only CmpDrop disables the dropout of the model; training with crops alone is not training without dropout."""
    tiny_model.train()
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop()], seed=1)
    values = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        loss.comparison.drawn = (-1, 0)  # the same views
        values.add(loss([QUERIES, PASSAGES], BINARY).item())
    assert len(values) == 2


def test_repeated_views_are_scored_once(tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model.train()
    seen: list[int] = []
    forward = CrossEncoder.forward
    monkeypatch.setattr(
        CrossEncoder, "forward", lambda self, x, **kw: (seen.append(len(x["input_ids"])), forward(self, x, **kw))[1]
    )
    one_sentence = ["Pandas eat bamboo"] * 4
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    # "auto" would run one more row, to see how much memory it takes.
    loss = ComparativeLoss(tiny_model, plain, [CmpCrop(steps=3), CmpDrop()], strategy="stacked")
    loss([QUERIES, one_sentence], BINARY)
    assert sum(seen) == 2 * 2 + 4 * 2  # two passes of two rows find the sites; then each pair in full and dropped


def test_an_examples_loss_does_not_depend_on_its_batch(tiny_model: CrossEncoder) -> None:
    """The same views on any row of any process: whole batch against its two halves."""
    tiny_model.train()

    def value(rows: slice) -> Tensor:
        loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop(), CmpDrop(p=0.3)])
        return loss([QUERIES[rows], PASSAGES[rows]], BINARY[rows])  # type: ignore[no-any-return]

    whole = value(slice(0, 4))
    torch.testing.assert_close(whole, (value(slice(0, 2)) + value(slice(2, 4))) / 2)
    torch.testing.assert_close(whole, (value(slice(0, 1)) + 3 * value(slice(1, 4))) / 4)


def test_views_change_from_step_to_step_and_with_the_seed(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)

    def values(seed: int) -> list[float]:
        loss = ComparativeLoss(tiny_model, plain, [CmpDrop(p=0.3)], seed=seed)
        return [loss([QUERIES, PASSAGES], BINARY).item() for _ in range(3)]

    first = values(0)
    assert len(set(first)) == 3
    assert values(0) == first
    assert not set(values(1)) & set(first)


class Picture:
    """Everything about a model that an ablation could leave changed."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {
            name: (
                module.training,
                type(module).forward,
                vars(module).get("forward"),
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
                {k: v for k, v in vars(module).items() if isinstance(v, (float, int, bool, str))},
            )
            for name, module in model.named_modules()
        }
        self.state = {k: v.clone() for k, v in model.state_dict().items()}
        config = getattr(model[0].model, "config", None)  # type: ignore[index]
        self.config = copy.deepcopy(config.to_dict()) if config else None
        self.random = torch.get_rng_state()

    def check(self, model: nn.Module) -> None:
        other = Picture(model)
        assert other.values == self.values
        assert other.config == self.config
        assert all(torch.equal(other.state[k], v) for k, v in self.state.items())
        assert torch.equal(other.random, self.random)


def test_everything_is_put_back(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    tiny_model[0].model.bert.encoder.layer[1].eval()  # a mixed state, to be kept
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop(), CmpDrop()])
    before = Picture(tiny_model)
    loss([QUERIES, PASSAGES], BINARY).backward()
    before.check(tiny_model)
    assert loss.loss.model is tiny_model


def test_everything_is_put_back_when_the_forward_raises(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop(), CmpDrop()])
    loss([QUERIES, PASSAGES], BINARY)  # the sites are known now

    def explode(*_: Any) -> None:
        raise RuntimeError("out of memory")

    hook = tiny_model[0].model.bert.encoder.layer[2].register_forward_hook(explode)
    before = Picture(tiny_model)
    with pytest.raises(RuntimeError, match="out of memory"):
        loss([QUERIES, PASSAGES], BINARY)
    before.check(tiny_model)
    hook.remove()
    loss([QUERIES, PASSAGES], BINARY)


def test_the_picture_sees_a_change(tiny_model: CrossEncoder) -> None:
    """The canary of the two tests above."""
    for change in (
        lambda m: setattr(m[0].model.bert.encoder.layer[0].attention.output.dropout, "p", 0.0),
        lambda m: m[0].model.bert.encoder.layer[0].register_forward_hook(lambda *_: None),
        lambda m: m[0].model.bert.pooler.eval(),
        lambda m: torch.rand(1),
    ):
        tiny_model.train()
        before = Picture(tiny_model)
        change(tiny_model)
        with pytest.raises(AssertionError):
            before.check(tiny_model)


@pytest.mark.parametrize(
    ("name", "options", "batch"),
    [
        ("CrossEntropyLoss", {}, ([QUERIES, PASSAGES], torch.tensor([0, 1, 2, 1]))),
        ("MultipleNegativesRankingLoss", {"num_negatives": 2}, ([QUERIES, PASSAGES, OTHERS], None)),
        ("CachedMultipleNegativesRankingLoss", {}, ([QUERIES, PASSAGES], None)),
        ("LambdaLoss", {}, ([QUERIES, LISTS], LIST_LABELS)),
    ],
)
def test_multi_class_and_in_batch_losses_train(name: str, options: dict, batch: Any, tmp_path: Path) -> None:
    """Steps of an optimizer lower the wrapped loss, of the full model and of the ablated one."""
    torch.manual_seed(0)
    model = cross_encoder(tmp_path, bert_config, num_labels=3 if name == "CrossEntropyLoss" else 1)
    plain = getattr(upstream, name)(model, **options)
    loss = ComparativeLoss(model, plain, [CmpCrop(), CmpDrop(p=0.3)])

    def values() -> list[float]:
        """Of one draw of views and negatives, the wrapped loss at every step."""
        torch.manual_seed(0)
        random.seed(0)
        loss.comparison.drawn = (-1, 0)
        model.train()
        with torch.no_grad():
            loss(*batch)
        return [loss.diagnostics[f"task_loss_{step}"].item() for step in ("full", "step_1", "step_2")]

    before = values()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(30):  # twenty steps or so are enough
        for _ in range(10):
            optimizer.zero_grad()
            loss(*batch).backward()
            optimizer.step()
        after = values()
        if after[0] < 0.5 * before[0] and after[2] < before[2]:
            break
    assert after[0] < 0.5 * before[0]
    assert after[2] < before[2]


def test_full_baseline_leaves_an_ordered_example_alone(tiny_model: CrossEncoder) -> None:
    """Its full model has weight 0: only the ablated step is pulled; out of order, both are pulled together."""
    tiny_model.double().train()
    drop = CmpDrop(p=0.5)
    ordered = 0
    plain = upstream.MSELoss(tiny_model)
    pairs = [(query, passage) for query in QUERIES for passage in PASSAGES]
    for query, passage in pairs:
        label = torch.tensor(1.0 if passage == PASSAGES[QUERIES.index(query)] else 0.0)
        loss = ComparativeLoss(tiny_model, plain, [drop], baseline="full", reduction="sum")
        value = loss([[query], [passage]], label[None])
        value.backward()
        found = gradients(tiny_model)
        tiny_model.zero_grad()
        (example,) = tokenise(tiny_model, [(query, passage)], loss.plan, draw="0 (0, 0)")
        full, step = (
            (slow_score(tiny_model, drop, example, view)[0] - label) ** 2 for view in loss.plan.views(example)
        )
        (step if full <= step else full - step).backward()
        # max(0, l0 - l1) + max(0, l0 - b) + max(0, l1 - b) with b = l0
        assert value.item() == pytest.approx(abs(full - step).item(), rel=1e-6)
        same_gradients(found, gradients(tiny_model), rtol=1e-6, atol=1e-8)
        tiny_model.zero_grad()
        ordered += int(full <= step)
    assert 0 < ordered < len(pairs)  # the canary: both kinds are there


def test_relevance_by_label_and_by_column() -> None:
    def pairs(columns: list[list[Any]], *addresses: tuple[int, int, int]) -> Any:
        texts = {
            (c, r, -1): t for c, column in enumerate(columns) for r, t in enumerate(column) if isinstance(t, str)
        }
        texts |= {t.address: t for column in columns for ts in column if isinstance(ts, list) for t in ts}
        return [(columns[0][0 if q is None else q], texts[c, r, j]) for q, c, r, j in addresses]

    two = addressed([["q0", "q1"], ["a", "b"]])
    where = [(0, 1, 0, -1), (1, 1, 1, -1)]
    assert relevance(pairs(two, *where), two, torch.tensor([0.0, 0.3])) == [False, True]
    assert relevance(pairs(two, *where), two, torch.tensor([-3.0, 0.3])) == [True, True]  # a teacher's logits
    assert relevance(pairs(two, *where, (0, 1, 1, -1)), two, None) == [True, True, False]  # in-batch negative
    three = addressed([["q0"], ["a"], ["b"]])
    assert relevance(pairs(three, (0, 1, 0, -1), (0, 2, 0, -1)), three, torch.tensor([1.5])) == [True, False]
    columns = addressed([["q0", "q1"], ["a", "c"], ["b", "d"]])
    places = pairs(columns, (0, 1, 0, -1), (0, 2, 0, -1), (1, 1, 1, -1), (1, 2, 1, -1))
    for labels, relevant in (
        ([[0.0, 1.0], [2.0, 0.0]], [False, True, True, False]),
        ([[0.0, 0.0], [1.0, 1.0]], [False, False, True, True]),
        ([[0.5, -1.0], [2.0, 1.0]], [True, False, True, False]),  # a teacher's scores: the first column
        ([[3.0], [2.0]], [True, False, True, False]),  # margins
    ):
        for given in (torch.tensor(labels), [torch.tensor(row) for row in labels]):
            assert relevance(places, columns, given) == relevant
    assert relevance(places, columns, torch.tensor([[[0.0, 9.0], [1.0, -9.0]]] * 2)) == [False, True] * 2
    lists = addressed([["q0", "q1"], [["a", "b"], ["c"]]])
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    assert relevance(pairs(lists, (0, 1, 0, 0), (0, 1, 0, 1), (1, 1, 1, 0)), lists, labels) == [False, True, True]
    marked = [torch.tensor([-1, 2]), torch.tensor([0])]  # a label of -1 that the loss leaves out
    assert relevance(pairs(lists, (0, 1, 0, 1), (1, 1, 1, 0)), lists, marked) == [True, False]
    with_teacher = [torch.tensor([[0.0, -7.0], [2.0, 3.0]]), torch.tensor([[1.0, -2.0]])]  # grades and scores
    assert relevance(pairs(lists, (0, 1, 0, 0), (0, 1, 0, 1), (1, 1, 1, 0)), lists, with_teacher) == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "none"}, "baseline"),
        ({"reduction": "max"}, "reduction"),
        ({"ablations": ["crop"]}, "ablations must be Ablation objects such as CmpDrop\\(\\); got 'crop'"),
        ({"ablations": [CmpDrop(0.1), CmpDrop(0.2)]}, "must have the same settings"),
        ({"loss": "bce"}, "loss must be a loss object"),
        ({"tokens_per_chunk": 0}, "tokens_per_chunk must be a whole number, at least 1; got 0"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str, tiny_model: CrossEncoder) -> None:
    options = {"loss": upstream.BinaryCrossEntropyLoss(tiny_model), "ablations": [CmpDrop()]} | change
    with pytest.raises(ValueError, match=message):
        ComparativeLoss(tiny_model, **options)


def test_bad_models_and_batches(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    tiny_model.train()
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    two_labels = cross_encoder(tmp_path, bert_config, num_labels=2)
    with pytest.raises(ValueError, match="model with 1 output label"):
        ComparativeLoss(two_labels, upstream.BinaryCrossEntropyLoss(two_labels), [CmpDrop()])
    with pytest.raises(ValueError, match="built on another model"):
        ComparativeLoss(two_labels, plain, [CmpDrop()])
    with pytest.raises(ValueError, match="ComparativeLoss already"):
        ComparativeLoss(tiny_model, ComparativeLoss(tiny_model, plain, [CmpDrop()]), [CmpCrop()])
    with pytest.raises(ValueError, match="steps must be a whole number, at least 1; got 0"):
        CmpCrop(steps=0)
    with pytest.raises(ValueError, match="steps must be a whole number, at least 1; got 0"):
        CmpDrop(steps=0)
    loss = ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop()])
    with pytest.raises(ValueError, match="The batch is empty"):
        loss([[], []], torch.tensor([]))
    with pytest.raises(ValueError, match="column 1, row 2 is empty"):
        loss([QUERIES, [*PASSAGES[:2], " ", PASSAGES[3]]], BINARY)
    with pytest.raises(ValueError, match="Got 3 labels for 4 rows"):
        loss([QUERIES, PASSAGES], BINARY[:3])
    with pytest.raises(ValueError, match="two non-label columns"):
        loss([QUERIES, PASSAGES, OTHERS], BINARY)


@pytest.mark.parametrize("wrong", [2.0, -0.5, float("nan")])
def test_labels_that_binary_cross_entropy_has_no_minimum_for(wrong: float, tiny_model: CrossEncoder) -> None:
    class Scaled(upstream.BinaryCrossEntropyLoss):
        def forward(self, inputs: Any, labels: Tensor, **options: Any) -> Tensor:
            return super().forward(inputs, (labels / 4).nan_to_num().clamp(0, 1), **options)

    labels, batch = torch.tensor([1.0, 0.5, wrong, 0.0]), [QUERIES, PASSAGES]
    binary, own, squares = (
        ComparativeLoss(tiny_model.train(), made(tiny_model), [CmpCrop()])
        for made in (upstream.BinaryCrossEntropyLoss, Scaled, upstream.MSELoss)
    )
    with pytest.raises(ValueError, match=f"BinaryCrossEntropyLoss needs labels from 0 to 1; got {wrong:g}; divide"):
        binary(batch, labels)
    assert binary(batch, labels.nan_to_num().clamp(0, 1)).isfinite()
    assert own(batch, labels).isfinite()
    assert squares(batch, labels.nan_to_num()).isfinite()


def test_texts_of_any_script_and_length(tiny_model: CrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    tiny_model.train()
    texts = [
        "熊猫吃竹子。它们住在中国。",
        "الدب يحب العسل. العسل حلو.",
        "мёд " * 3000,
        "🐼🐼",
        "a\x00b",
        "\u202eabc.",
        "x! " * 2000,
    ]
    loss = ComparativeLoss(tiny_model, upstream.MSELoss(tiny_model), [CmpCrop(), CmpDrop()])
    batch = (["q"] * len(texts), texts), torch.ones(len(texts))
    with caplog.at_level(logging.WARNING, logger="cmp_rerank"):
        for _ in range(3):
            assert torch.isfinite(loss(*batch))
    assert loss.truncation.cut == 3 * 2
    assert loss.truncation.passages == 3 * len(texts)
    reports = [r for r in caplog.records if "passages were truncated" in r.getMessage()]
    assert len(reports) == 1


def test_copies_after_training_have_their_own_model(tiny_model: CrossEncoder) -> None:
    """Copied by `copy` and by `pickle`, as in a search for hyperparameters."""
    loss = ComparativeLoss(tiny_model.train(), upstream.BinaryCrossEntropyLoss(tiny_model), [CmpCrop(), CmpDrop()])
    loss([QUERIES, PASSAGES], BINARY)
    copies = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]
    value = loss([QUERIES, PASSAGES], BINARY)  # other views than before
    for other in copies:
        assert other.model is other.loss.model is not tiny_model
        torch.testing.assert_close(other([QUERIES, PASSAGES], BINARY), value)
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter.zero_()
        assert other([QUERIES, PASSAGES], BINARY) != value
    assert any(parameter.any() for parameter in tiny_model.parameters())


def test_config_and_citation(tiny_model: CrossEncoder) -> None:
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    config = ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop(p=0.2)], baseline=0.5, seed=3).get_config_dict()
    assert config["ablations"] == "[CmpCrop(), CmpDrop(p=0.2)]"
    assert config["loss"].endswith("BinaryCrossEntropyLoss")
    assert config["cmp_rerank"] == package_version()
    assert (config["objective"], config["seed"]) == ("PairwiseHinge(baseline=0.5, reduction='mean')", 3)
    assert "2301.03765" in ComparativeLoss(tiny_model, plain, []).citation
