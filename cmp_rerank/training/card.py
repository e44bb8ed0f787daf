"""The model card of what `ComparativeTrainer` saves, as sentence-transformers writes one of a cross-encoder."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import Trainer
from transformers.modelcard import extract_hyperparameters_from_trainer

from cmp_rerank.hooks.wrappers import base_model
from cmp_rerank.ir.card import BEFORE, add_section, table
from cmp_rerank.ir.lines import PathLike, write_lines
from cmp_rerank.losses.core import CITATION, Comparison

CARD = "README.md"
TITLE = "Comparative training"
#: In a log entry: what says nothing of the losses.
_OPTIMISER = ("grad_norm", "learning_rate", "epoch", "step")


def write_card(folder: PathLike, trainer: Trainer, comparison: Comparison) -> None:
    """Say in the card of a checkpoint how its losses were compared.

    A card that is there already, such as that of an adapter by peft, keeps all but the section of this title.

    Args:
        folder: Of the checkpoint.
        trainer: That has trained it.
        comparison: What it has compared.
    """
    path = Path(folder) / CARD
    if not path.exists():
        write_lines(path, [_card(trainer)])
    add_section(path, TITLE, section(trainer, comparison))


def section(trainer: Trainer, comparison: Comparison) -> str:
    """The steps and the objective, what they came to, and the paper, in Markdown."""
    settings = json.dumps(comparison.settings(), indent=4)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    last = {name: value for name, value in (entries or [{}])[-1].items() if name not in _OPTIMISER}
    return "\n\n".join(
        [
            "Trained with `cmp_rerank.ComparativeTrainer`: examples were scored in full and once for each ablation "
            "step, and the objective combined their task losses. At inference it is an ordinary checkpoint.",
            f"```json\n{settings}\n```",
            *([_losses(entries[-1]["step"], last)] if last else []),
            f"```bibtex\n{CITATION.strip()}\n```",
        ]
    )


def _losses(step: int, values: dict[str, float]) -> str:
    rows = [[name, f"{value:.4g}"] for name, value in values.items()]
    return f"### Losses, logged at step {step:,}\n\n{table(['name', 'value'], rows)}"


def _card(trainer: Trainer) -> str:
    """A card for the section to stand in: the model, where it came from, the hyperparameters and the versions."""
    model: Any = base_model(trainer.model)
    start = getattr(getattr(model, "config", None), "_name_or_path", "")
    data = ModelCardData(library_name="transformers", tags=["cmp_rerank", "generated_from_trainer"])
    options = "\n".join(f"- {name}: {value}" for name, value in extract_hyperparameters_from_trainer(trainer).items())
    versions = "\n".join(f"- {name}: {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {type(model).__name__}\n\n"
        + (f"Fine-tuned from `{start}`.\n\n" if start else "")
        + f"{BEFORE}\n\n### Hyperparameters\n\n{options}\n\n### Framework versions\n\n{versions}\n"
    )
