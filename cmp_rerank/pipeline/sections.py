"""The base of all sections: no unknown key, every key described; and a section made from a dataclass of options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator


class Section(BaseModel):
    """Keys of the configuration with their defaults; the description of each key is what its comment says."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=False)


class Options(Section):
    """A section whose keys are the fields of a dataclass of options; `options_section` makes one."""

    _options: ClassVar[type]
    _taken: ClassVar[tuple[str, ...]]

    def build(self, **others: Any) -> Any:
        """The options as their dataclass.

        Args:
            others: fields of the dataclass that are no keys of the section.

        Raises:
            ValueError: an option is out of its range, or does not go with another one.
        """
        return self._options(**{name: getattr(self, name) for name in self._taken}, **others)

    @model_validator(mode="after")
    def _check(self) -> Options:
        self.build()
        return self


def options_section(options: type, left_out: tuple[str, ...] = (), **own: Any) -> type[Options]:
    """A section for a frozen dataclass that validates itself, so that an option is described in one place.

    Args:
        options: the dataclass; its docstring describes the fields under ``Attributes:`` or ``Args:``.
        left_out: fields that are no keys of the section, since others decide them.
        own: key -> (type, ``pydantic.Field``): keys of the section's own, or in place of a field. They are not
            handed to the dataclass.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Cut:
        ...     \'\'\'How to cut.
        ...
        ...     Attributes:
        ...         depth: How many stay,
        ...             at least 1.
        ...     \'\'\'
        ...
        ...     depth: int = 10
        >>> section = options_section(Cut)
        >>> section(depth="5").build()
        Cut(depth=5)
        >>> section.model_fields["depth"].description
        'How many stay, at least 1.'
    """
    described = descriptions(options)
    hints = get_type_hints(options)
    taken: dict[str, Any] = {
        field.name: (hints[field.name], _field(field, described.get(field.name, "")))
        for field in dataclasses.fields(options)
        if field.init and field.name not in left_out and field.name not in own
    }

    made: type[Options] = create_model(  # type: ignore[call-overload]
        options.__name__,
        __base__=Options,
        __doc__=(inspect.getdoc(options) or "").split("\n", 1)[0],
        **taken,
        **own,
    )
    made._options, made._taken = options, tuple(taken)
    return made


def _field(field: dataclasses.Field[Any], description: str) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory, description=description)
    default = ... if field.default is dataclasses.MISSING else field.default
    return Field(default, description=description)


def descriptions(described: type) -> dict[str, str]:
    """What the docstring of a class, and of those that it extends, says of each attribute or argument.

    Example:
        >>> from cmp_rerank.training import RerankerTrainingArguments
        >>> descriptions(RerankerTrainingArguments)["unpadded"]
        "Whether the encoder's layers run without padding, where the model allows it."
    """
    found: dict[str, str] = {}
    for owner in reversed(described.__mro__):
        doc = inspect.cleandoc(vars(owner).get("__doc__") or "")
        for block in re.findall(r"^(?:Args|Attributes|Parameters):\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE):
            for name, text in re.findall(
                r"^[ ]{4}(\w+)[^:\n]*:[ ]((?:.*\n?)(?:(?:[ ]{5,}.*)?\n?)*)", block, re.MULTILINE
            ):
                found[name] = _as_yaml(" ".join(text.replace("``", "`").split()))
    return found


def _as_yaml(text: str) -> str:
    """A description as a comment of a YAML file: without the marks of Sphinx, and with null for None.

    Example:
        >>> _as_yaml("arguments of :class:`~cmp_rerank.ir.BM25`. None: all.")
        'Arguments of `BM25`. null: all.'
    """
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"\bNone\b", "null", text)
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+ ", text) else text
