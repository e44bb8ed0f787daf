"""What is wrong with a configuration: all of it at once, each with its key, its line and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmp_rerank.pipeline.document import Document, Key, dotted
from cmp_rerank.text.suggest import closest


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        key: where, in the nested sections.
        text: what is wrong, what was got, what to do.
    """

    key: Key
    text: str


class ConfigError(ValueError):
    """A configuration with all that is wrong with it.

    Args:
        document: the configuration, for its name and the lines.
        problems: what is wrong, at least one thing.

    Example:
        >>> from cmp_rerank.pipeline.document import parse
        >>> wrong = [Problem(("seeds", 0), "must be a number; got 'x'")]
        >>> print(ConfigError(parse("seeds: [x]", "train.yaml"), wrong))
        train.yaml: 1 error
          line 1, seeds.0: must be a number; got 'x'
    """

    def __init__(self, document: Document, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} error{'s' if len(problems) > 1 else ''}"
        lines = [_line(document, problem) for problem in problems]
        super().__init__("\n  ".join([f"{document.name}: {count}", *lines]))


def _line(document: Document, problem: Problem) -> str:
    where = ", ".join(part for part in (document.place(problem.key), dotted(problem.key)) if part)
    return f"{where}: {problem.text}" if where else problem.text


def allowed_names(name: str, allowed: Sequence[str], show: int = 40) -> str:
    """What could have been meant, and what is allowed.

    Args:
        name: what was written.
        allowed: the names that there are.
        show: so many names are shown at most.

    Example:
        >>> allowed_names("lerning_rate", ["learning_rate", "warmup_steps"])
        "did you mean 'learning_rate'? There are learning_rate, warmup_steps"
        >>> allowed_names("colour", ["learning_rate"])
        'there are learning_rate'
    """
    more = f" and {len(allowed) - show} more" if len(allowed) > show else ""
    listed = f"are {', '.join(allowed[:show])}{more}" if allowed else "is none"
    meant = closest(str(name), allowed)
    return f"there {listed}" if meant is None else f"did you mean {meant!r}? There {listed}"
