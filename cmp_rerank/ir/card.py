"""Sections of a model card: sentence-transformers writes the card of a checkpoint, and others add what they know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from cmp_rerank.ir.lines import PathLike, replacing

#: The heading of the card's template that own sections stand before.
BEFORE = "## Training Details"


def with_section(card: str, title: str, body: str) -> str:
    """A card with a section of a title: in place of its section of that title, or else before the training details.

    Args:
        card: Markdown. Without training details, the section comes last.
        title: The heading.
        body: Markdown, with headings of the third level or below.

    Returns:
        The card.

    Raises:
        ValueError: A line of the body is a heading of the second level, where the section would end.

    Example:
        >>> card = "# Model\\n\\n## Training Details\\nmany\\n"
        >>> print(with_section(with_section(card, "Guard", "old"), "Guard", "new"))
        # Model
        <BLANKLINE>
        ## Guard
        <BLANKLINE>
        new
        <BLANKLINE>
        ## Training Details
        many
        <BLANKLINE>
    """
    if re.search(r"^## ", body, re.MULTILINE):
        raise ValueError(f"the section {title!r} must have headings of the third level; got one of the second")
    rest = re.sub(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", "", card, flags=re.MULTILINE | re.DOTALL)
    before, found, after = rest.partition(f"\n{BEFORE}\n")
    start = before.rstrip("\n")
    return f"{start}\n\n## {title}\n\n{body.strip()}\n" + (found and f"\n{BEFORE}\n{after}")


def add_section(path: PathLike, title: str, body: str, results: Sequence[EvalResult] | None = None) -> None:
    """Add a section to the card of a checkpoint; where there is no card, nothing is done.

    Args:
        path: The card, ``README.md`` in the folder of the checkpoint.
        title: The heading.
        body: As for `with_section`.
        results: What hubs read from the head of the card, in place of what stands there; None leaves it.

    Raises:
        ValueError: As `with_section`.
    """
    if not Path(path).exists():
        return  # upstream could not write it, and has logged why
    card = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True)
    if results is not None:
        data: Any = card.data  # a ModelCardData, whatever the type of the base class
        data.model_name = data.model_name or "reranker"
        data.eval_results = list(results)
    card.content = with_section(str(card), title, body)
    with replacing(path) as file:
        file.write(card.content)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(table(["system", "RR"], [["a|b", "0.5"]]))
        | system | RR |
        |---|---|
        | a\\|b | 0.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" if n != 1 else f"|{'|'.join(line)}|" for n, line in enumerate(cells))
