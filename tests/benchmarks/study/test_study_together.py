"""Cells that are trained together are those that a trainer gives one by one."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.study import bert, measuring, readers, steps, together, training
from benchmarks.study.arms import ARMS, CROPS, Arm
from benchmarks.study.cells import Cell
from benchmarks.study.starts import make_start
from benchmarks.study.tasks import TASKS, load, training_rows
from cmp_rerank.objectives import Objective, Outputs

#: Tokens of a window in which some of the passages fit.
WINDOW = 32


SEEDS, RATES = (0, 1), (1e-3, 3e-4)


QUICK = (
    "plain",
    "weighted mean, c=2",
    "plain, averaged weights",
    "plain, best epoch",
    "compared, c=2, top:1",
    "full + hinges, c=2, share 0.5",
    "Intra-Distillation, p=0.1",
)


QUICK_CROPS = (
    ("passages", "plain"),
    ("passages", "mean, crop"),
    ("passages", "compared, crop, support guessed"),
    ("passages", "compared, crop + drop"),
    ("reading", "plain"),
    ("reading", "weighted mean, crop"),
    ("reading", "compared, crop + drop"),
)


POINTWISE = ("plain", "compared, c=2", "compared, c=2, share 0.25", "Intra-Distillation, p=0.1")


@pytest.mark.parametrize(
    ("arm", "listwise"),
    [
        *(
            pytest.param(arm, True, marks=() if arm in QUICK else pytest.mark.slow)
            for arm in ARMS
            if not ARMS[arm].dropout and arm not in CROPS
        ),
        *((arm, False) for arm in POINTWISE),
    ],
)
def test_cells_that_are_trained_together_are_those_of_the_trainer(
    arm: str, listwise: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, for every arm whose random choices are the package's own."""
    # In batches of 5, 5, 5 and 1.
    task = replace(TASKS["smoke"], batch=5, sizes={16: 2}, measure="RR" if listwise else "accuracy")
    monkeypatch.setitem(TASKS, "smoke", task)
    if not listwise:
        parts = {
            part: [row | {"docs": row["docs"][:1], "labels": row["labels"][:1]} for row in rows]
            for part, rows in load("smoke", cache).items()
        }
        monkeypatch.setattr(together, "_parts", lambda *_: parts)
        training._LOADED["smoke"] = parts
    # No score, or no loss, depends on these: their gradients are rounding alone, which AdamW scales up.
    compare_with_trainer("smoke", 16, arm, cache, ("key.bias", "classifier.bias") if listwise else ("key.bias",))


