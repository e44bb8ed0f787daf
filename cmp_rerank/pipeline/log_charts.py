"""The log of trainings as charts: losses and rates by step, and the measure on the validation split."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from itertools import product
from pathlib import Path

#: The charts of what training logs: title, logged names, and what they are called in the chart.
_CHARTS = (
    ("loss", r"loss", ""),
    ("task loss by step", r"task_loss_(full|step_\d+)", r"\1"),
    ("violation and beaten rates", r"(violation_rate|beaten_rate)", r"\1"),
)


def log_charts(logs: Mapping[int, Path], measure: str) -> dict[str, dict[str, list[list[float]]]]:
    """Charts of the logs of trainings.

    Args:
        logs: by seed, ``metrics.jsonl`` of its training; one that is not there (its folder, with the checkpoints, was
            removed to save space) has no part in the charts.
        measure: of the evaluations.

    Returns:
        Chart -> series -> (step, value) points; only those that the logs have. Values that were not finite (null), of
        a training that diverges, are left out, and the name of the series says how many.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "metrics.jsonl"
        ...     lines = ['{"step": 1, "loss": 0.5, "task_loss_step_1": 0.7}', '{"step": 1, "eval_RR": 0.3}']
        ...     _ = path.write_text("\\n".join(lines))
        ...     for title, series in log_charts({0: path}, "RR").items():
        ...         print(title, series)
        validation RR {'seed 0': [[1, 0.3]]}
        loss {'seed 0': [[1, 0.5]]}
        task loss by step {'step 1': [[1, 0.7]]}
    """
    kinds = ((f"validation {measure}", re.escape(f"eval_{measure}"), ""), *_CHARTS)
    charts: dict[str, dict[str, list[list[float]]]] = {title: {} for title, _, _ in kinds}
    left_out: Counter[tuple[str, str]] = Counter()
    for seed, path in logs.items():
        if not path.exists():
            continue
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record, (title, names, label) in product(records, kinds):
            for name, value in record.items():
                if found := re.fullmatch(names, name):
                    what = found.expand(label).replace("_", " ")
                    # Where there is one training, its seed tells nothing, unless there is nothing else to tell.
                    which = [what] * bool(what) + [f"seed {seed}"] * (len(logs) > 1 or not what)
                    series = ", ".join(which)
                    if value is not None:  # which is not finite
                        charts[title].setdefault(series, []).append([record["step"], value])
                    else:
                        left_out[title, series] += 1
    for (title, series), count in left_out.items():
        if series in charts[title]:
            charts[title][f"{series} (without {count:,} not finite)"] = charts[title].pop(series)
    return {title: several for title, several in charts.items() if several}
