"""Measures by their ir-measures names, and what of a ranking each of them needs to see."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_SPACE = re.compile(r"\s+(?![^(]*\))")  # between names, not between the parameters of one
_MSMARCO = re.compile(r"MSMARCO-MRR(?:@(\d+))?")
# With a cut-off these depend on the documents above it only, and of those only on the judged ones and their
# ranks. Judged@k counts unjudged documents too, so it needs all k.
_TOP_JUDGED = {"P", "AP", "nDCG", "R", "RR", "Success"}
_TOP_ALL = {"Judged"}
# Without a cut-off these change only where a judged document stands.
_JUDGED = {"AP", "nDCG", "RR", "Rprec", "IPrec", "Bpref", "infAP"}


@dataclass(frozen=True)
class Measure:
    """A measure, and how much of a ranking decides it.

    Attributes:
        name: The name it is reported under, in ir-measures' spelling.
        ir: The measure of ir-measures; None for ``MSMARCO-MRR@k``, which has a definition of its own.
        cutoff: The k of ``@k``, if it has one.
        depth: The provider needs no rank below this one; None when it needs all.
        to_last_judged: The provider needs no rank below the last judged document (within `depth`) either.
    """

    name: str
    ir: Any
    cutoff: int | None
    depth: int | None
    to_last_judged: bool

    @property
    def is_sum(self) -> bool:
        """Whether queries are added up (NumRet, NumQ) rather than averaged."""
        return self.ir is not None and type(self.ir.aggregator()).__name__ == "SumAgg"

    @property
    def default(self) -> float:
        """The value of a query for which the run has no document."""
        return 0.0 if self.ir is None else float(self.ir.DEFAULT)


def parse_measures(measures: str | Iterable[Any]) -> tuple[Measure, ...]:
    """Read measure names.

    Args:
        measures: Names in ir-measures' notation (``"nDCG@10"``, ``"AP(rel=2)@1000"``), ir-measures objects, or
            one string with names between spaces. ``"MSMARCO-MRR@10"`` is the measure of MS MARCO's script.

    Returns:
        The measures, each once, in their order.

    Raises:
        ValueError: A name cannot be read, is unknown, or needs data that runs and qrels do not hold.

    Example:
        >>> [measure.name for measure in parse_measures("nDCG@10 RR AP(rel=2)@1000 MSMARCO-MRR@10")]
        ['nDCG@10', 'RR', 'AP(rel=2)@1000', 'MSMARCO-MRR@10']
    """
    items = _SPACE.split(measures.strip()) if isinstance(measures, str) else list(measures)
    items = [item for item in items if item != ""]
    parsed = {measure.name: measure for measure in map(_parse, items)}
    if not parsed:
        raise ValueError("no measure was given; name at least one, for example nDCG@10")
    return tuple(parsed.values())


def _parse(item: Any) -> Measure:
    import ir_measures

    if isinstance(item, Measure):
        return item
    if isinstance(item, str) and (match := _MSMARCO.fullmatch(item.strip())):
        last = int(match[1] or 10)
        if last < 1:
            raise ValueError(f"the cut-off of MSMARCO-MRR must be at least 1, got {item!r}")
        return Measure(f"MSMARCO-MRR@{last}", None, last, last, True)
    try:
        ir = ir_measures.parse_measure(item)
        ir.validate_params()
    except NameError:
        known = ", ".join(sorted(ir_measures.measures.registry))
        raise ValueError(f"unknown measure {item!r}; MSMARCO-MRR@k and the names of ir-measures: {known}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"cannot read the measure {item!r} ({error}); write it as ir-measures does, for example nDCG@10 or "
            "AP(rel=2)@1000"
        ) from None
    if not ir_measures.DefaultPipeline.supports(ir):
        raise ValueError(
            f"no provider that is installed computes {ir} for plain runs and qrels; see ir-measures' documentation "
            "for the package that does"
        )
    cutoff: int | None = dict(ir.params).get("cutoff")
    if cutoff is not None and cutoff < 1:
        raise ValueError(f"the cut-off must be at least 1, got {item!r}")
    judged = False
    depth: int | None = None
    # With judged_only the provider removes unjudged documents before it cuts, so every rank can matter.
    if not ir.params.get("judged_only"):
        judged = ir.NAME in (_TOP_JUDGED if cutoff else _JUDGED)
        depth = cutoff if ir.NAME in _TOP_JUDGED | _TOP_ALL else None
    return Measure(str(ir), ir, cutoff, depth, judged)
