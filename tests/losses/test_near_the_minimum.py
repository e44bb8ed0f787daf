"""Losses near their minimum: where a student begins as a copy of its teacher, gradients are no more than rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor, nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, ranking_losses
from cmp_rerank.losses.decompose import _spread, decompose
from cmp_rerank.losses.replay import Replay, addressed
from cmp_rerank.ranking_losses.distillation import listwise_kl

LISTS = [
    [PASSAGES[0], OTHERS[0], OTHERS[1]],
    [PASSAGES[1], OTHERS[3]],
    [OTHERS[2], PASSAGES[2]],
    [*OTHERS, *PASSAGES],
]
SIZES = [len(each) for each in LISTS]


class Scoreless(nn.Module):
    """A model that is never asked for a score: a stand-in is."""

    num_labels = 1
    device = torch.device("cpu")


Reduce = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class OfLists(nn.Module):
    """A user's own loss of the scores and labels of all lists; it has no criterion to unreduce."""

    def __init__(self, reduce: Reduce) -> None:
        super().__init__()
        self.model = Scoreless()
        self.reduce = reduce

    def forward(self, inputs: list[list[Any]], labels: list[Tensor]) -> Tensor:
        pairs = [(query, text) for query, texts in zip(*inputs, strict=True) for text in texts]
        scores = self.model.forward(self.model.preprocess(pairs))["scores"].view(-1)  # type: ignore[operator]
        return self.reduce(scores.split([len(texts) for texts in inputs[1]]), labels)


def kl(scores: Tensor, labels: Tensor) -> Tensor:
    """Divergence from a teacher, with the padding that a batch of several lists has."""
    width = 8
    padded = [torch.cat([x, x.new_zeros(width - len(x))])[None] for x in (scores, labels)]
    return listwise_kl(*padded, mask=(torch.arange(width) < len(scores))[None])[0]


def kls(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """The divergence of each list."""
    return torch.stack([kl(own, label) for own, label in zip(scores, labels, strict=True)])


def decomposed(loss: nn.Module, scores: Tensor, labels: list[Tensor]) -> Any:
    replay = Replay(loss, Scoreless(), addressed([QUERIES, LISTS]), labels)  # type: ignore[arg-type]
    return decompose(replay, scores)


def some_scores(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(sum(SIZES), 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["ListwiseKLLoss", "MSELoss", "MarginMSELoss"])
def test_a_student_that_is_its_teacher_trains(name: str, tiny_model: CrossEncoder) -> None:
    model, logits = tiny_model.eval(), {"activation_fn": nn.Identity()}
    listed = [[(query, text) for text in texts] for query, texts in zip(QUERIES, LISTS, strict=True)]
    columns, labels = [QUERIES, LISTS], [torch.tensor(model.predict(each, **logits)) for each in listed]
    if name == "MSELoss":
        columns, labels = (
            [QUERIES, PASSAGES],
            torch.tensor(model.predict(list(zip(QUERIES, PASSAGES, strict=True)), **logits)),
        )
    if name == "MarginMSELoss":
        first, second = (
            model.predict(list(zip(QUERIES, texts, strict=True)), **logits) for texts in (PASSAGES, OTHERS)
        )
        columns, labels = [QUERIES, PASSAGES, OTHERS], torch.tensor(first - second)
    loss = getattr(ranking_losses, name, None) or getattr(upstream, name)
    compared = ComparativeLoss(model.train(), loss(model), [CmpCrop(), CmpDrop(p=0.3)])
    value = compared(columns, labels)
    value.backward()
    assert value.item() > 0  # the ablated copies are not the teacher
    assert compared.diagnostics["task_loss_full"].item() == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.01, 1.0, 10.0]),
    offset=st.sampled_from([0.0, 5.0]),
    distance=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 1.0]),
    copied=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_each_list_has_its_share(seed: int, scale: float, offset: float, distance: float, copied: list[bool]) -> None:
    """Lists with the teacher's scores, nearly or exactly, among others that are far from them."""
    scores = some_scores(seed, scale) + offset
    near, far = scores + distance * some_scores(seed + 1, scale), some_scores(seed + 2, scale)
    teachers = zip(near.view(-1).split(SIZES), far.view(-1).split(SIZES), copied, strict=True)
    split = decomposed(OfLists(lambda s, y: kls(s, y).mean()), scores, [a if copy else b for a, b, copy in teachers])
    torch.testing.assert_close(split.weights, torch.full((4,), 0.25), rtol=2e-3, atol=0)


