"""How a run has made a model, in the model card: data, first stage, training, results, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmp_rerank.evaluation import Comparison
from cmp_rerank.evaluation.comparison import p_text
from cmp_rerank.ir.card import add_section, table
from cmp_rerank.pipeline.components import ABLATION, KIND, OBJECTIVE, Slot, build
from cmp_rerank.pipeline.config import Config
from cmp_rerank.pipeline.data import Task
from cmp_rerank.pipeline.folder import CARD
from cmp_rerank.pipeline.template import template

TITLE = "How this model was made"


def add_run(model: Path, config: Config, task: Task, comparison: Comparison, values: Mapping[str, Any]) -> None:
    """Add what a run has done to the card of one of its models.

    Args:
        model: the folder of the checkpoint.
        config: of the run.
        task: its data.
        comparison: its systems.
        values: what `results.json` says.
    """
    add_section(model / CARD, TITLE, section(config, task, comparison, values))


def section(config: Config, task: Task, comparison: Comparison, values: Mapping[str, Any]) -> str:
    """The same in Markdown."""
    start = values["environment"][0]
    versions = ", ".join(f"{name} {version}" for name, version in start["versions"].items())
    guard = values["guard"]
    return "\n\n".join(
        [
            "Made by `cmp-rerank train`. " + (guard["sentence"] if guard else "The guard was off."),
            _facts(config, task, values),
            f"### Results on the {values['part']} queries",
            *(_results(comparison, measure) for measure in comparison.measures),
            comparison.method(),
            *([] if values["learning_curve"] is None else [values["learning_curve"]["sentence"]]),
            "### Repeat it",
            f"```console\n{shlex.join(['cmp-rerank', 'train', 'config.yaml', '-o', 'run'])}\n```",
            f"With `config.yaml`; the command was `{shlex.join(_public(start['command']))}`.",
            f"<details><summary>config.yaml</summary>\n\n```yaml\n{template(config)}```\n\n</details>",
            f"Versions: {versions}. Machine: {start['platform']}, {start['device']}.",
        ]
    )


def _facts(config: Config, task: Task, values: Mapping[str, Any]) -> str:
    """A list of what the model was made of."""
    parts = ", ".join(f"{len(part.qrels):,} {name} (split {part.source!r})" for name, part in task.parts.items())
    objective = config.objective or ({KIND: "hinge"} if config.ablations else None)
    facts = {
        "Start": config.model.name,
        "Data": f"{task.collection.name}, {len(task.corpus):,} documents; queries: {parts}",
        "Training data": values["training_data"]["summary"],
        "First stage": f"{config.first_stage.kind}, {config.first_stage.depth} candidates of each query",
        "Loss": _component(config.loss),
        "Ablations": ", ".join(_made(ABLATION, each) for each in config.ablations) or "none: plain training",
        "Objective": _made(OBJECTIVE, objective) if objective else "the task loss alone",
        "Seeds": ", ".join(map(str, config.seeds)),
        "Steps": ", ".join(f"{record['steps']:,}" for record in values["training"].values()),
    }
    return "\n".join(f"- **{name}:** {text}" for name, text in facts.items())


def _public(command: Sequence[str]) -> list[str]:
    """A command without the folder that the program lies in, which is nobody's business who has the model.

    Example:
        >>> _public(["/home/ada/env/bin/cmp-rerank", "train", "a.yaml"]), _public(["/x/__main__.py", "train"])
        (['cmp-rerank', 'train', 'a.yaml'], ['cmp-rerank', 'train'])
    """
    program = Path(command[0]).name
    return ["cmp-rerank" if program == "__main__.py" else program, *command[1:]]


def _made(slot: Slot, given: Mapping[str, Any]) -> str:
    """A component of the configuration as it was used, its defaults included.

    Example:
        >>> _made(OBJECTIVE, {"kind": "hinge"})
        "`PairwiseHinge(baseline='zero', reduction='mean')`"
    """
    made = build(slot, given)
    return _component(given) if type(made).__repr__ is object.__repr__ else f"`{made!r}`"


def _component(given: Mapping[str, Any]) -> str:
    """A component of the configuration, as it is written in Python.

    Example:
        >>> _component({"kind": "drop", "p": 0.2})
        '`drop(p=0.2)`'
    """
    options = ", ".join(f"{name}={value!r}" for name, value in given.items() if name != KIND)
    return f"`{given[KIND]}({options})`" if options else f"`{given[KIND]}`"


def _results(comparison: Comparison, measure: str) -> str:
    """The systems with their intervals, by one measure."""
    rows: list[Sequence[str]] = []
    for system in comparison.systems:
        mean = comparison.mean(system, measure)
        seeds = f" ({mean.seeds} seeds)" if mean.seeds > 1 else ""
        row = [system + seeds, f"{mean.mean:.4f} ({mean.low:.4f} to {mean.high:.4f})"]
        if system == comparison.baseline:
            rows.append([*row, "", "", ""])
            continue
        c = comparison.contrast(system, measure)
        p = c.t_p_holm if comparison.config["test"] == "t" else c.randomisation_p_holm
        effect = "" if c.minimum_detectable_effect is None else f"{c.minimum_detectable_effect:.4f}"
        rows.append([*row, f"{c.difference:+.4f} ({c.low:+.4f} to {c.high:+.4f})", p_text(p), effect])
    return table(["system", measure, f"difference to {comparison.baseline}", "p", "MDE"], rows)
