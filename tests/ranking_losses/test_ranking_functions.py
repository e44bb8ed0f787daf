"""The pure functions: oracles, gradients, invariances, limits, degenerate lists and half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import slow_rankings as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmp_rerank.ranking_losses.circle import circle
from cmp_rerank.ranking_losses.distillation import listwise_kl
from cmp_rerank.ranking_losses.labels import smooth_labels
from cmp_rerank.ranking_losses.margin import listwise_margin_mse, margin_hinge
from cmp_rerank.ranking_losses.ndcg import approx_ndcg, neural_ndcg, neural_sort
from cmp_rerank.ranking_losses.pairwise_softmax import pairwise_softmax
from cmp_rerank.ranking_losses.ranknet import weighted_ranknet
from cmp_rerank.ranking_losses.softmax import listwise_softmax, localized_contrastive

GRADED: list[tuple[Callable[..., Tensor], list[dict[str, Any]]]] = [
    (
        listwise_softmax,
        [{}, {"epsilon": 1.5}, {"normalize": True}, {"label_smoothing": 0.2, "normalize": True, "epsilon": 0.5}],
    ),
    (localized_contrastive, [{}, {"label_smoothing": 0.3}]),
    (
        approx_ndcg,
        [{}, {"temperature": 1.0}, {"temperature": 0.7, "gain": "linear"}, {"label_smoothing": 0.4}],
    ),
    (
        neural_ndcg,
        [
            {},
            {"transposed": True, "iterations": 2},
            {"k": 2, "temperature": 2.0},
            {"gain": "linear", "iterations": 1},
            {"iterations": 0, "label_smoothing": 0.3, "k": 1},
        ],
    ),
    (
        pairwise_softmax,
        [
            {"temperature": 1.0},
            {"surrogate": "exp", "temperature": 0.5},
            {"surrogate": "atan"},
            {"surrogate": "relu", "temperature": 0.4},
        ],
    ),
    (circle, [{}, {"margin": 0.4, "scale": 3.0}]),
]
ORDERED: list[tuple[Callable[..., Tensor], list[dict[str, Any]]]] = [
    (weighted_ranknet, [{}, {"normalize": True}]),
    (margin_hinge, [{}, {"margin": 2.5}]),
    (listwise_margin_mse, [{}, {"normalize": True}]),
    (listwise_kl, [{}, {"temperature": 3.0}]),
]
CASES = {
    "-".join([function.__name__, *(f"{k}={v}" for k, v in options.items())]): (function, options, graded)
    for cases, graded in ((GRADED, True), (ORDERED, False))
    for function, choices in cases
    for options in choices
}
every = pytest.mark.parametrize("case", CASES)
few = settings(max_examples=25, deadline=None)

List = tuple[list[float], list[float]]


def lists(graded: bool, spread: float = 3.0) -> st.SearchStrategy[list[List]]:
    """Batches of ragged lists, with ties in scores and labels, and lists without a positive."""
    scores = st.one_of(st.floats(-spread, spread), st.sampled_from([0.0, 1.0]))
    label = st.sampled_from([0.0, 0.0, 1.0, 2.0, 0.5]) if graded else st.sampled_from([-2.5, -1.0, 0.0, 1.0, 3.25])
    one = st.integers(2, 6).flatmap(
        lambda n: st.tuples(st.lists(scores, min_size=n, max_size=n), st.lists(label, min_size=n, max_size=n))
    )
    return st.lists(one, min_size=1, max_size=3)


def batch(rows: list[List], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Padded with numbers that would show."""
    longest = max(len(s) for s, _ in rows)
    scores = torch.full((len(rows), longest), 7.5, dtype=dtype)
    labels = torch.full((len(rows), longest), 3.0, dtype=dtype)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (s, y) in enumerate(rows):
        scores[i, : len(s)] = torch.tensor(s, dtype=dtype)
        labels[i, : len(s)] = torch.tensor(y, dtype=dtype)
        mask[i, : len(s)] = True
    return scores, labels, mask


def at(case: str) -> tuple[Callable[..., Tensor], Callable[..., float], bool]:
    function, options, graded = CASES[case]
    return partial(function, **options), partial(getattr(slow, function.__name__), **options), graded


def sample(graded: bool, n: int = 5, count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores without ties, labels with ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, n, generator=generator, dtype=torch.float64) * 2 - 0.5
    labels = torch.tensor([[2.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0, 0.0], [1.0, 0.5, 0.0, 2.0, 1.0]])
    return scores, labels.double()[:count, :n] - (0 if graded else 1)


