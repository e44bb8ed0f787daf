"""The main job: two runs of the pipeline on one collection, compared on one page.

Each stage is written whole or not at all, by the pipeline and here. What exists is not computed again, so an
interrupted job goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmp_rerank.collections import load
from cmp_rerank.collections.docstrings import docstring_collection
from cmp_rerank.demo.clock import Clock
from cmp_rerank.demo.comparison import compare_arms, recall_of_candidates
from cmp_rerank.demo.encoder import PACKAGE, pretrained_encoder
from cmp_rerank.demo.recipe import COMPARATIVE, PLAIN, Recipe, configs, sampled
from cmp_rerank.ir import Progress
from cmp_rerank.ir.reading import read_json
from cmp_rerank.pipeline import Results, run
from cmp_rerank.pipeline.environment import versions
from cmp_rerank.pipeline.folder import write_json
from cmp_rerank.pipeline.stages import Report
from cmp_rerank.training.resume import check_settings

__all__ = ["check_same_start", "pretrained_encoder", "run_demo"]

SETTINGS, METRICS, REPORT, SECONDS = "demo.json", "metrics.json", "report.html", "seconds.json"


def run_demo(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    model: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Build the collection, run both configurations on it, and compare what they come to.

    ``out`` gets a folder with the name of the recipe, so that several recipes can share it. It then holds:

    - ``demo.json``: the recipe, the seed and the versions; ``collection/``: the texts and judgments, in BEIR layout;
    - ``plain/`` and ``comparative/``: the run folders of the pipeline, see `cmp_rerank.pipeline.run`;
    - ``report.html``: the page that compares both; ``metrics.json``: all figures, with the values of every query.

    Args:
        recipe: what to do.
        out: the folder of all recipes; that of this one is new, or of an interrupted job of the same settings.
        seed: of the sample of queries, the new head, the negatives and the ablations.
        model: folder of an encoder to start from; None: the one that the extra ``demo`` brings with it.
        cache_dir: where the built collection is kept for later jobs, see `docstring_collection`.
        report: shows the progress; by default nothing is shown.

    Returns:
        The contents of ``metrics.json``.

    Raises:
        ImportError: the extra ``demo`` is not installed.
        ValueError: the folder holds something else, or a job with other settings.
        RuntimeError: the arms differ in more than their ablations.
    """
    encoder = pretrained_encoder() if model is None else os.fspath(model)
    folder = _opened(Path(out) / recipe.name, recipe, seed, PACKAGE if model is None else encoder)
    clock = Clock(folder / SECONDS, report or _silent)
    with clock("Building the collection"):
        place = folder / "collection"
        if not place.exists():
            built = docstring_collection(recipe.packages, seed=seed, cache_dir=cache_dir)
            sampled(built, recipe, seed).write_beir(place)
    results = {
        arm: run(config, folder / arm, resume=True, report=clock.within(arm))
        for arm, config in configs(recipe, f"beir:{place}", encoder, seed).items()
    }
    check_same_start(results)
    with clock("Comparing the two"):
        collection = load(f"beir:{place}")
        compared = compare_arms(results, collection, folder / REPORT)
    metrics = {
        **compared,
        "collection": collection.summary(),
        "candidates_hold_relevant": recall_of_candidates(results, collection),
        "arms": {arm: _about(found) for arm, found in results.items()},
        "seconds": clock.seconds,
        **read_json(folder / SETTINGS),
        "machine": {"cores": os.cpu_count(), "device": results[PLAIN].values["environment"][-1]["device"]},
    }
    write_json(folder / METRICS, metrics)
    return metrics


def check_same_start(results: Mapping[str, Results]) -> None:
    """Refuse arms that differ in more than their ablations: in configuration, training data or weights.

    Raises:
        RuntimeError: the message names what differs.
    """
    about = {arm: _stage(found, "seed-*") for arm, found in results.items()}
    differing = {
        key
        for key in about[PLAIN] | about[COMPARATIVE]
        if about[PLAIN].get(key) != about[COMPARATIVE].get(key) and key != "ablations"
    }
    if differing:
        raise RuntimeError(
            f"the two arms must differ in their ablations only; got other {', '.join(sorted(differing))}; remove the "
            "folder and start again"
        )


def _stage(results: Results, pattern: str) -> dict[str, Any]:
    """The settings of a stage: all that it was made from."""
    (path,) = results.folder.glob(f"{pattern}/stage.json")
    settings: dict[str, Any] = read_json(path)["settings"]
    return settings


def _opened(folder: Path, recipe: Recipe, seed: int, model: str) -> Path:
    """The folder, new or of a job with the same settings."""
    settings = {**asdict(recipe), "seed": seed, "model": model, "versions": versions()}
    path = folder / SETTINGS
    if folder.exists() and not path.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: this is no folder of the demo; name another one by --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(path, settings, resume=path.exists())
    return folder


def _about(results: Results) -> dict[str, Any]:
    """An arm: its configuration, how it was trained, and the verdict of the guard."""
    values = results.values
    verdict = {key: value for key, value in values["guard"].items() if "per_query" not in key}
    return {
        "config": values["config"],
        "training_data": values["training_data"]["summary"],
        "training": next(iter(values["training"].values())),
        "verdict": verdict,
        "model": (Path(results.folder.name) / values["model"]).as_posix(),
    }


def _silent(title: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, total: None)
