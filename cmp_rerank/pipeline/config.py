"""The configuration of a training: sections with defaults, from a file, from flags, or both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from cmp_rerank.collections import LoadOptions
from cmp_rerank.evaluation.measures import parse_measures
from cmp_rerank.guard import GuardOptions
from cmp_rerank.ir.arguments import kind as described
from cmp_rerank.ir.first_stages import FirstStageOptions
from cmp_rerank.mining import MiningOptions
from cmp_rerank.pipeline import components, training_section
from cmp_rerank.pipeline.components import ABLATION, LOSS, OBJECTIVE, Slot
from cmp_rerank.pipeline.document import Document, Key, parse_key, parse_value, plain, read
from cmp_rerank.pipeline.problems import ConfigError, Problem, allowed_names
from cmp_rerank.pipeline.sections import Section, options_section

PathLike = str | os.PathLike[str]
Count = Annotated[int, Field(ge=1)]


def _refused(problems: Iterable[Problem]) -> ValidationError:
    """Problems in the form in which pydantic collects them, with their keys below the field that is validated."""
    lines = [
        InitErrorDetails(type=PydanticCustomError("refused", "{text}", {"text": each.text}), loc=each.key, input=None)
        for each in problems
    ]
    return ValidationError.from_exception_data("refused", lines)


def _component(slot: Slot) -> Any:
    """A field that holds the description of an object of a slot: always a mapping with its kind."""

    def check(value: Any) -> dict[str, Any]:
        if wrong := components.problems(slot, value):
            raise _refused(wrong)
        return {components.KIND: value} if isinstance(value, str) else dict(value)

    return Annotated[dict[str, Any], BeforeValidator(check)]


if TYPE_CHECKING:  # made of the dataclasses of their options; type checkers cannot look into them
    Loading = Any
else:
    Loading = options_section(LoadOptions)


class Data(Section):
    """The documents, the queries and their answers."""

    collection: str | None = Field(
        None,
        description="A collection by kind and place, such as beir:PATH, msmarco:PATH, table:pairs.csv or docstrings.",
    )
    corpus: str | None = Field(None, description="Or files: the documents, BEIR JSONL or TSV.")
    queries: str | None = Field(None, description="The queries of all splits, BEIR JSONL or TSV.")
    qrels: dict[str, str] = Field(default_factory=dict, description="Split -> file of judgments.")
    train: str = Field("train", description="The split to train on.")
    validation: str | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="The split that chooses the checkpoint and that the guard decides on; or a share of the training "
        "queries that is held out. null: the split dev or validation, where there is one, or else 0.2.",
    )
    test: str | None = Field(
        None, description="The split that is reranked once, at the end. null: the split test, where there is one."
    )
    limit: Count | None = Field(None, description="Use at most so many queries of each split; null: all.")
    options: Loading = Field(
        default_factory=Loading, description="Options of cmp_rerank.collections.load, such as missing_texts: drop."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        files = {"corpus": self.corpus, "queries": self.queries, "qrels": self.qrels}
        given = [name for name, value in files.items() if value]
        if self.collection is None and len(given) < len(files):
            raise ValueError(
                f"needs a collection, or corpus, queries and qrels; got {' and '.join(given) or 'none of them'}"
            )
        if self.collection is not None and given:
            raise ValueError(f"takes a collection or files; got collection and {' and '.join(given)}; leave one out")
        return self


class Model(Section):
    """The cross-encoder to start from."""

    name: str = Field(
        description="A checkpoint: a folder or a name on the hub. A cross-encoder goes on from its weights; an "
        "encoder gets a new head, the same for the same seed."
    )
    max_length: Count | None = Field(None, description="Tokens of a pair; null: what the model says.")
    dropout: bool = Field(
        True,
        description="Whether the model's own dropout is on in training. The steps of drop switch it off in any case.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Other arguments of CrossEncoder, such as trust_remote_code: true."
    )

    @field_validator("options")
    @classmethod
    def _known(cls, options: dict[str, Any]) -> dict[str, Any]:
        import inspect

        from sentence_transformers import CrossEncoder

        own = ("self", "model_name_or_path", "modules", "max_length")
        names = [name for name in inspect.signature(CrossEncoder).parameters if name not in own]
        if unknown := [name for name in options if name not in names]:
            raise _refused(
                Problem((name,), f"CrossEncoder has no argument {name!r}; {allowed_names(name, names)}")
                for name in unknown
            )
        return options


class Evaluation(Section):
    """What is measured, in training and at the end."""

    measures: list[str] = Field(
        default_factory=lambda: ["nDCG@10", "RR@10", "R@100"],
        description="Measures, as ir_measures writes them.",
    )
    primary: str | None = Field(
        None, description="The measure that chooses the checkpoint and that the guard decides by; null: the first."
    )
    sample: Count | None = Field(
        None, description="Evaluate on at most so many validation queries during training; null: all."
    )
    batch_size: Count = Field(32, description="Pairs that are scored together.")
    patience: Count | None = Field(
        None, description="Stop early after so many evaluations without a gain; null: train to the end."
    )

    @field_validator("measures", mode="before")
    @classmethod
    def _measures(cls, value: Any) -> list[str]:
        return [measure.name for measure in parse_measures(value)]

    @model_validator(mode="after")
    def _primary(self) -> Evaluation:
        if self.main not in self.measures:
            raise ValueError(
                f"primary must be one of the measures, {', '.join(self.measures)}; got {self.primary!r}; add it to "
                "them"
            )
        return self

    @property
    def main(self) -> str:
        """The name of the primary measure."""
        return self.measures[0] if self.primary is None else parse_measures([self.primary])[0].name


#: The run of the first stage, where runs are named.
FIRST_STAGE = "first_stage"

if TYPE_CHECKING:  # as above
    FirstStage = Any
    Negatives = Any
    Guard = Any
else:
    FirstStage = options_section(
        FirstStageOptions,
        depth=(Count, Field(100, description="Candidates of each query.")),
        runs=(
            dict[str, str],
            Field(
                default_factory=dict,
                description="Split -> run of a first stage of your own, in place of this one: TREC or MS MARCO.",
            ),
        ),
    )
    Negatives = options_section(
        MiningOptions,
        left_out=("ids", "seed", "format"),
        runs=(
            tuple[str, ...],
            Field(
                (FIRST_STAGE,),
                description="Where negatives come from: first_stage, runs of the collection by name, or files.",
            ),
        ),
        filter_model=(
            str | None,
            Field(
                None, description="A cross-encoder whose scores the margins are about; null: the scores of the runs."
            ),
        ),
        teacher=(
            str | None,
            Field(
                None, description="What labels the documents: a cross-encoder, or a run file; null: the judgments."
            ),
        ),
    )
    Guard = options_section(
        GuardOptions,
        left_out=("depth", "batch_size"),
        enabled=(bool, Field(True, description="Whether the tuned model is compared with what there was.")),
    )


class Config(Section):
    """All that a training depends on; see `load` for files and flags.

    Example:
        >>> config = load({"data": {"collection": "beir:scifact"}, "model": {"name": "some/cross-encoder"}})
        >>> config.seeds, config.loss, config.ablations
        ((0,), {'kind': 'BinaryCrossEntropyLoss'}, ())
    """

    data: Data = Field(description="The documents, the queries and their answers.")
    first_stage: FirstStage = Field(
        default_factory=FirstStage, description="What finds the candidates; see docs/first-stage.md."
    )
    negatives: Negatives = Field(
        default_factory=Negatives, description="How training data is drawn from the candidates; see docs/mining.md."
    )
    model: Model = Field(description="The cross-encoder to start from.")
    loss: _component(LOSS) = Field(  # type: ignore[valid-type]
        default_factory=lambda: {components.KIND: "BinaryCrossEntropyLoss"},
        description="A cross-encoder loss of sentence-transformers or of cmp_rerank.losses, or module:Class, with "
        "its arguments.",
    )
    ablations: tuple[_component(ABLATION), ...] = Field(  # type: ignore[valid-type]
        (),
        description="The steps of the comparative loss in their order, such as [crop, {kind: drop, p: 0.1}], or "
        "module:Class; []: plain training.",
    )
    objective: _component(OBJECTIVE) | None = Field(  # type: ignore[valid-type]
        None,
        description="What compares the steps: hinge, listwise, regularized, mean or module:Class, with its options; "
        "null: hinge, the comparative loss.",
    )
    training: dict[str, Any] = Field(
        default_factory=lambda: dict(training_section.DEFAULTS),
        description="Any field of RerankerTrainingArguments, which has those of transformers.TrainingArguments.",
    )
    evaluation: Evaluation = Field(
        default_factory=Evaluation,  # type: ignore[arg-type]
        description="What is measured, in training and at the end.",
    )
    guard: Guard = Field(
        default_factory=Guard,
        description="Whether the tuned model is used, or what there was before; see docs/guard.md.",
    )
    seeds: tuple[int, ...] = Field(
        (0,), description="One training for each seed: its head, the order of its data, its ablations."
    )
    sizes: tuple[Count | Literal["all"], ...] = Field(
        (),
        description="Numbers of training queries, such as [50, 100, all]: also train on so many, once for each seed, "
        "for a learning curve on the validation split. []: no curve.",
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"must be one or more different whole numbers of at least 0; got {list(seeds)}")
        return seeds

    @field_validator("sizes")
    @classmethod
    def _two_sizes(cls, sizes: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if (sizes and len(set(sizes)) < 2) or len(set(sizes)) < len(sizes):
            raise ValueError(f"must be two or more different numbers of queries, or all; got {list(sizes)}")
        return sizes

    @model_validator(mode="after")
    def _something_to_compare(self) -> Config:
        if self.objective is not None and not self.ablations:
            raise ValueError("an objective compares ablations; got none; name some, or leave the objective out")
        return self

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: Any) -> dict[str, Any]:
        values, wrong = training_section.checked(value or {})
        if wrong:
            raise _refused(wrong)
        return values


def load(
    source: Config | Document | Mapping[str, Any] | PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    places: Mapping[str, str] | None = None,
) -> Config:
    """Make a configuration of a file or nested values, and of single keys that win over them.

    Args:
        source: a YAML file, the same as nested mappings, or a configuration; None: defaults.
        overrides: dotted key -> value: ``{"training.learning_rate": 1e-5}``. What they lead through is made.
        places: dotted key -> what errors call the place where its override was given, such as "--model".

    Returns:
        The validated configuration.

    Raises:
        ConfigError: with all that is wrong, each with its key, where it was written, and what is allowed.
        ValueError: the file is missing or no YAML.

    Example:
        >>> config = load({"model": {"name": "m"}}, {"data.collection": "beir:scifact", "seeds": [0, 1]})
        >>> config.model.name, config.seeds
        ('m', (0, 1))
        >>> load({"model": {"nam": "m"}, "data": {"collection": "beir:scifact"}, "loss": "ListNet"})
        Traceback (most recent call last):
        ...
        cmp_rerank.pipeline.problems.ConfigError: the configuration: 3 errors
          model.name: is needed: A checkpoint: a folder or a name on the hub. ...
          model.nam: there is no key 'nam'; did you mean 'name'? There are name, max_length, dropout, options
          loss: there is no loss 'ListNet'; did you mean 'ListNetLoss'? There are ...
    """
    document = _document(source)
    wrong = []
    for key, value in (overrides or {}).items():
        try:
            document.set(parse_key(key), plain(value), (places or {}).get(key, ""))
        except ValueError as error:
            wrong.append(Problem((), str(error)))
    try:
        config = Config.model_validate(document.values)
    except ValidationError as error:
        raise ConfigError(document, [*wrong, *_problems(error, document.values)]) from None
    if wrong:
        raise ConfigError(document, wrong)
    return config


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """The overrides of ``KEY=VALUE`` arguments; values are YAML.

    Raises:
        ValueError: there is no "=", or the value is no YAML.

    Example:
        >>> parse_settings(["training.learning_rate=1e-5", "ablations=[crop, drop]"])
        {'training.learning_rate': 1e-05, 'ablations': ['crop', 'drop']}
    """
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"--set takes KEY=VALUE; got {setting!r}; write for example training.learning_rate=1e-5")
        overrides[key.strip()] = parse_value(value)
    return overrides


def to_dict(config: Config) -> dict[str, Any]:
    """Plain data that `load` reads back as an equal configuration."""
    values: dict[str, Any] = plain(config.model_dump())
    return values


def _document(source: Config | Document | Mapping[str, Any] | PathLike | None) -> Document:
    if isinstance(source, Document):
        return Document(plain(source.values), dict(source.places), source.name)
    if isinstance(source, str | os.PathLike):
        return read(source)
    if isinstance(source, Config):
        return Document(to_dict(source))
    if source is None or isinstance(source, Mapping):
        return Document(plain(source or {}))
    raise ValueError(f"a configuration is a file or a mapping; got {described(source)}")


def _problems(error: ValidationError, values: Mapping[str, Any]) -> list[Problem]:
    """The errors of pydantic in our words; those of the types that one key may have are one problem."""
    found: dict[Key, list[str]] = {}
    for each in error.errors():
        own = each["type"] == "refused"
        key = tuple(each["loc"]) if own else _existing(each["loc"], values)
        if each["type"] == "missing":
            key = (*key, each["loc"][-1])
        found.setdefault(key, []).append(_text(each, key))
    return [Problem(key, " or ".join(dict.fromkeys(texts))) for key, texts in found.items()]


def _existing(key: Key, values: Any) -> Key:
    """The part of a key that the values have: pydantic adds the names of types."""
    for depth, part in enumerate(key):
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return key[:depth]
    return key


#: Types by the names of pydantic's errors.
_YAML = {"tuple_type": "a list", "dict_type": "a mapping", "model_type": "a mapping"}


def _text(error: Any, key: Key) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "refused":
        return str(error["msg"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing" and isinstance(key[-1], int):
        return f"the list needs {key[-1] + 1} items; got {error['input']!r:.80}"
    if kind == "missing":
        return f"is needed: {_section(key[:-1]).model_fields[str(key[-1])].description}"
    if kind == "extra_forbidden":
        return f"there is no key {key[-1]!r}; {allowed_names(str(key[-1]), list(_section(key[:-1]).model_fields))}"
    if kind == "literal_error":
        return f"must be {context['expected']}; got {error['input']!r}"
    if kind in _YAML:
        return f"must be {_YAML[kind]}; got {error['input']!r:.80}"
    message = error["msg"]
    return f"{message[0].lower()}{message[1:]}; got {error['input']!r:.80}"


def _section(key: Key) -> type[BaseModel]:
    """The section that a key leads to."""
    section: Any = Config
    for part in key:
        section = section.model_fields[str(part)].annotation
    return section  # type: ignore[no-any-return]
