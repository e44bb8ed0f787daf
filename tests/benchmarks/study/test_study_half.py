"""The study in bfloat16: near what it is in 32 bits while models train, and 32 bits where they are measured."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.study import __main__ as command
from benchmarks.study import bert, measuring, starts, steps, together, training, workers
from benchmarks.study.arms import ARMS
from benchmarks.study.cells import Cell
from benchmarks.study.starts import make_start
from benchmarks.study.tasks import TASKS, prepare
from cmp_rerank.hooks.masks import Rows, unit_keys

HALF = replace(TASKS["smoke"], exact=(), sizes={16: 2})
CELLS = [Cell("smoke", 16, "compared, c=2", 1e-3, seed, "test") for seed in range(2)]


@pytest.fixture(scope="module")
def cache(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    prepare("smoke", folder, folder)
    make_start(TASKS["smoke"], folder, str(tiny_checkpoint), layers=2, trainer=False)
    return folder


def trained(cache: Path, half: bool) -> tuple[bert.Models, list[dict[str, list[float]]]]:
    data = [together.examples_of(cell, cache) for cell in CELLS]
    model = together._opened("smoke", cache)
    return steps.train(model, replace(HALF, exact=() if half else (16,)), ARMS["compared, c=2"], data, CELLS, 2)


def test_a_training_is_near_that_in_32_bits_and_not_the_same(cache: Path) -> None:
    start = bert.Models(together._opened("smoke", cache), 1).weights
    exact, log = trained(cache, half=False)
    found, other = trained(cache, half=True)
    steps_of = torch.cat([(exact.weights[of] - start[of]).flatten(1) for of in start], dim=1)
    errors = torch.cat([(found.weights[of] - exact.weights[of]).flatten(1) for of in start], dim=1)
    assert (errors.norm(dim=1) > 0).all()
    # Where a gradient is near zero its sign decides a step of AdamW, so that single weights go another way.
    assert (errors.norm(dim=1) < 0.35 * steps_of.norm(dim=1)).all()
    for own, others in zip(log, other, strict=True):
        assert own["loss"] == pytest.approx(others["loss"], rel=0.05)


def test_losses_are_compared_more_finely_than_bfloat16_counts(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is in 32 bits: scores of eight bits would often say that two passes are alike."""
    seen = []
    scores = bert.Models.scores

    def watched(self: bert.Models, *args: object, **kwargs: object) -> torch.Tensor:
        found = scores(self, *args, **kwargs)  # type: ignore[arg-type]
        seen.append((self.half, found.detach()))
        return found

    monkeypatch.setattr(bert.Models, "scores", watched)
    trained(cache, half=True)
    assert seen
    for half, found in seen:
        assert half
        assert found.dtype == torch.float32
        assert (found != found.bfloat16().float()).any()


def test_models_are_measured_in_32_bits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, _ = trained(cache, half=True)
    tokens = together.asked("smoke", "test", cache)
    exact = models.all_scores(tokens)
    with bert.products(models, "high", half=True):
        rough = models.all_scores(tokens)
        assert rough == pytest.approx(exact, abs=0.02 * float(np.abs(exact).max()))
        assert (rough != exact).any()
        seen = []
        monkeypatch.setattr(measuring, "values_of", lambda scores, *_: seen.append(scores))
        measuring.measure(models, tokens, HALF)
    assert np.array_equal(np.stack(seen), exact)
    assert not models.half