@every
def test_a_slow_loop_gives_the_same(case: str) -> None:
    fast, loop, graded = at(case)

    @few
    @given(lists(graded))
    def check(rows: list[List]) -> None:
        expected = [loop(s, y) for s, y in rows]
        torch.testing.assert_close(fast(*batch(rows)).tolist(), expected, rtol=1e-9, atol=1e-9)

    check()


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("circle")])  # see below
def test_the_gradient_is_that_of_the_value(case: str) -> None:
    fast, _, graded = at(case)
    scores, labels = sample(graded)
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[1, 3:] = False
    labels[1, 0] = 1.0
    assert torch.autograd.gradcheck(lambda s: fast(s, labels, mask), (scores.requires_grad_(),))
    gradient = torch.autograd.grad(fast(scores, labels, mask).sum(), scores)[0]
    assert gradient.abs().amax(dim=1).min() > 1e-4  # the comparison is not one of zeros
    assert gradient[~mask].abs().max() == 0


@pytest.mark.parametrize("options", [{}, {"margin": 0.4, "scale": 3.0}])
def test_the_gradient_of_the_circle_loss_is_that_for_fixed_weights(options: dict[str, Any]) -> None:
    scores, labels = sample(graded=True)
    scores.requires_grad_()
    gradient = torch.autograd.grad(circle(scores, labels, **options).sum(), scores)[0]
    for row, (s, y) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        weights = slow.circle_weights(s, y, options.get("margin", 0.25))
        for j in range(len(s)):
            values = []
            for step in (1e-6, -1e-6):
                moved = [each + step * (i == j) for i, each in enumerate(s)]
                values.append(slow.circle(moved, y, **options, weights=weights))
            assert gradient[row, j].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)
    assert gradient.abs().amax(dim=1).min() > 1e-3


@every
def test_invariances(case: str) -> None:
    fast, _, graded = at(case)

    @few
    @given(lists(graded), st.floats(-5, 5), st.randoms(use_true_random=False))
    def check(rows: list[List], shift: float, random: Any) -> None:
        scores, labels, mask = batch(rows)
        losses = fast(scores, labels, mask)
        if not case.startswith("neural_ndcg"):  # see below
            assert (losses >= -1e-9).all()
        order = list(range(scores.shape[1]))
        random.shuffle(order)  # padding may stand anywhere
        torch.testing.assert_close(fast(scores[:, order], labels[:, order], mask[:, order]), losses)
        wide = [torch.nn.functional.pad(x, (0, 2), value=v) for x, v in ((scores, torch.nan), (labels, -9.0))]
        torch.testing.assert_close(fast(*wide, torch.nn.functional.pad(mask, (0, 2))), losses)
        for row, loss in zip(rows, losses, strict=True):
            torch.testing.assert_close(fast(*batch([row]))[0], loss)
        if not case.startswith("circle"):
            torch.testing.assert_close(fast(scores + shift, labels, mask), losses, rtol=1e-6, atol=1e-8)

    check()


@every
def test_lists_without_a_signal_have_no_loss_and_no_gradient(case: str) -> None:
    fast, _, graded = at(case)
    scores = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    if "margin_mse" in case or "kl" in case:  # a teacher without a preference is a signal: all scores shall be equal
        scores = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = fast(scores, torch.zeros(1, 3))
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.abs().max() < 1e-12
    assert graded or loss.item() == pytest.approx(fast(scores, torch.full((1, 3), -4.0)).item(), abs=1e-12)


@every
def test_values_and_gradients_stay_finite(case: str) -> None:
    fast = at(case)[0]
    # A difference of -1 is where the surrogate "relu" begins.
    all_scores = [[0.0, 0.0], [1.0, 0.0], [1e4, -1e4], [-1e4, 1e4], [60000.0, 60000.0], [3e5, -3e5]]
    all_labels = [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 1e-3], [100.0, 300.0]]
    for scores, labels, padding in product(all_scores, all_labels, (0, 2)):
        s = torch.tensor([scores + [0.0] * padding], requires_grad=True)
        y = torch.tensor([labels + [0.0] * padding])
        loss = fast(s, y, torch.tensor([[True, True] + [False] * padding]))
        (gradient,) = torch.autograd.grad(loss.sum(), s)
        assert loss.isfinite().all(), (scores, labels)
        assert gradient.isfinite().all(), (scores, labels)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(case: str, dtype: torch.dtype) -> None:
    fast, _, graded = at(case)
    scores, labels = sample(graded)
    half, labels = scores.to(dtype), labels.float()
    expected = fast(half.float(), labels)
    torch.testing.assert_close(fast(half, labels), expected, rtol=0, atol=0)
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fast(half.float(), labels), expected, rtol=1e-6, atol=1e-7)
    assert fast(half / half.abs().max() * 6e4, labels).isfinite().all()  # 65,504 is the largest float16


