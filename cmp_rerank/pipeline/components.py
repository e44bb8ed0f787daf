"""Objects that a configuration names: a loss, an ablation, an objective, and what is handed to them.

``{kind: drop, p: 0.2}`` stands for ``CmpDrop(p=0.2)``, and ``drop`` alone for ``CmpDrop()``. A kind is a short name,
the name of a public class, or ``module:Name`` for a class of your own. An option may be such an object itself:
``{kind: crop, segmenter: {kind: Sentences, language: de}}``. Names and options are checked before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cmp_rerank.ir.arguments import kind as described
from cmp_rerank.pipeline.problems import Problem, allowed_names

KIND = "kind"


@dataclass(frozen=True)
class Slot:
    """A place of the configuration that an object is put into.

    Attributes:
        what: what the object is, with its article: "a loss".
        base: ``module:Name`` of the class that objects of this place have; "": any.
        short: short name -> ``module:Name``.
        modules: their public classes of this base are known by name.
        supplied: arguments that are not given in the configuration: the model of a loss.
    """

    what: str
    base: str = ""
    short: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The names that are known without a module, the short ones first."""
        base = _load(self.base) if self.base else object
        return [*self.short, *(name for name, made in self._public().items() if issubclass(made, base))]

    def find(self, name: str) -> Any:
        """The class, or function, of a name.

        Raises:
            ValueError: there is none; the message says which names there are.
        """
        if name in self.short:
            return _load(self.short[name])
        if ":" in name:
            return _own(name)
        public = self._public()
        if name in public:
            return public[name]
        raise ValueError(
            f"there is no {self.what.split(' ', 1)[1]} {name!r}; {allowed_names(name, self.names())}; "
            "a class of your own is written module:Name"
        )

    def _public(self) -> dict[str, type]:
        found: dict[str, type] = {}
        for path in self.modules:
            module = import_module(path)
            for name in getattr(module, "__all__", dir(module)):
                value = getattr(module, name)
                if isinstance(value, type):
                    found.setdefault(name, value)
        return found


LOSS = Slot(
    "a loss",
    base="torch.nn:Module",
    modules=("sentence_transformers.cross_encoder.losses", "cmp_rerank.losses"),
    supplied=("model",),
)
ABLATION = Slot(
    "an ablation",
    base="cmp_rerank.ablations:Ablation",
    short={
        "crop": "cmp_rerank.ablations:CmpCrop",
        "drop": "cmp_rerank.ablations:CmpDrop",
        "copies": "cmp_rerank.ablations:IndependentCopies",
    },
    modules=("cmp_rerank.ablations",),
)
OBJECTIVE = Slot(
    "an objective",
    base="cmp_rerank.objectives:Objective",
    short={
        "hinge": "cmp_rerank.objectives:PairwiseHinge",
        "listwise": "cmp_rerank.objectives:Listwise",
        "mean": "cmp_rerank.objectives:MeanOfSteps",
        "regularized": "cmp_rerank.objectives:HingeRegularized",
    },
    modules=("cmp_rerank.objectives",),
)
#: What may be handed to an object: segmenters, support, schedules, ablations, activations, parts of losses.
PART = Slot(
    "an object",
    short={**ABLATION.short, **OBJECTIVE.short},
    modules=("cmp_rerank", "sentence_transformers.cross_encoder.losses", "torch.nn"),
)


def problems(slot: Slot, value: Any, key: tuple[str | int, ...] = ()) -> list[Problem]:
    """All that is wrong with the description of an object. What needs no model is made, to hear what its class says.

    Args:
        slot: where it stands.
        value: a name, or a mapping with a ``kind`` and options.
        key: the key of the value.

    Example:
        >>> problems(ABLATION, {"kind": "drop", "q": 0.1})
        [Problem(key=('q',), text="CmpDrop has no option 'q'; there are p, layers, steps, site, unit")]
        >>> problems(ABLATION, {"kind": "drop", "p": 2})
        [Problem(key=(), text='p must be a rate between 0 and 1 (exclusive); got 2.')]
    """
    name, options, wrong = _parts(slot, value, key)
    if wrong:
        return wrong
    try:
        made = slot.find(name)
    except ValueError as error:
        return [Problem((*key, KIND) if isinstance(value, Mapping) else key, str(error))]
    for option, inner in options.items():
        for place, part in _nested(inner, (*key, option)):
            wrong += problems(PART, part, place)
    wrong += _signature_problems(made, options, slot.supplied, key)
    if wrong or slot.supplied:
        return wrong
    try:
        build(slot, value)
    except ValueError as error:
        return [Problem(key, str(error))]
    return []


