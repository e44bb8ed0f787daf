"""Comparisons as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmp_rerank.evaluation.compare import Comparison


def p_text(p: float) -> str:
    """A p value for a table.

    Example:
        >>> p_text(0.0421), p_text(0.00004)
        ('0.042', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def comparison_tables(comparison: Comparison) -> Any:
    """One rich table for each measure, with the method below the last."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for measure in comparison.measures:
        table = Table(title=measure, title_justify="left", title_style="bold")
        table.add_column("system")
        for column in ("mean", "interval", "difference", "interval", "p t", "p rand.", "d", "+/=/-", "detectable"):
            table.add_column(column, justify="right")
        for system in comparison.systems:
            mean = comparison.mean(system, measure)
            seeds = f" ({mean.seeds} seeds)" if mean.seeds > 1 else ""
            row = [system + seeds, f"{mean.mean:.4f}", f"{mean.low:.4f}..{mean.high:.4f}"]
            if system == comparison.baseline:
                table.add_row(*row, "baseline", style="dim")
                continue
            c = comparison.contrast(system, measure)
            style = {"better": "green", "worse": "red"}.get(c.verdict, "")
            table.add_row(
                *row,
                Text(f"{c.difference:+.4f}{'*' if c.significant else ''}", style=style),
                f"{c.low:+.4f}..{c.high:+.4f}",
                p_text(c.t_p_holm),
                p_text(c.randomisation_p_holm),
                "" if c.effect_size is None else f"{c.effect_size:+.2f}",
                f"{c.wins}/{c.ties}/{c.losses}",
                "" if c.detectable is None else f"{c.detectable:.4f}",
            )
        parts.append(table)
    parts.append(Text("* significant. " + comparison.method(), style="dim"))
    parts.extend(Text(note, style="yellow") for note in comparison.notes())
    return Group(*parts)