def compare_with_trainer(
    name: str, size: int, arm: str, cache: Path, free: tuple[str, ...], exact: bool = True
) -> None:
    """``free`` are the weights on which no loss depends; the values are equal where no documents are nearly tied."""
    task = TASKS[name]
    cells = [Cell(name, size, arm, rate, seed, "test") for seed, rate in zip(SEEDS, RATES, strict=True)]
    parts = together._parts(name, cache)
    model = training.open_start(task, cache, 0.0, "cpu")
    start = {of: weight.detach().clone() for of, weight in model.model.named_parameters()}
    epochs = task.sizes[size] * ARMS[arm].epochs
    seen = together.asked(name, "validation", cache) if ARMS[arm].keep_best else None
    data = [together.examples_of(cell, cache) for cell in cells]
    models, logs = steps.train(model, task, ARMS[arm], data, cells, epochs, seen)
    values = measuring.measure(models, together.asked(name, "test", cache), task)
    for number, cell in enumerate(cells):
        alone = training.open_start(task, cache, 0.0, "cpu")
        own = training_rows(task, parts["train"], size, cell.seed)
        log = training.fit(
            alone, task, ARMS[arm], own, rate=cell.rate, epochs=epochs, seed=cell.seed,
            validation=parts["validation"] if ARMS[arm].keep_best else [],
        )  # fmt: skip
        for of, weight in alone.model.named_parameters():
            if not of.endswith(free):
                moved = float((weight.detach() - start[of]).abs().max())
                error = float((models.weights[of][number] - weight).detach().abs().max())
                assert error <= 0.01 * moved, (of, error, moved)
                assert moved > 0
        assert logs[number].keys() == log.keys()
        for rate in log:
            assert logs[number][rate] == pytest.approx(log[rate], abs=2e-4)
        if exact:
            assert values[number] == training.measure(alone, task, parts["test"], "test", "cpu")


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        pytest.param(name, arm, marks=() if (name, arm) in QUICK_CROPS else pytest.mark.slow)
        for name in ("passages", "reading")
        for arm in ("plain", *(arm for arm in CROPS if not ARMS[arm].instead))
    ],
)
def test_crops_and_readers_that_are_trained_together_are_those_of_the_trainer(
    name: str, arm: str, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss of transformers, which trains plain readers, has padding in its softmax: one window has none.
    batch = 1 if (name, arm) == ("reading", "plain") else 3
    # With few documents, which differ in a word, what they share has a gradient of rounding alone.
    monkeypatch.setitem(TASKS, name, replace(TASKS[name], sizes={8: 2}, batch=batch, docs=0, exact=(8,)))
    free = ("key.bias", "classifier.bias")
    if name == "reading":  # what is added to the logits of all tokens changes nothing
        free = ("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias")
    compare_with_trainer(name, 8, arm, squad, free, exact=name == "reading")


class LastStep(Objective):
    def __call__(self, losses: torch.Tensor, outputs: Outputs | None = None) -> torch.Tensor:
        return losses[:, -1]


@pytest.mark.parametrize("name", ["passages", "reading"])
def test_half_of_the_examples_make_the_cropped_pass_instead(name: str, squad: Path) -> None:
    """With no example it is plain training, with all that of the last pass; else each is cropped at some steps."""
    task = replace(TASKS[name], sizes={8: 4}, batch=3, docs=0, exact=(8,))
    arm, cells = ARMS["half cropped"], [Cell(name, 8, "half cropped", 1e-3, seed, "test") for seed in (0, 1)]
    data = [together.examples_of(cell, squad) for cell in cells]
    model = training.open_start(task, squad, 0.0, "cpu")

    def losses(arm: Arm) -> list[float]:
        """Of each step, whose weights those before it have made."""
        _, logs = steps.train(model, task, arm, data, cells, 4)
        assert len(logs[0]["loss"]) == 12
        return [loss for log in logs for loss in log["loss"]]

    last, plain = losses(replace(arm, instead=0.0, objective=LastStep)), losses(ARMS["plain"])
    assert losses(replace(arm, instead=1.0)) == pytest.approx(last, abs=2e-4)
    assert losses(replace(arm, instead=1e-18)) == pytest.approx(plain, abs=2e-4)
    half = losses(arm)
    for other in (last, plain):
        assert half != pytest.approx(other, abs=2e-3)

    passes = steps.Passes(arm, bert.Models(model, 2))
    cropped = [
        [len(view) < len(example) for example, (view,) in zip(drawn.examples, drawn.views, strict=True)]
        for drawn in (steps.Drawn.of(data[0], range(8), f"0 {(step, 0)}", passes) for step in range(40))
    ]
    share = np.mean(cropped, axis=0)  # of each example; some have nothing to crop
    assert ((share == 0) | ((share > 0.25) & (share < 0.75))).all()
    assert (share > 0).sum() >= 4
    assert arm.passes == 1


@pytest.mark.parametrize(("name", "constant"), [("passages", True), ("passages", False), ("reading", True)])
def test_a_start_that_is_trained_on_a_gpu_is_that_of_the_trainer(
    name: str, constant: bool, squad: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """But for the dropout of rerankers, whose random numbers are others."""
    assert (TASKS["passages"].start_dropout, TASKS["reading"].start_dropout) == (0.1, 0.0)
    task = replace(TASKS[name], start=(4, 2), batch=1, start_rate=1e-3, exact=(8,))
    task = replace(task, start_dropout=0.0, start_constant=constant)
    found = []
    for trainer in (True, False):
        cache = tmp_path / str(trainer)
        cache.mkdir()
        (cache / f"{name}.json.gz").symlink_to(squad / f"{name}.json.gz")
        start = make_start(task, cache, str(tiny_checkpoint), layers=2, trainer=trainer)
        found.append({of: weight.float() for of, weight in load_file(start / "model.safetensors").items()})
    assert found[0].keys() == found[1].keys()
    for of, weight in found[0].items():
        if not of.endswith(("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias", "classifier.bias")):
            scale = float(weight.abs().max())
            assert (found[1][of] - weight).abs().max() <= 1e-3 * max(scale, 0.1), of  # half precision


def test_readers_give_the_logits_of_transformers(squad: Path) -> None:
    task = TASKS["reading"]
    made = training.open_start(task, squad, 0.0, "cpu")
    rows = load("reading", squad)["test"][:12]
    asked = readers.Asked.of(made, task, rows)
    windows = [window.example.features for window in asked.windows]
    logits = bert.Models(made, 2).all_logits(
        bert.Tokens([], [each["input_ids"] for each in windows], [each["token_type_ids"] for each in windows])
    )
    made.model.eval()
    for each, found in zip(windows, logits, strict=True):
        with torch.no_grad():
            wanted = made.model(**{key: torch.tensor(value, dtype=torch.int64)[None] for key, value in each.items()})
        for own in found:
            assert own[:, 0] == pytest.approx(wanted["start_logits"][0].numpy(), abs=1e-5)
            assert own[:, 1] == pytest.approx(wanted["end_logits"][0].numpy(), abs=1e-5)
    values = asked.values([each[0][:, 0] for each in logits], [each[0][:, 1] for each in logits])
    assert values == readers.measure(made, task, rows)


@pytest.mark.parametrize(
    "arm",
    [
        "compared, c=2",
        "plain, best epoch",
        pytest.param("full + hinges, c=2, share 0.5", marks=pytest.mark.slow),
        pytest.param("Intra-Distillation, p=0.1", marks=pytest.mark.slow),
        pytest.param("plain, averaged weights", marks=pytest.mark.slow),
        pytest.param("compared, crop + drop", marks=pytest.mark.slow),
    ],
)
def test_readers_with_more_windows_than_others_take_more_steps(
    arm: str, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "STRIDE", 4)
    batch = 3 if ARMS[arm].passes > 1 else 1  # see above
    task = replace(TASKS["reading"], sizes={8: 2}, batch=batch, max_length=WINDOW, exact=(8,))
    monkeypatch.setitem(TASKS, "reading", task)
    cells = [Cell("reading", 8, arm, 1e-3, seed, "test") for seed in SEEDS]
    assert len({len(together.examples_of(cell, squad).lengths()) for cell in cells}) > 1
    free = ("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias")
    compare_with_trainer("reading", 8, arm, squad, free)


def test_cells_are_in_groups_that_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reader has 6 layers, and the arm 3 passes; 16 rows of 10 tokens in a batch.
    monkeypatch.setattr(together, "examples_of", lambda *_: SimpleNamespace(lengths=lambda: [10] * 32))

    def groups(most: int, memory: int = 10**9) -> list[int]:
        monkeypatch.setitem(together.BUDGET, "cpu", memory)
        cells = [Cell("reading", 400, "compared, c=2", 1e-3, seed, "test") for seed in range(5)]
        found = together.groups(cells, most, tmp_path, "cpu")
        assert [cell for group in found for cell in group] == cells
        return list(map(len, found))

    assert groups(10) == [5]
    assert groups(4) == [3, 2]
    assert groups(4, 2 * 160 * 18) == [2, 2, 1]
    assert groups(4, 2 * 160 * 18 - 1) == [1] * 5
    assert groups(4, 1) == [1] * 5


def test_a_group_that_fails_is_tried_in_halves(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell("smoke", 16, "plain", 1e-3, seed, "validation") for seed in range(5)]
    tried: list[list[int]] = []

    def run(group, *_):
        tried.append([cell.seed for cell in group])
        if len(group) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if 1 in tried[-1]:
            raise ValueError("the second seed has no labels")
        if 4 in tried[-1]:
            raise RuntimeError("the device is gone")
        return [{"seed": cell.seed} for cell in group]

    monkeypatch.setattr(together, "run_cells", run)
    found = list(together.results_together(cells, 10, cache, "cpu", time.time() + 60))
    assert tried == [[0, 1, 2, 3, 4], [0, 1], [0], [1], [2, 3, 4], [2], [3, 4], [3], [4]]
    assert [row["seed"] for row in found] == [0, 1, 2, 3]  # no row of one that may yet be run
    assert "no labels" in found[1]["failed"]
    assert (
        "left out: smoke|16|plain|0.001|4|validation: RuntimeError('the device is gone')" in capsys.readouterr().out
    )
    assert list(together.results_together(cells, 10, cache, "cpu", time.time() - 1)) == []


@pytest.mark.parametrize("arm", ["compared, c=2", "R-Drop, dropout 0.1"])
def test_a_compared_model_that_diverges_fails_alone(arm: str, cache: Path) -> None:
    good, bad = together.run_cells(
        [Cell("smoke", 16, arm, rate, 0, "validation") for rate in (1e-3, 1e30)], cache, "cpu"
    )
    assert "failed" not in good
    assert "not finite" in bad["failed"]


def test_cells_with_the_models_own_dropout_train_together(cache: Path) -> None:
    for arm in (arm for arm in ARMS if ARMS[arm].dropout):
        cells = [Cell("smoke", 16, arm, 1e-3, seed, "validation") for seed in (0, 1)]
        first, second = together.run_cells(cells, cache, "cpu")
        assert first["log"] != second["log"]
        assert together.run_cells(cells, cache, "cpu")[1]["log"] == second["log"]
        plain = together.run_cells([replace(cell, arm="plain") for cell in cells], cache, "cpu")
        assert plain[0]["log"]["loss"] != first["log"]["loss"]
        assert (first["seed"], second["seed"]) == (0, 1)


def test_a_model_that_diverges_fails_alone(cache: Path) -> None:
    cells = [Cell("smoke", 16, "plain", rate, 0, "validation") for rate in (1e-3, 1e30)]
    good, bad = together.run_cells(cells, cache, "cpu")
    assert "failed" not in good
    assert "not finite" in bad["failed"]
    assert "mean" not in bad
    assert good["values"] == together.run_cells(cells[:1], cache, "cpu")[0]["values"]


def test_operations_are_those_of_the_layers(cache: Path) -> None:
    one, three, longer, compared = (
        together.operations(Cell("smoke", 16, arm, 0.0, 0, "test"), cache, width=32)
        for arm in ("plain", "plain, 3x epochs", "plain, decay 0.1", "compared, c=2")
    )
    assert three == compared
    assert longer == one
    tokens = sum(together.examples_of(Cell("smoke", 16, "plain", 0.0, 0, "test"), cache).lengths())
    assert (three - one) / 2 == pytest.approx(6 * tokens * 3 * 12 * 32**2, rel=0.3)
    assert 0 < one - (three - one) / 2 < one / 2  # what is measured has no backward pass


@pytest.mark.parametrize("arm", ["plain", "plain, averaged weights", "plain, best epoch"])
def test_words_that_no_cell_reads_only_fade(arm: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows of the table are not trained; they are as if they had been."""
    task = replace(TASKS["smoke"], sizes={16: 3})
    cells = [Cell("smoke", 16, arm, rate, seed, "test") for seed, rate in ((0, 1e-2), (1, 5e-2))]
    data = [together.examples_of(cell, cache) for cell in cells]
    model = training.open_start(task, cache, 0.0, "cpu")
    seen = together.asked("smoke", "validation", cache) if ARMS[arm].keep_best else None
    found, _ = steps.train(model, task, ARMS[arm], data, cells, 3, seen)
    monkeypatch.setattr(bert.Models, "keep_words", lambda *_: None)
    whole, _ = steps.train(model, task, ARMS[arm], data, cells, 3, seen)
    assert found.weights.keys() == whole.weights.keys()
    for of, weight in whole.weights.items():
        torch.testing.assert_close(found.weights[of], weight, rtol=1e-4, atol=1e-6)
    start = dict(model.model.named_parameters())[bert.WORDS].detach()
    others = np.setdiff1d(np.arange(1, len(start)), np.concatenate([each.tokens() for each in data]))
    faded = (found.weights[bert.WORDS][:, others] / start[others]).flatten(1)
    assert len(others) > len(start) / 4
    assert float(faded.detach().max()) < 1 - 1e-5
    assert float(faded.detach().std(dim=1).max()) < 1e-6


def test_a_device_that_fails_ends_the_process(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing works on it any more: the cells that are left would all be left out."""

    def run(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(together, "run_cells", run)
    cells = [Cell("smoke", 16, "plain", 1e-3, seed, "validation") for seed in range(2)]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(together.results_together(cells, 10, cache, "cpu", time.time() + 60))


def test_processes_share_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for budget, value in ((together.BUDGET, 1_000_000), (bert.PASS, 400_000), (bert.TRAINING_PASS, 400_000)):
        monkeypatch.setitem(budget, "cuda", value)
    together.share_gpu(5)
    assert (together.BUDGET["cuda"], bert.PASS["cuda"], bert.TRAINING_PASS["cuda"]) == (200_000, 80_000, 80_000)


def test_training_compiles_where_it_is_told_to(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell("smoke", 16, "compared, c=2", 1e-3, seed, "test") for seed in (0, 1)]
    plain = together.run_cells(cells, cache, "cpu")
    seen: list[bool] = []

    def added(*given):
        seen.append(torch.is_grad_enabled())
        return bert.added_at_once(*given)

    monkeypatch.setattr(bert, "compiled", lambda: added)
    assert [row["values"] for row in together.run_cells(cells, cache, "cpu")] == [row["values"] for row in plain]
    assert not seen
    monkeypatch.setitem(bert.COMPILES, "now", True)
    found = together.run_cells(cells, cache, "cpu")
    assert [row["values"] for row in found] == [row["values"] for row in plain]
    assert seen
    assert all(seen)  # nothing that is measured is