def build(slot: Slot, value: Any, *, offered: Mapping[str, Any] | None = None, **supplied: Any) -> Any:
    """Make the object of a description.

    Args:
        slot: where it stands.
        value: a name, or a mapping with a ``kind`` and options; see `problems`.
        offered: arguments for a class that takes them, where the description does not give them.
        supplied: the arguments that the slot names.

    Raises:
        ValueError: the description is wrong, or its class refuses an option.

    Example:
        >>> build(ABLATION, {"kind": "crop", "segmenter": {"kind": "Sentences", "language": "de"}})
        CmpCrop(segmenter=Sentences(language='de'))
    """
    name, options, wrong = _parts(slot, value, ())
    if wrong:
        raise ValueError(wrong[0].text)
    made = slot.find(name)
    taken = _parameters(made)
    arguments = {option: value for option, value in (offered or {}).items() if option in taken}
    arguments |= {option: _made(inner) for option, inner in options.items()}
    try:
        return made(**supplied, **arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _parts(slot: Slot, value: Any, key: tuple[str | int, ...]) -> tuple[str, dict[str, Any], list[Problem]]:
    """Name and options of a description."""
    if isinstance(value, str):
        return value, {}, []
    if isinstance(value, Mapping) and isinstance(value.get(KIND), str):
        return value[KIND], {option: inner for option, inner in value.items() if option != KIND}, []
    text = (
        f"{slot.what} is a name, or a mapping with its kind and options, such as {{kind: {slot.names()[0]}}}; got "
        f"{described(value) if not isinstance(value, Mapping) else dict(value)!r}"
    )
    return "", {}, [Problem(key, text)]


def _nested(value: Any, key: tuple[str | int, ...]) -> list[tuple[tuple[str | int, ...], Any]]:
    """The descriptions of objects in an option: itself, or items of its list."""
    if isinstance(value, Mapping) and KIND in value:
        return [(key, value)]
    if isinstance(value, list | tuple):
        return [found for number, inner in enumerate(value) for found in _nested(inner, (*key, number))]
    return []


def _made(value: Any) -> Any:
    if isinstance(value, Mapping) and KIND in value:
        return build(PART, value)
    if isinstance(value, list | tuple):
        return [_made(inner) for inner in value]
    return value


def _signature_problems(
    made: Any, options: Mapping[str, Any], supplied: tuple[str, ...], key: tuple[str | int, ...]
) -> list[Problem]:
    """Options that the class does not take, that have another type, and that it needs and does not get."""
    kinds = inspect.Parameter
    parameters = {
        name: parameter
        for name, parameter in _parameters(made).items()
        if name not in supplied and parameter.kind not in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL)
    }
    anything = any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind is not kinds.VAR_KEYWORD}
    title = getattr(made, "__name__", repr(made))
    wrong = []
    for option, value in options.items():
        if option in named:
            wrong += [Problem((*key, option), text) for text in _type_problems(made, option, value)]
        elif not anything:
            hint = allowed_names(option, list(named))
            wrong.append(Problem((*key, option), f"{title} has no option {option!r}; {hint}"))
    missing = [name for name, p in named.items() if p.default is kinds.empty and name not in options]
    if missing:
        wrong.append(Problem(key, f"{title} needs {' and '.join(missing)}; got none"))
    return wrong


def _parameters(made: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function; of one that is not written in Python, any."""
    try:
        return inspect.signature(made).parameters
    except ValueError:
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _type_problems(made: Any, option: str, value: Any) -> list[str]:
    """What is wrong with a plain value by the annotation of its option; nothing where that cannot be told."""
    if isinstance(value, Mapping | list | tuple):
        return []  # objects and lists of them are made first, and their class looks at them
    try:
        hints = get_type_hints(getattr(made, "__init__") if isinstance(made, type) else made)  # noqa: B009
        TypeAdapter(hints[option], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        told = " or ".join(dict.fromkeys(f"{each['msg'][0].lower()}{each['msg'][1:]}" for each in error.errors()))
        return [f"{told}; got {value!r}"]
    except Exception:  # annotations that cannot be resolved, or not be checked
        return []
    return []


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _own(path: str) -> Any:
    """A class or function of the user, by module and name."""
    module, _, name = path.partition(":")
    try:
        found = import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{path!r} cannot be imported: {error}; put the module where Python finds it, such as the current folder"
        ) from error
    if not hasattr(found, name):
        public = [other for other, value in vars(found).items() if callable(value) and not other.startswith("_")]
        raise ValueError(f"the module {module!r} has no {name!r}; {allowed_names(name, public)}")
    value = getattr(found, name)
    if not callable(value):
        raise ValueError(f"{path!r} must be a class or a function; got {described(value)}")
    return value
