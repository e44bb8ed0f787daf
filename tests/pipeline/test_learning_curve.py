"""Learning curves: nested samples, intervals against a slow loop, and a run that makes one and resumes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st
from optional_libraries import datasets
from pipeline_data import collection, settings

from cmp_rerank.evaluation.report.curve_files import check_curves
from cmp_rerank.pipeline import load, run
from cmp_rerank.pipeline.learning_curve import chart, learning_curve, sampled, sizes_of
from cmp_rerank.pipeline.log_charts import log_charts
from cmp_rerank.pipeline.steps import StepFile


@trying(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20), st.integers(0, 5))
def test_samples_are_nested_whole_and_their_own_for_a_seed(queries: list[str], seed: int) -> None:
    rows = datasets.Dataset.from_dict({"query": queries, "row": list(range(len(queries)))})
    before: set[int] = set()
    for size in range(1, len(set(queries)) + 1):
        found = sampled(rows, size, seed)
        assert len(set(found["query"])) == size
        assert list(found["row"]) == [n for n, query in enumerate(queries) if query in set(found["query"])]
        assert before < set(found["row"])
        before = set(found["row"])
    assert before == set(range(len(queries)))


def test_another_seed_draws_another_sample() -> None:
    rows = datasets.Dataset.from_dict({"query": [f"q{i}" for i in range(50)]})
    first, again, other = (set(sampled(rows, 10, seed)["query"]) for seed in (0, 0, 1))
    assert first == again != other


def test_sizes() -> None:
    assert sizes_of(["all", 3, 1], 9) == [1, 3, 9]
    with pytest.raises(ValueError, match=r"two numbers of queries at least.*got \[9, 'all'\] of 5 training queries"):
        sizes_of([9, "all"], 5)


def test_means_intervals_and_the_answer() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)

    def values(gain: float, seeds: int = 2) -> list[dict[str, float]]:
        noise = rng.normal(0, 0.05, (seeds, 200))
        return [{f"q{i}": float(base[i] + gain + noise[s, i]) for i in range(200)} for s in range(seeds)]

    for gain, answer in ((0.1, "would probably help"), (0.0, "is open"), (-0.1, "would probably not help")):
        given = {0: values(-0.2, seeds=1), 20: values(gain), 10: values(0.0)}
        curve = learning_curve("RR", given, resamples=2000)
        assert answer in curve["sentence"]
        assert [point["size"] for point in curve["points"]] == [0, 10, 20]
        for point in curve["points"]:
            by_seed = [sum(one.values()) / 200 for one in given[point["size"]]]
            assert point["seeds"] == pytest.approx(by_seed)
            assert point["mean"] == pytest.approx(sum(by_seed) / len(by_seed))
            assert point["low"] < point["mean"] < point["high"]
        last = curve["last"]
        assert (last["from"], last["to"]) == (10, 20)
        # Paired by query: the spread of the queries themselves does not widen the interval.
        assert last["high"] - last["low"] < 0.05 < curve["points"][-1]["high"] - curve["points"][-1]["low"]
        (drawn,) = chart(curve).values()
        assert drawn["mean"] == [[point["size"], point["mean"]] for point in curve["points"]]


def test_charts_of_several_seeds(tmp_path: Path) -> None:
    for seed in (0, 3):
        lines = [
            {"step": 1, "loss": seed + 0.5, "task_loss_full": 1.0, "task_loss_step_2": 2.0, "beaten_rate": 0.25},
            {"step": 2, "eval_nDCG@10": 0.5, "eval_RR": 0.1, "eval_loss": 9.0, "eval_base_nDCG@10": 0.4},
        ]
        (tmp_path / f"{seed}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert log_charts({seed: tmp_path / f"{seed}.jsonl" for seed in (0, 3)}, "nDCG@10") == {
        "validation nDCG@10": {"seed 0": [[2, 0.5]], "seed 3": [[2, 0.5]]},
        "loss": {"seed 0": [[1, 0.5]], "seed 3": [[1, 3.5]]},
        "task loss by step": {f"{what}, seed {seed}": [[1, value]] for seed in (0, 3)
                              for what, value in (("full", 1.0), ("step 2", 2.0))},
        "violation and beaten rates": {f"beaten rate, seed {seed}": [[1, 0.25]] for seed in (0, 3)},
    }  # fmt: skip


def test_values_that_are_not_finite_are_left_out_of_a_chart_and_counted(tmp_path: Path) -> None:
    values = ((1, 0.5, 0.1), (2, float("nan"), float("nan")), (3, float("inf"), float("nan")), (4, 0.25, 0.3))
    for seed, own in ((0, values[:3]), (3, values[1:]), (4, values[1:3])):
        for step, loss, full in own:
            StepFile(tmp_path / f"{seed}.jsonl").append(step, {"loss": loss, "task_loss_full": full})
    charts = log_charts({seed: tmp_path / f"{seed}.jsonl" for seed in (0, 3)}, "RR")
    assert charts == {
        "loss": {
            "seed 0 (without 2 not finite)": [[1, 0.5]],
            "seed 3 (without 2 not finite)": [[4, 0.25]],
        },
        "task loss by step": {
            "full, seed 0 (without 2 not finite)": [[1, 0.1]],
            "full, seed 3 (without 2 not finite)": [[4, 0.3]],
        },
    }
    check_curves(charts)
    assert log_charts({4: tmp_path / "4.jsonl"}, "RR") == {}


def test_a_run_with_sizes_makes_a_curve_and_resumes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    titles: list[str] = []

    @contextmanager
    def report(title: str) -> Any:
        titles.append(title)
        yield lambda done, total: None

    config = settings(tiny_checkpoint, ablations=["drop"], training={"max_steps": 2}, guard={"enabled": False})
    plain = run(config, tmp_path / "run", collection=collection())
    assert plain.values["learning_curve"] is None
    made = (tmp_path / "run" / "seed-0" / "stage.json").stat().st_mtime_ns
    results = run(
        {**config, "sizes": [2, 4, "all"]}, tmp_path / "run", collection=collection(), resume=True, report=report
    )
    # The model of all queries is there already.
    assert (tmp_path / "run" / "seed-0" / "stage.json").stat().st_mtime_ns == made
    trained = [title for title in titles if title.startswith("Training")]
    assert trained == ["Training: seed 0, 2 queries", "Training: seed 0, 4 queries"]
    curve = results.values["learning_curve"]
    assert [point["size"] for point in curve["points"]] == [0, 2, 4, 6]
    assert curve["points"][-1]["mean"] == pytest.approx(last_value(results.folder / "seed-0-training"))
    page = (results.folder / "result" / "report.html").read_text(encoding="utf-8")
    assert curve["sentence"] in page
    assert "validation nDCG@10 by training queries" in page
    assert "violation rate" in page
    assert curve["sentence"] in (results.folder / "seed-0" / "model" / "README.md").read_text(encoding="utf-8")
    titles.clear()
    again = run(
        {**config, "sizes": [2, 4, "all"]}, tmp_path / "run", collection=collection(), resume=True, report=report
    )
    assert titles == []
    assert again.values["learning_curve"] == curve


def last_value(folder: Path) -> float:
    """What the training has evaluated for its last checkpoint, which is the only one."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["eval_nDCG@10"] for record in records if "eval_nDCG@10" in record][-1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("sizes", [[5], [5, 5], [0, 5], ["some", 5]])
def test_sizes_that_are_refused(sizes: list[Any]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        load({"data": {"collection": "beir:x"}, "model": {"name": "m"}, "sizes": sizes})


def test_more_than_there_are_is_told_before_the_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = settings(tiny_checkpoint, sizes=[50, "all"])
    with pytest.raises(ValueError, match="of 6 training queries; choose smaller ones"):
        run(config, tmp_path / "run", collection=collection())
    assert not (tmp_path / "run").exists()
