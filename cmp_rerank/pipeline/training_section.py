"""The section `training`: any field of `RerankerTrainingArguments`, checked one by one and together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cmp_rerank.ir.arguments import kind as described
from cmp_rerank.pipeline.problems import Problem
from cmp_rerank.pipeline.sections import descriptions
from cmp_rerank.text.suggest import closest

#: What the pipeline trains with where nothing else is said.
DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-5,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "save_minutes": 10.0,
    "load_best_model_at_end": True,
    "logging_steps": 10,
    "report_to": [],
}
#: Fields that the pipeline decides, or that would do nothing, and why.
DECIDED = {
    "auto_find_batch_size": "a step that does not fit the memory is repeated in smaller chunks without it",
    "label_smoothing_factor": "the losses of rerankers make no use of it",
    "output_dir": "the run folder (--out) decides where things are written",
    "seed": "give `seeds`, one for each training",
    "data_seed": "give `seeds`, one for each training",
    "resume_from_checkpoint": "resume by --resume",
    "metric_for_best_model": "give `evaluation.primary`",
    "greater_is_better": "give `evaluation.primary`; more is better for every measure",
    "restore_callback_states_from_checkpoint": "give `evaluation.patience`, which goes on counting after a resume",
    "eval_on_start": "the start is always evaluated",
    "do_train": "the pipeline trains",
    "do_eval": "give `eval_strategy`",
    "do_predict": "the test split is reranked at the end",
    "logging_dir": "the run folder (--out) decides where things are written",
}
#: The lowest values of fields that the libraries look at in the middle of a training, or never.
LEAST = {
    "dataloader_num_workers": 0,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "num_train_epochs": 0,
    "per_device_eval_batch_size": 1,
    "per_device_train_batch_size": 1,
}
_ALL = "See the fields of cmp_rerank.RerankerTrainingArguments and of transformers.TrainingArguments"


@cache
def fields() -> dict[str, Any]:
    """Name -> type of the fields that may be given."""
    from cmp_rerank.training import RerankerTrainingArguments

    hints = get_type_hints(RerankerTrainingArguments)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(RerankerTrainingArguments)
        if field.init and field.name not in DECIDED and not field.name.startswith("_")
    }


def help_of(name: str) -> str:
    """What a field is for, in the words of its library."""
    from cmp_rerank.training import RerankerTrainingArguments

    field = next(field for field in dataclasses.fields(RerankerTrainingArguments) if field.name == name)
    own = vars(RerankerTrainingArguments)["__annotations__"]
    text = descriptions(RerankerTrainingArguments)[name] if name in own else field.metadata.get("help", "")
    return " ".join(str(text).split())


def checked(given: Any) -> tuple[dict[str, Any], list[Problem]]:
    """The fields with the defaults of the pipeline, and what is wrong with those that are given.

    Args:
        given: field -> value.

    Returns:
        The fields, with values of their types; and the problems, with keys below `training`.

    Example:
        >>> values, wrong = checked({"learning_rate": "1e-4"})
        >>> values["learning_rate"], wrong
        (0.0001, [])
        >>> print(checked({"lerning_rate": 1e-4})[1][0].text)
        there is no training argument 'lerning_rate'; did you mean 'learning_rate'? See the fields of ...
    """
    if not isinstance(given, Mapping):
        return {}, [Problem((), f"must be a mapping of training arguments to values; got {described(given)}")]
    known = fields()
    values, wrong = dict(DEFAULTS), []
    for name, value in given.items():
        if name in DECIDED:
            wrong.append(Problem((name,), f"{name} is not given here; {DECIDED[name]}"))
        elif name not in known:
            meant = closest(str(name), known)
            hint = "" if meant is None else f"did you mean {meant!r}? "
            wrong.append(Problem((str(name),), f"there is no training argument {name!r}; {hint}{_ALL}"))
        else:
            try:
                read = _adapter_of(name).validate_python(value)
                # 10 stays 10 where a field takes 0.1, too.
                values[name] = value if type(value) is int and read == value else read
            except ValidationError as error:
                what = error.errors()[0]["msg"]
                wrong.append(Problem((name,), f"{what[0].lower()}{what[1:]}; got {value!r}"))
                continue
            if isinstance(read, float) and not math.isfinite(read):
                wrong.append(Problem((name,), f"must be a finite number; got {value!r}"))
            elif name in LEAST and read < LEAST[name]:
                wrong.append(Problem((name,), f"must be at least {LEAST[name]}; got {value!r}"))
    if not wrong:
        wrong = _together(values)
    return values, wrong


@cache
def _adapter_of(name: str) -> Any:
    return TypeAdapter(fields()[name], config=ConfigDict(arbitrary_types_allowed=True))


def _together(values: Mapping[str, Any]) -> list[Problem]:
    """What the arguments say of each other. They choose the device, too, as they will for the training."""
    from transformers.integrations import get_reporting_integration_callbacks

    from cmp_rerank.training import RerankerTrainingArguments

    try:
        arguments = RerankerTrainingArguments(output_dir="nowhere", **values)
    except (ValueError, TypeError, ImportError) as error:
        return [Problem((), " ".join(str(error).split()))]
    try:  # Making a reporter shows whether its package is there; it sends nothing before the training.
        for reporter in get_reporting_integration_callbacks(arguments.report_to):
            reporter()
    except (ValueError, RuntimeError, ImportError) as error:
        return [Problem(("report_to",), " ".join(str(error).split()))]
    return []
