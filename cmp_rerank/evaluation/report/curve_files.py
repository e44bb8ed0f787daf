"""Curves for the report: from JSON, or from the CSV that evaluators write during training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmp_rerank.collections.rows import read_rows
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.ir.reading import read_json

#: Chart -> series -> (x, y) points.
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]


def read_curves(path: PathLike) -> dict[str, dict[str, list[list[float]]]]:
    """Read curves: JSON (chart -> series -> points), or the CSV that evaluators write during training.

    In a CSV, ``steps`` (or else the first column) is x, and each other column but ``epoch`` is a chart.

    Args:
        path: The file; .csv is CSV, everything else JSON.

    Returns:
        Chart -> series -> (x, y) points.

    Raises:
        ValueError: With the file, when it is neither.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "dev_results.csv")
        >>> _ = path.write_text("epoch,steps,RR@10\\n0.5,10,0.25\\n1,20,0.5\\n")
        >>> read_curves(path)
        {'RR@10': {'dev': [[10.0, 0.25], [20.0, 0.5]]}}
    """
    if not Path(path).is_file():
        raise ValueError(f"{os.fspath(path)}: no such file")
    curves = _csv_curves(path) if os.fspath(path).endswith(".csv") else read_json(path)
    try:
        if isinstance(curves, Mapping) and {"config", "points"} <= curves.keys():
            raise ValueError(
                "these are the utility curves of `cmp-rerank curves`, whose plot is beside them; a report takes "
                "chart -> series -> (x, y) points, or the CSV of an evaluator"
            )
        check_curves(curves)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    return curves  # type: ignore[no-any-return]


def _csv_curves(path: PathLike) -> dict[str, dict[str, list[list[float]]]]:
    rows = list(read_rows(path))
    if not rows:
        raise ValueError(f"{os.fspath(path)}: no rows")
    columns = list(rows[0][1])
    x = "steps" if "steps" in columns else columns[0]
    series = Path(path).stem.removesuffix("_results")
    return {
        column: {series: [[_number(where, row[x]), _number(where, row[column])] for where, row in rows]}
        for column in columns
        if column not in (x, "epoch")
    }


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: a value is not a number ({text!r:.80}); correct it") from None


def check_curves(curves: Any) -> None:
    """Refuse what does not map charts to series of points.

    Raises:
        ValueError: With the chart and the series.
    """
    if not isinstance(curves, Mapping):
        raise ValueError(f"curves map charts to series of points; got a {type(curves).__name__}")
    for chart, series in curves.items():
        if not isinstance(series, Mapping):
            raise ValueError(f"the chart {chart!r:.80} must map series to points; got {series!r:.80}")
        for name, points in series.items():
            if not isinstance(points, Sequence) or not points or not all(map(_is_point, points)):
                raise ValueError(
                    f"the series {name!r:.80} of {chart!r:.80} must be a list of (x, y) points, two numbers each; "
                    f"got {points!r:.80}"
                )


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, Sequence)
        and len(point) == 2
        and all(isinstance(value, int | float) and abs(value) < math.inf for value in point)
    )