WRONG: dict[str, Reduce] = {
    "root": lambda s, y: (1e-20 + kls(s, y).sum().relu()).sqrt(),
    "square": lambda s, y: kls(s, y).sum() ** 2,
    "one softmax for all": lambda s, y: listwise_kl(torch.cat([*s])[None], torch.cat([*y])[None])[0],
    "scaled over the batch": lambda s, y: kls([own * torch.cat([*s]).std() for own in s], y).sum(),
}


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-5, 0.0])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_decomposition_is_refused_however_small_its_gradients(
    wrong: str, distance: float, scale: float
) -> None:
    scores = some_scores(0)
    labels = list((scores + distance * some_scores(1)).view(-1).split(SIZES))
    with pytest.raises(ValueError, match="does not decompose into losses of single examples"):
        decomposed(OfLists(lambda s, y: scale * WRONG[wrong](s, y)), scores, labels)
    # The canary: the same divergences, added up.
    added = decomposed(OfLists(lambda s, y: scale * kls(s, y).sum()), scores, labels)
    torch.testing.assert_close(added.weights, torch.ones(4), rtol=2e-3, atol=0)


def likelihood(scores: Tensor, _: Tensor) -> Tensor:
    """That of the order given, as ListMLELoss has it before sentence-transformers 6.2: 0 for a single document,
    and its gradient too, but for rounding."""
    return (torch.log(scores.exp().flip(0).cumsum(0).flip(0) + 1e-10) - scores).sum()


SINGLE = [texts[:1] for texts in LISTS]


@pytest.mark.parametrize("offset", [0.0, -7.0, -9.0])  # at -9 the epsilon has a gradient, ten times its rounding
@pytest.mark.parametrize("seed", range(6))
def test_a_batch_with_a_constant_loss_is_not_refused(seed: int, offset: float) -> None:
    loss = OfLists(lambda s, y: torch.stack([likelihood(*each) for each in zip(s, y, strict=True)]).mean())
    replay = Replay(loss, Scoreless(), addressed([QUERIES, SINGLE]), [torch.zeros(1)] * 4)  # type: ignore[arg-type]
    scores = some_scores(seed)[:4] + offset
    split = decompose(replay, scores)
    torch.testing.assert_close(
        split.weights @ split.losses(replay, scores), replay.value(scores), rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("name", ["square of the sum", "softmax at a low temperature", "steps"])
def test_a_wrong_decomposition_of_single_documents_is_refused(name: str, scale: float) -> None:
    wrong: dict[str, Callable[[Tensor], Tensor]] = {
        "square of the sum": lambda s: s.sum() ** 2,
        "softmax at a low temperature": lambda s: -(100 * s).log_softmax(0).sum(),
        "steps": lambda s: (s.max() - s).clamp(min=0.1).sum(),  # kinks are no rounding
    }
    loss = OfLists(lambda s, _: scale * wrong[name](torch.cat([*s])))
    replay = Replay(loss, Scoreless(), addressed([QUERIES, SINGLE]), [torch.zeros(1)] * 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not decompose into losses of single examples"):
        decompose(replay, some_scores(0)[:4])


def test_spread_scores_keep_their_order() -> None:
    scores = torch.tensor([[3.0, 1e-9], [-2.0, 200.0], [0.0, -1e-9]])
    spread = _spread(scores)
    assert spread.shape == scores.shape
    assert torch.equal(spread.flatten().argsort(), scores.flatten().argsort())
    gaps = spread.flatten().sort().values.diff()
    assert 0.01 < gaps.min() < gaps.max() < 5
    assert torch.equal(spread, _spread(scores))
