"""What the guard has found, in the model card of what it hands over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import EvalResult

from cmp_rerank.evaluation.statistics import bootstrap_means, interval
from cmp_rerank.guard.mix import Mix
from cmp_rerank.guard.verdict import Row, Verdict
from cmp_rerank.ir.card import add_section, table

TITLE = "What the guard found"
_LEVEL = 0.95


def add_verdict(folder: Path, mix: Mix, verdict: Verdict) -> None:
    """Add the verdict to the card of a checkpoint.

    The metadata of the card then has the value of what is handed over, in place of those of the tuned model.

    Args:
        folder: Of the checkpoint.
        mix: What share of the score it has.
        verdict: Why.
    """
    chosen = verdict.row(verdict.chosen)
    result = EvalResult(
        task_type="text-ranking",
        task_name="Reranking",
        dataset_type="validation",
        dataset_name=f"{verdict.queries} validation queries",
        metric_type=verdict.measure,
        metric_name=f"{verdict.measure} of {chosen.words}",
        metric_value=round(chosen.mean, 4),
    )
    add_section(folder / "README.md", TITLE, section(mix, verdict), [result])


def section(mix: Mix, verdict: Verdict) -> str:
    """The verdict in Markdown: sentences, what the weights are, how to use them, all candidates with intervals."""
    chosen = verdict.row(verdict.chosen)
    parts = [verdict.sentence, *([verdict.test.sentence] if verdict.test else []), _weights(chosen, mix)]
    if 0 < mix.weight < 1:
        parts.append(_USE.format(share=mix.weight))
    parts.append(_candidates(verdict))
    versions = ", ".join(f"{name} {version}" for name, version in (verdict.versions or {}).items())
    parts.append(
        f"Intervals: {_LEVEL:.0%} percentile bootstrap over the validation queries, which the choice was made on. "
        f"Tuned models (training seeds): {verdict.seeds}. Versions: {versions}."
    )
    return "\n\n".join([*parts, *verdict.notes])


_USE = """The figures are those of a sum of scores, in which the model has a share of {share:g}. Rank by it like this:

```python
from cmp_rerank.guard import load_guard

guarded = load_guard("the folder of this model")
run = guarded.rerank(queries, corpus, first_stage)
```"""


def _weights(chosen: Row, mix: Mix) -> str:
    """Whether the fine-tuning has to do with the weights."""
    if mix.weight == 0:
        return "**This model has no part in the ranking: the first stage alone is to be used.**"
    if chosen.tuned:
        return f"This checkpoint is {chosen.words}."
    return (
        f"**This checkpoint is {chosen.words}.** Nothing of the fine-tuning that was judged is in its weights, "
        "whatever training is described below."
    )


def _candidates(verdict: Verdict) -> str:
    """All candidates with their intervals, the simplest first."""
    names = [row.name for row in verdict.rows]
    per_query = verdict.per_query or {}
    # (1, queries, 1) for each: one training seed, one measure
    values = [np.array(list(per_query[name].values()))[None, :, None] for name in names]
    means = bootstrap_means(values, seed=verdict.options["seed"])
    had = means[names.index(verdict.had)]
    rows: list[Sequence[str]] = []
    for row, samples in zip(verdict.rows, means, strict=True):
        roles = [role for role, name in (("had", verdict.had), ("handed over", verdict.chosen)) if name == row.name]
        low, high = interval(samples, _LEVEL)
        gain = ""
        if row.name != verdict.had:
            below, above = interval(samples - had, _LEVEL)
            gain = f"{row.gain:+.3f} ({below:+.3f} to {above:+.3f})"
        rows.append((row.name, f"{row.mean:.3f} ({low:.3f} to {high:.3f})", gain, ", ".join(roles)))
    return table(["candidate", verdict.measure, f"gain over {verdict.had}", ""], rows)