def test_values_are_the_same_if_most_scores_are_in_bfloat16(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, _ = trained(cache, half=True)
    tokens = together.asked("smoke", "test", cache)
    wanted = measuring.measure(models, tokens, HALF)
    monkeypatch.setattr(measuring, "SAMPLE", 2)
    monkeypatch.setattr(measuring, "has_bfloat16", lambda: True)  # as on a processor that has it
    scores = measuring.ordering_scores(models, tokens)
    assert (scores != models.all_scores(tokens)).any()
    assert measuring.measure(models, tokens, HALF) == wanted
    assert not models.half


def test_a_task_in_bfloat16_is_not_given_to_a_trainer(
    cache: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "smoke", HALF)
    monkeypatch.setattr(workers, "run_cell", lambda *_: pytest.fail("by its trainer"))
    monkeypatch.setattr(starts, "fit", lambda *_, **__: pytest.fail("by its trainer"))
    row = workers._run(CELLS[0], cache, "cpu")
    assert row["values"] == together.run_cells(CELLS[:1], cache, "cpu")[0]["values"]
    (tmp_path / "smoke.json.gz").symlink_to(cache / "smoke.json.gz")
    halves: list[bool] = []
    scores = bert.Models.scores
    monkeypatch.setattr(bert.Models, "scores", lambda own, *a, **k: halves.append(own.half) or scores(own, *a, **k))
    made = make_start(HALF, tmp_path, str(tiny_checkpoint), layers=2)
    assert training.start_folder(HALF, tmp_path) == made
    assert halves  # and the start is trained in 32 bits
    assert not any(halves)


@pytest.mark.parametrize("has", [True, False])
def test_rows_and_the_command_say_that_the_processor_has_no_bfloat16(
    has: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "smoke", HALF)
    monkeypatch.setattr(bert, "has_bfloat16", lambda: has)
    folders = ["--cache", str(cache), "--results", str(tmp_path)]
    arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--stage", "tune", "--together", "4", *folders]
    result = CliRunner().invoke(command.app, arguments)
    assert result.exit_code == 0, result.output
    assert ("no bfloat16" in result.output) == (not has)
    rows = [json.loads(line) for line in (tmp_path / "smoke.jsonl").read_text().splitlines()]
    assert {row["device"] for row in rows} == {platform.machine() + ("" if has else " without bfloat16")}


@pytest.mark.parametrize("tokens", [1, 7])
def test_attention_is_that_of_torch(tokens: int) -> None:
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(3, 2, rows, 8, generator=draw).bfloat16() for rows in (4, tokens, tokens, 4)]
    mask = torch.arange(tokens) < torch.tensor([1, tokens, max(1, tokens - 2)])[:, None]
    mask = mask[:, None, None]
    found = []
    for attended in (bert.attended, None):
        query, key, value = (each.clone().requires_grad_() for each in given[:3])
        if attended is not None:
            out = attended(query, key, value, mask, 0.0)
        else:
            query, key, value = (each.float().detach().requires_grad_() for each in given[:3])
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        (out.float() * given[3].float()).sum().backward()
        found.append([out.float(), *(each.grad.float() for each in (query, key, value))])  # type: ignore[union-attr]
    for own, wanted in zip(*[[each.detach() for each in one] for one in found], strict=True):
        assert (own - wanted).abs().max() <= 0.03 * max(1.0, float(wanted.abs().max()))


def test_attention_drops_weights_at_its_rate() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 8, 2, 64, 8)
    seen = torch.eye(64).expand(8, 2, 64, 64)  # what is seen are the weights
    mask = torch.ones(8, 1, 1, 64, dtype=torch.bool)
    weights = bert.attended(query, key, seen, mask, 0.0)
    found = bert.attended(query, key, seen, mask, 0.25)
    dropped = found == 0
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(found[~dropped], weights[~dropped] / 0.75)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("drops", [False, True])
def test_what_is_compiled_is_what_is_not(drops: bool, half: bool) -> None:
    torch.manual_seed(0)
    units, rows = (None, None)
    if drops:
        units = unit_keys(32, 3)
        rows = Rows.of(torch.arange(6) + 5, torch.arange(7).repeat(6, 1), [0.0, 0.1, 0.19] * 2)
    given = [torch.randn(2, 21, 32), torch.randn(2, 21, 32), torch.randn(2, 32), torch.randn(2, 32)]
    given[0] = given[0].bfloat16() if half else given[0]
    found = []
    for added in (bert.plainly_added, bert.added_at_once):
        leaves = [each.clone().requires_grad_() for each in given]
        states, products = added(*leaves, 1e-12, rows, units, half)
        assert products.dtype == (torch.bfloat16 if half else torch.float32)
        (states.square().sum() + (states * products.float()).sum()).backward()
        found.append([states, products, *[each.grad for each in leaves]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2 if one.dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    if drops:
        assert not torch.equal(found[0][0], bert.plainly_added(*given, 1e-12, None, None, half)[0])


@pytest.mark.parametrize("biased", [True, False])
def test_a_product_without_bfloat16_is_that_with_it(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what an order of sums moves, forwards and backwards; so it would not be in 32 bits."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 40, 64), (2, 64, 48), (2, 1, 48), (2, 40, 48)]
    *given, gradient = (torch.randn(shape, generator=draw).bfloat16() for shape in shapes)

    def outcomes(of_torch: bool, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        monkeypatch.setattr(bert, "has_bfloat16", lambda: of_torch)
        leaves = [each.to(dtype, copy=True).requires_grad_() for each in given[: 2 + biased]]
        out = bert.product(*leaves)
        out.backward(gradient.to(dtype))
        found = [out, *(each.grad for each in leaves)]
        assert all(each.dtype == dtype for each in found if each is not None)
        return torch.cat([each.detach().flatten().float() for each in found if each is not None])

    wanted, found = outcomes(of_torch=True), outcomes(of_torch=False)
    assert (found != wanted).float().mean() < 0.01
    assert found == pytest.approx(wanted, rel=2**-7, abs=1e-3)
    exact = outcomes(of_torch=False, dtype=torch.float32)
    assert (exact != wanted).float().mean() > 0.5
