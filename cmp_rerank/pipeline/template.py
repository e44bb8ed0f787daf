"""A configuration written whole, with a comment for each key; it loads back as an equal one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from cmp_rerank.pipeline import training_section
from cmp_rerank.pipeline.config import Config, to_dict
from cmp_rerank.pipeline.document import dump
from cmp_rerank.pipeline.sections import Section

_WIDTH = 100
#: What stands for the two keys without a default, where nothing is given: dotted key -> value.
EXAMPLES = {"data.collection": "beir:PATH", "model.name": "cross-encoder/ms-marco-MiniLM-L6-v2"}


def template(config: Config) -> str:
    """YAML of a configuration: every key with its value, below a comment that says what it is for.

    Args:
        config: what to write.

    Returns:
        The text; ``cmp_rerank.pipeline.load`` makes an equal configuration of it.

    Example:
        >>> from cmp_rerank.pipeline.config import load
        >>> text = template(load({"data": {"collection": "beir:scifact"}, "model": {"name": "my-model"}}))
        >>> for line in text[text.index("# What is measured") :].splitlines()[:6]:
        ...     print(line)
        # What is measured, in training and at the end.
        evaluation:
          # Measures, as ir_measures writes them.
          measures: [nDCG@10, RR@10, R@100]
          # The measure that chooses the checkpoint and that the guard decides by; null: the first.
          primary: null
    """
    values = to_dict(config)
    blocks = []
    for name, field in Config.model_fields.items():
        lines = list(_comment(field.description or "", ""))
        inner = getattr(config, name)
        if isinstance(inner, Section):
            described = {key: each.description or "" for key, each in type(inner).model_fields.items()}
            lines += _nested(name, values[name], described)
        elif name == "training":
            lines += _nested(name, values[name], {key: training_section.help_of(key) for key in values[name]})
        else:
            lines += _entry(name, values[name], "")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _nested(name: str, values: Mapping[str, Any], described: Mapping[str, str]) -> Iterator[str]:
    yield f"{name}:"
    for key, value in values.items():
        yield from _comment(described[key], "  ")
        yield from _entry(key, value, "  ")


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


def _entry(key: str, value: Any, indent: str) -> Iterator[str]:
    for line in dump({key: value}).splitlines():
        yield indent + line
