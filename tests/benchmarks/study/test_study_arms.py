"""Every arm of the study trains, and differs from its control in one thing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.study import bert, loop, measuring, readers, training
from benchmarks.study.arms import ARMS, CROPS
from benchmarks.study.cells import Cell
from benchmarks.study.measuring import decode
from benchmarks.study.plan import CORE, PLAN
from benchmarks.study.tasks import TASKS
from benchmarks.study.training import run_cell
from benchmarks.study.watch import log_of
from cmp_rerank import GivenSupport

COMPARED_CROPS = [arm for arm in CROPS if not ARMS[arm].instead]


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in CROPS])
def test_every_arm_trains(arm: str, cache: Path) -> None:
    row = run_cell(Cell("smoke", 16, arm, 1e-3, 0, "validation"), cache, "cpu")
    assert len(row["values"]) == 16
    assert row["mean"] == pytest.approx(decode(row["values"], TASKS["smoke"]).mean())
    assert all(math.isfinite(loss) for loss in row["log"]["loss"])
    assert row["passes"] == ARMS[arm].passes * ARMS[arm].epochs
    assert ("violation_rate" in row["log"]) == (ARMS[arm].passes > 1)


def test_a_share_differs_from_its_control_in_the_share_alone() -> None:
    shared = [name for name in ARMS if "share" in name]
    assert len(shared) == 4
    assert not {*shared} & {*CORE, *CROPS}
    for name in shared:
        control, share = name.split(", share ")
        arm, whole = ARMS[name], ARMS[control]
        assert arm.share == float(share)
        assert arm.passes == 1 + (whole.passes - 1) * float(share)
        assert repr(arm.ablations()) == repr(whole.ablations())
        assert repr(arm.objective()) == repr(whole.objective())
        assert replace(arm, ablations=whole.ablations, objective=whole.objective, share=1.0, passes=3) == whole


@pytest.mark.parametrize("steps", ["c=2", "crop"])
def test_a_weighted_mean_has_the_weights_of_comparing_and_says_not_who_is_beaten(steps: str) -> None:
    arm, compared = ARMS[f"weighted mean, {steps}"], ARMS[f"compared, {steps}"]
    assert arm.rate_of == f"compared, {steps}"
    assert replace(arm, ablations=compared.ablations, objective=compared.objective, rate_of="") == compared
    assert repr(arm.ablations()) == repr(compared.ablations())
    losses = torch.tensor([[0.5, 0.3, 0.9], [0.1, 0.2, 0.4], [0.9, 0.2, 0.1], [0.7, 0.7, 0.6]], requires_grad=True)
    found, wanted = arm.objective()(losses), compared.objective().weights(losses)
    (gradient,) = torch.autograd.grad(found.sum(), losses)
    for example in range(4):
        assert gradient[example] == pytest.approx(wanted.mean(0))
        assert found[example].item() == pytest.approx(float(wanted.mean(0) @ losses[example].detach()))
    assert not torch.equal(gradient, wanted)
    # All in order: the mean of the steps, but for its scale.
    ordered = torch.tensor([[0.1, 0.2, 0.4], [0.2, 0.3, 0.3]])
    assert arm.objective()(ordered) == pytest.approx(ordered.sum(1) / 6)
    assert arm.objective()(ordered) == pytest.approx(compared.objective()(ordered))


def test_what_a_share_compares_is_in_the_log(cache: Path) -> None:
    logs = {
        arm: run_cell(Cell("smoke", 16, arm, 1e-3, 0, "validation"), cache, "cpu")["log"]
        for arm in ("plain", "compared, c=2", "compared, c=2, share 0.5", "compared, c=2, share 0.25")
    }
    assert len({tuple(log["loss"]) for log in logs.values()}) == 4
    history = [{"loss": 1.0}, {"loss": 0.5, "violation_rate": 0.25}, {"train_runtime": 3.0}]
    assert log_of(history) == {"loss": [1.0, 0.5], "violation_rate": [None, 0.25]}


def test_all_kinds_of_models_have_the_same_arguments_of_training(
    cache: Path, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any difference beside the folder and the length batches of readers would be one between tasks."""
    seen = []
    monkeypatch.setattr("benchmarks.study.loop.log_of", lambda history: {})

    def spied(build, *rest, **options):
        def noted(arguments, callbacks):
            trainer = build(arguments, callbacks)
            assert all(getattr(trainer.args, name) == value for name, value in arguments.items() if name in KEPT)
            seen.append(arguments)
            return trainer

        return loop.train(noted, *rest, **options)

    monkeypatch.setattr(training, "train", spied)
    monkeypatch.setattr(readers, "train", spied)
    for task in ("smoke", "reading"):
        monkeypatch.setitem(TASKS, task, replace(TASKS[task], sizes={8: 2}, batch=4))
        run_cell(Cell(task, 8, "plain, decay 0.1", 1e-3, 5, "validation"), cache if task == "smoke" else squad, "cpu")
    one, other = ({name: value for name, value in each.items() if name != "output_dir"} for each in seen)
    assert one == other
    assert (one["learning_rate"], one["weight_decay"], one["seed"], one["num_train_epochs"]) == (1e-3, 0.1, 5, 2)
    assert one["save_strategy"] == "no"  # a cell writes no checkpoint


