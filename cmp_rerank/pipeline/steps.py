"""Files with a line for each step of a training, which a resumed training goes on writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cmp_rerank.evaluation.evaluator import RunEvaluator
from cmp_rerank.ir import Progress
from cmp_rerank.ir.lines import without_nan, write_lines


class StepFile:
    """JSON lines, each with a ``step``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = StepFile(Path(folder) / "metrics.jsonl")
        ...     for step in (1, 2, 3):
        ...         file.append(step, {"loss": 1 / step})
        ...     file.cut(after=2)  # resumed from a checkpoint of step 2
        ...     print(file.path.read_text(), end="")
        {"step": 1, "loss": 1.0}
        {"step": 2, "loss": 0.5}
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, record: dict[str, Any]) -> None:
        """Write one line; a number that is not finite, which JSON has not, is null."""
        known = without_nan(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **known}, ensure_ascii=False, allow_nan=False) + "\n")

    def cut(self, after: int) -> None:
        """Remove the lines of later steps, and one that was cut off by a kill."""
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_lines(self.path, [line for line in lines if _step(line) <= after])


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")


class Record(TrainerCallback):
    """Writes what a training logs, and the values of each evaluation by query, and shows the progress.

    Args:
        folder: for ``metrics.jsonl`` and ``values.jsonl``.
        evaluator: whose last evaluation is written; None: none.
        progress: called with the steps that are done and their number.
    """

    def __init__(self, folder: Path, evaluator: RunEvaluator | None, progress: Progress) -> None:
        self.metrics, self.values = StepFile(folder / "metrics.jsonl"), StepFile(folder / "values.jsonl")
        self.evaluator, self.progress = evaluator, progress

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget what came after the checkpoint."""
        if state.is_world_process_zero:
            # A training that begins anew evaluates its start, at step 0, again.
            for file in (self.metrics, self.values):
                file.cut(after=state.global_step or -1)
        self.progress(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write what is logged."""
        if state.is_world_process_zero and logs:
            self.metrics.append(state.global_step, dict(logs))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the values of each query."""
        if state.is_world_process_zero and self.evaluator is not None and self.evaluator.last is not None:
            self.values.append(state.global_step, {"values": self.evaluator.last.per_query})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the progress."""
        self.progress(state.global_step, state.max_steps)
