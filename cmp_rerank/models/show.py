"""Printing the views of one example: what each step of a plan leaves of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from cmp_rerank.ablations import Example, Plan, TextPair, View
from cmp_rerank.ablations.base import FIXED, PASSAGE, QUERY
from cmp_rerank.models.pairs import Truncation, example_seed, prepared_example, tokenise

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from sentence_transformers import CrossEncoder

_WORD = re.compile(r"\w+|[^\w\s]")


def show_views(
    plan: Plan,
    query: str,
    passage: str,
    *,
    model: CrossEncoder | None = None,
    relevant: bool = True,
    seed: int = 0,
    console: Console | None = None,
) -> None:
    """Print the views of one example: support in green, what was cropped dim, and struck out where colours are shown.

    Args:
        plan: the steps.
        query: the query.
        passage: the passage.
        model: its tokenizer and window are used; None: words are the tokens, and there is no window.
        relevant: whether the passage is relevant, so that it has support.
        seed: what the random choices derive from.
        console: where to print. Default: the terminal.

    Raises:
        ValueError: as `cmp_rerank.models.pairs.tokenise`.

    Example:
        >>> from rich.console import Console
        >>> from cmp_rerank.ablations import CmpCrop, CmpDrop
        >>> plan, console = Plan([CmpCrop(), CmpDrop()]), Console(width=80, color_system=None)
        >>> show_views(plan, "who eats", "It rains. Pandas eat. It snows.", relevant=False, seed=1, console=console)
        full     12 tokens  who eats | It rains. Pandas eat. It snows.
        CmpCrop  6 tokens   who eats | It rains. […]
        CmpDrop  6 tokens   who eats | It rains. […]
        p = 0.1
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    truncation = Truncation()
    if model is None:
        example, decode = _in_words(plan, query, passage, relevant, f"{seed}")
    else:
        (example,) = tokenise(
            model, [(query, passage)], plan, relevant=[relevant], draw=f"{seed}", truncation=truncation
        )
        ids, tokenizer = example.features["input_ids"], model.tokenizer

        def decode(tokens: np.ndarray) -> str:
            return str(tokenizer.decode(ids[tokens])).strip()

    table = Table.grid(padding=(0, 2))
    views = plan.views(example)
    for number, view in enumerate(views):
        name = _name(plan, views, number)
        table.add_row(
            Text(name), f"{len(view)} tokens", _text(example, view, decode, struck=console.color_system is not None)
        )
    console.print(table)
    if truncation.cut:
        console.print(f"{truncation}.", style="yellow")


def _name(plan: Plan, views: Sequence[View], number: int) -> str:
    """The ablation of a step, and what it says of its level."""
    if not number:
        return "full"
    step, view = plan.steps[number - 1], views[number]
    level = view.level(plan.on_model.index(step)) if step.on_model else plan.steps[:number].count(step)
    return "\n".join(filter(None, [type(step).__name__, step.label(level)]))


def _text(example: Example, view: View, decode: Callable[[np.ndarray], str], struck: bool) -> Text:
    from rich.text import Text

    kept = np.zeros(len(example), dtype=bool)
    kept[view.tokens] = True
    until = example.segment if example.until is None else example.until
    supports = np.array(
        [any(a <= s <= b for s in example.support) and a >= 0 for a, b in zip(example.segment, until, strict=True)]
    )
    text = Text()
    for (stays, support, fixed), run in groupby(
        range(len(example)), key=lambda i: (bool(kept[i]), bool(supports[i]), bool(example.segment[i] < 0))
    ):
        piece = decode(np.array(list(run)))
        if not stays:
            piece, style = (piece, "dim strike") if struck else ("[…]", "dim")
        else:
            style = "bold green" if support else "cyan" if fixed else ""
        text.append(f"{' ' if len(text) and piece else ''}{piece}", style)
    return text


def _in_words(
    plan: Plan, query: str, passage: str, relevant: bool, draw: str
) -> tuple[Example, Callable[[np.ndarray], str]]:
    """An example whose tokens are words, of no model."""
    if not passage.strip():
        raise ValueError("The passage is empty: give a text.")
    asked = [*(word.span() for word in _WORD.finditer(query))]
    spans = [word.span() for word in _WORD.finditer(passage)]
    part = np.array([QUERY] * len(asked) + [FIXED] + [PASSAGE] * len(spans))
    features: dict[str, np.ndarray[Any, Any]] = {"input_ids": np.arange(len(part))}
    offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)
    pair = TextPair(query, passage, relevant, part, offsets, (0, len(passage)), lambda: offsets)
    example = prepared_example(plan.preparing, pair, features, example_seed(query, passage, draw))

    def decode(tokens: np.ndarray) -> str:
        pieces = []
        words = tokens[tokens < len(asked)]
        if len(words):
            pieces.append(query[asked[words[0]][0] : asked[words[-1]][1]])
        if len(asked) in tokens:
            pieces.append("|")
        words = tokens[tokens > len(asked)] - len(asked) - 1
        if len(words):
            pieces.append(passage[spans[words[0]][0] : spans[words[-1]][1]])
        return " ".join(pieces)

    return example, decode