KEPT = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "warmup_steps", "weight_decay", "seed")


def test_scores_are_those_of_sentence_transformers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by length, in passes of few tokens, and with the first token alone in the last layer."""
    draw = np.random.default_rng(0)
    words = ["bear", "honey", "river", "bridge", "torch"]
    rows = [
        {"query": " ".join(draw.choice(words, 2)), "docs": [" ".join(draw.choice(words, n)) for n in sizes],
         "labels": [1.0, *[0.0] * (len(sizes) - 1)]}
        for sizes in (draw.integers(1, 60, size=int(count)) for count in draw.integers(2, 6, size=12))
    ]  # fmt: skip
    task = TASKS["smoke"]
    model = training.open_start(task, cache, 0.0, "cpu")
    pairs = [(row["query"], doc) for row in rows for doc in row["docs"]]
    wanted = model.predict(pairs, batch_size=1)
    assert wanted.std() > 1e-3
    tokens = bert.tokenised(model, rows, task.max_length)
    assert max(map(len, tokens.ids)) == task.max_length  # some are truncated
    found = {}
    for budget in (1, 64, 2048):
        monkeypatch.setitem(bert.PASS, "cpu", budget)
        found[budget] = bert.Models(model, 1).all_scores(tokens)[0]
        assert found[budget] == pytest.approx(wanted, abs=1e-5 * float(wanted.std()))
        assert bert.Models(model, 3).all_scores(tokens)[2] == pytest.approx(wanted, abs=1e-5 * float(wanted.std()))
    values = training.measure(model, task, rows, "made up", "cpu")
    assert values == measuring.values_of(wanted, rows, task)


def test_a_cell_gives_the_same_twice_and_another_seed_another(cache: Path) -> None:
    def losses(seed: int) -> list[float]:
        row = run_cell(Cell("smoke", 16, "compared, c=2", 1e-3, seed, "test"), cache, "cpu")
        return [*row["log"]["loss"], row["values"], row["rows"]]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


@pytest.mark.parametrize("task", ["passages", "reading"])
@pytest.mark.parametrize(
    "arm", ["plain, best epoch", "plain, averaged weights", "R-Drop, dropout 0.1", *COMPARED_CROPS]
)
def test_arms_that_crop_train_where_support_is_known(
    task: str, arm: str, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, task, replace(TASKS[task], sizes={8: 1}, batch=4))
    row = run_cell(Cell(task, 8, arm, 1e-3, 0, "test"), squad, "cpu")
    assert len(row["values"]) == 40
    assert row["mean"] == pytest.approx(decode(row["values"], TASKS[task]).mean())
    assert all(math.isfinite(loss) for loss in row["log"]["loss"])
    assert ("violation_rate" in row["log"]) == (ARMS[arm].passes > 1)
    assert row["guard"]


def test_given_support_is_not_guessed_support(squad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the question are in the first sentence, the answer in the second."""
    monkeypatch.setitem(TASKS, "passages", replace(TASKS["passages"], sizes={8: 1}, batch=4))
    given, guessed = (
        run_cell(Cell("passages", 8, arm, 1e-3, 0, "validation"), squad, "cpu")["log"]["loss"]
        for arm in ("compared, crop", "compared, crop, support guessed")
    )
    assert given[0] != guessed[0]


def test_no_two_arms_of_the_plan_are_the_same() -> None:
    """A crop of a reader always knows the support: there a guess would train the very same model."""
    known = GivenSupport({("a query", "a text"): [[0, 1]]})
    for (task, size), arms in PLAN.items():
        support, nothing = None if TASKS[task].reads else known, ARMS["plain"]
        made: dict[tuple[str, ...], str] = {}
        for arm in arms:
            own = ARMS[arm]
            objective = own.objective() if own.objective is not None else None
            rest = replace(own, ablations=nothing.ablations, objective=None)
            kind = (repr(own.ablations(support)), repr(objective), repr(rest))
            assert kind not in made, (task, size, arm, made[kind])
            made[kind] = arm