def test_autocast_would_show() -> None:
    """The canary: a matrix product does run in half precision there."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("function", [neural_ndcg, partial(neural_ndcg, transposed=True), approx_ndcg])
@pytest.mark.parametrize("gain", ["exponential", "linear"])
def test_smooth_ndcg_tends_to_ndcg_as_the_temperature_falls(function: Any, gain: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        scores = torch.randperm(7, generator=generator).double()
        labels = torch.randint(0, 4, (7,), generator=generator).double()
        exact = slow.one_minus_ndcg(scores.tolist(), labels.tolist(), gain)
        gaps = [
            abs(function(scores, labels, temperature=temperature, gain=gain).item() - exact)
            for temperature in (3.0, 0.3, 0.03)
        ]
        assert gaps[2] < 1e-9
        assert gaps[2] <= gaps[0] + 1e-12
        assert not labels.any() or gaps[0] > 1e-6  # a smooth form that is not smooth would pass the rest


@pytest.mark.parametrize("k", [1, 3, 9])
def test_neural_ndcg_shares_places_among_equal_scores(k: int) -> None:
    scores = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    labels = torch.tensor([0.0, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    exact = slow.one_minus_ndcg(scores.tolist(), labels.tolist(), "exponential", k)
    for transposed in (False, True):
        loss = neural_ndcg(scores, labels, temperature=1e-3, k=k, transposed=transposed)
        assert loss.item() == pytest.approx(exact, abs=1e-9)


def test_both_forms_of_neural_ndcg_agree_once_the_scaling_is_done() -> None:
    scores, labels = sample(graded=True)
    gaps = [
        (
            neural_ndcg(scores, labels, iterations=n, temperature=2.0)
            - neural_ndcg(scores, labels, iterations=n, temperature=2.0, transposed=True)
        )
        .abs()
        .max()
        .item()
        for n in (1, 3, 200)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[0] > 1e-4
    assert gaps[2] < 1e-9


@few
@given(lists(graded=True), st.floats(0.05, 5.0))
def test_a_relaxed_sort_is_row_stochastic_and_picks_the_right_document(rows: list[List], temperature: float) -> None:
    scores, _, mask = batch(rows)
    matrix = neural_sort(scores, mask, temperature=temperature).exp()
    torch.testing.assert_close(matrix.sum(dim=-1), torch.ones_like(scores))
    for row, (s, _) in zip(matrix, rows, strict=True):
        n = len(s)
        assert row[:n, n:].abs().sum() == 0
        assert torch.equal(row[n:, n:], torch.eye(scores.shape[1] - n, dtype=scores.dtype))
        best = row[0, :n]
        assert best[max(range(n), key=s.__getitem__)].item() == pytest.approx(best.max().item())


@few
@given(lists(graded=True), st.floats(0.01, 10.0))
def test_smooth_ndcg_lies_between_0_and_1(rows: list[List], temperature: float) -> None:
    """Of NeuralNDCG once the scaling is done: before, places or documents may count more than once."""
    for function in (approx_ndcg, partial(neural_ndcg, iterations=200)):
        losses = function(*batch(rows), temperature=temperature)
        assert (losses >= -1e-6).all()
        assert (losses <= 1).all()


def test_published_values() -> None:
    """The values in the documentation of Rax and in the tests of allRank."""
    scores, labels = (
        torch.tensor([[2.0, 1.0, 3.0], [1.0, 0.5, 1.5]]),
        torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    softmax = listwise_softmax(scores, labels, normalize=True)
    torch.testing.assert_close(softmax, torch.tensor([1.4076059, 0.68026966]))
    assert listwise_softmax(scores, labels, mask).mean().item() == pytest.approx(0.49676564)
    torch.testing.assert_close(2 * margin_hinge(scores, labels), torch.tensor([2.0, 0.5]))  # theirs sums both pairs
    leaf = torch.tensor([[0.0, 1.0, 3.0], [1.0, 2.0, 0.0]], requires_grad=True)
    loss = listwise_softmax(leaf, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).mean()
    (gradient,) = torch.autograd.grad(loss, leaf)
    expected = [[0.02100503, 0.0570976, -0.07810265], [-0.37763578, 0.33262047, 0.04501529]]
    torch.testing.assert_close(gradient, torch.tensor(expected))
    tied = torch.tensor([[0.5, 0.3, 0.5]])
    assert 1 - approx_ndcg(tied, tied, temperature=1.0).item() == pytest.approx(0.8499219417)


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith("iterations=1")])  # see `neural_ndcg`
def test_a_descent_finds_the_right_order(case: str) -> None:
    """Whatever else is right, the sign must be."""
    fast, _, graded = at(case)
    labels = torch.tensor([0.0, 3.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    if case == "neural_ndcg-iterations=0-label_smoothing=0.3-k=1":
        labels = torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # only the first place counts there
    scores = torch.tensor([0.6, 0.2, 0.25, 0.4, 0.3], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.03)
    first = fast(scores, labels).item()
    for _ in range(150):
        optimizer.zero_grad()
        fast(scores, labels).backward()
        optimizer.step()
    assert fast(scores, labels).item() < first
    positive, negative = scores[labels > 0].min(), scores[labels == 0].max()
    assert positive > negative
    if not graded or ("ndcg" in case and "k=" not in case):
        assert torch.equal(scores.argsort(descending=True)[:3], labels.argsort(descending=True)[:3])


def test_relations_between_the_losses() -> None:
    scores, labels = sample(graded=True)
    one = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    torch.testing.assert_close(localized_contrastive(scores, one), listwise_softmax(scores, one))
    torch.testing.assert_close(
        pairwise_softmax(scores, labels, surrogate="exp", temperature=1.0), localized_contrastive(scores, labels)
    )
    # The divergence is the cross-entropy less the teacher's entropy.
    teacher = labels.softmax(dim=-1)
    entropy = -(teacher * teacher.log()).sum(dim=-1)
    torch.testing.assert_close(listwise_kl(scores, labels), listwise_softmax(scores, teacher) - entropy)


def test_the_divergence_tends_to_half_the_variance_of_the_errors() -> None:
    scores, labels = sample(graded=False)
    limit = (scores - labels).var(dim=-1, correction=0) / 2
    torch.testing.assert_close(listwise_kl(scores, labels, temperature=1e4), limit, rtol=1e-3, atol=0)
    assert (listwise_kl(scores, labels) - limit).abs().min() > 1e-3
    torch.testing.assert_close(listwise_kl(labels + 5, labels), torch.zeros(3, dtype=torch.float64))


def test_only_the_order_of_labels_counts_where_the_docs_say_so() -> None:
    scores, labels = sample(graded=False)
    for function in (weighted_ranknet, margin_hinge):
        torch.testing.assert_close(function(scores, labels), function(scores, (labels * 7).exp()))
        assert (function(scores, labels) - function(scores, -labels)).abs().min() > 1e-3


def test_normalised_margins_do_not_depend_on_the_scale_of_the_teacher() -> None:
    scores, labels = sample(graded=False)
    torch.testing.assert_close(
        listwise_margin_mse(scores, labels, normalize=True),
        listwise_margin_mse(scores, 50 * labels + 3, normalize=True),
    )
    assert (listwise_margin_mse(scores, labels) - listwise_margin_mse(scores, 50 * labels)).abs().min() > 1


def test_surrogates_weigh_a_negative_far_above_less_than_the_softmax_does() -> None:
    """What PSL is for: a false negative pulls less."""
    labels = torch.tensor([1.0, 0.0, 0.0])
    pulls = {}
    for surrogate in ("exp", "tanh", "atan", "relu"):
        scores = torch.tensor([0.0, 0.9, 0.1], requires_grad=True)
        loss = pairwise_softmax(scores, labels, surrogate=surrogate, temperature=0.2)
        (gradient,) = torch.autograd.grad(loss, scores)
        pulls[surrogate] = (gradient[1] / gradient[2]).item()
    assert pulls["exp"] > pulls["relu"] > pulls["atan"] > pulls["tanh"] > 1


@given(lists(graded=True), st.floats(0, 1))
@few
def test_smoothing_keeps_the_sum_of_a_list(rows: list[List], smoothing: float) -> None:
    _, labels, mask = batch(rows)
    smooth = smooth_labels(labels, mask, smoothing)
    torch.testing.assert_close(smooth.sum(dim=1), labels.masked_fill(~mask, 0).sum(dim=1))
    assert smooth[~mask].abs().sum() == 0
    assert smooth_labels(labels, mask, 1.0)[0, : len(rows[0][0])].unique().numel() == 1
