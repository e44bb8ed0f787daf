"""The configuration: everything that is wrong at once, what wins over what, and written whole with comments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from transformers.trainer_utils import IntervalStrategy

from cmp_rerank.guard import GuardOptions
from cmp_rerank.mining import MiningOptions
from cmp_rerank.pipeline import ConfigError, load, template
from cmp_rerank.pipeline.config import Config, parse_settings, to_dict
from cmp_rerank.pipeline.sections import Section
from cmp_rerank.pipeline.training_section import DECIDED, DEFAULTS, checked, fields, help_of

LEAST = {"data": {"collection": "beir:scifact"}, "model": {"name": "my-model"}}


def wrong(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load({**LEAST, **values})
    return {".".join(map(str, problem.key)): problem.text for problem in caught.value.problems}


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        "data: {collection: 'beir:x'}\n"
        "model:\n"
        "  name: m\n"
        "  max_length: long\n"
        "los: x\n"
        "loss: {kind: ListNetLoss, activation: 3}\n"
        "ablations:\n"
        "- crop\n"
        "- {kind: drop, p: 2}\n"
        "- kind: blur\n"
        "training:\n"
        "  lerning_rate: 1e-5\n"
        "  num_train_epochs: many\n"
        "  seed: 3\n"
        "negatives: {pick: best}\n"
        "evaluation: {measures: [nDCG@10, foo]}\n"
        "seeds: [a]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {"guard.fold": 3, "first_stage.kind": "bm52"}, {"guard.fold": "--set"})
    message = str(caught.value)
    assert message.startswith(f"{path}: 13 errors\n")
    lines = message.splitlines()[1:]
    assert len(lines) == 13
    for start, part in [
        ("line 4, model.max_length", "got 'long'"),
        ("line 5, los", "there is no key 'los'; did you mean 'loss'?"),
        ("line 6, loss.activation", "did you mean 'activation_fn'?"),
        ("line 9, ablations.1", "p must be a rate between 0 and 1"),
        ("line 10, ablations.2.kind", "there is no ablation 'blur'; there are crop, drop, copies"),
        ("line 12, training.lerning_rate", "did you mean 'learning_rate'?"),
        ("line 13, training.num_train_epochs", "got 'many'"),
        ("line 14, training.seed", "give `seeds`"),
        ("line 15, negatives.pick", "must be 'random' or 'top'; got 'best'"),
        ("line 16, evaluation.measures", "unknown measure 'foo'"),
        ("line 17, seeds.0", "got 'a'"),
        ("--set, guard.fold", "there is no key 'fold'; did you mean 'folds'?"),
        ("first_stage", "got 'bm52'"),
    ]:
        (line,) = [line for line in lines if line.strip().startswith(f"{start}:")]
        assert part in line


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        ({"data": {}}, "data", "needs a collection, or corpus, queries and qrels; got none of them"),
        ({"data": {"corpus": "c", "queries": "q"}}, "data", "got corpus and queries"),
        ({"data": {"collection": "beir:x", "corpus": "c"}}, "data", "leave one out"),
        ({"data": {"collection": "beir:x", "validation": 1.5}}, "data.validation", "less than 1"),
        ({"data": {"collection": "x", "options": {"missing_text": "drop"}}}, "data.options.missing_text", "mean"),
        ({"data": {"collection": "x", "options": {"missing_texts": "skip"}}}, "data.options", "got 'skip'"),
        ({"model": {}}, "model.name", "is needed: A checkpoint"),
        ({"model": None}, "model", "must be a mapping; got None"),
        ({"data": {"collection": "x", "qrels": ["a"]}}, "data.qrels", "must be a mapping; got ['a']"),
        ({"model": {"name": "m", "options": {"divice": 1}}}, "model.options.divice", "did you mean 'device'?"),
        ({"seeds": []}, "seeds", "one or more different whole numbers"),
        ({"seeds": [1, 1]}, "seeds", "got [1, 1]"),
        ({"seeds": [-1]}, "seeds", "got [-1]"),
        ({"negatives": {"negatives": 0}}, "negatives", "got 0"),
        ({"negatives": {"ranks": [5, 2]}}, "negatives", "ranks must be (first, last)"),
        ({"guard": {"folds": 1}}, "guard", "folds must be at least 2"),
        ({"training": {"eval_strategy": "sometimes"}}, "training", "sometimes"),
        ({"training": {"save_strategy": "steps"}}, "training", "save"),
        ({"training": {"tokens_per_batch": 0}}, "training", "tokens_per_batch"),
        ({"training": {"per_device_train_batch_size": 0}}, "training.per_device_train_batch_size", "least 1; got 0"),
        ({"training": {"gradient_accumulation_steps": 0}}, "training.gradient_accumulation_steps", "least 1; got 0"),
        ({"training": {"learning_rate": -1e-5}}, "training.learning_rate", "must be at least 0; got -1e-05"),
        ({"training": {"num_train_epochs": -1}}, "training.num_train_epochs", "must be at least 0; got -1"),
        ({"training": {"dataloader_num_workers": -1}}, "training.dataloader_num_workers", "at least 0; got -1"),
        ({"training": {"label_smoothing_factor": 0.1}}, "training.label_smoothing_factor", "make no use of it"),
        ({"training": {"report_to": "wandbb"}}, "training.report_to", "wandbb is not supported"),
        ({"training": {"weight_decay": float("nan")}}, "training.weight_decay", "must be a finite number; got nan"),
        ({"training": {"learning_rate": "inf"}}, "training.learning_rate", "must be a finite number; got 'inf'"),
        ({"training": [1]}, "training", "must be a mapping of training arguments"),
        ({"evaluation": {"measures": []}}, "evaluation.measures", "measure"),
        ({"evaluation": {"primary": "foo"}}, "evaluation", "unknown measure 'foo'"),
        ({"evaluation": {"primary": "RR"}}, "evaluation", "primary must be one of the measures, nDCG@10"),
        ({"ablations": "crop"}, "ablations", "must be a list; got 'crop'"),
        ({"objective": {"kind": "hinge", "baseline": "worst"}}, "objective.baseline", "'worst'"),
        ({"objective": "hinge"}, "", "an objective compares ablations; got none"),
    ],
)  # fmt: skip
def test_what_is_refused(values: dict[str, Any], key: str, message: str) -> None:
    found = wrong(values)
    assert list(found) == [key]
    assert message in found[key]


def test_a_reporter_without_its_package_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    found = wrong({"training": {"report_to": "wandb"}})
    assert "requires wandb to be installed" in found["training.report_to"]


def test_sections_take_what_their_options_take() -> None:
    """What a section lacks is decided elsewhere; what it has beside is not handed on."""
    config = load(LEAST)
    for section, options, decided in [
        (config.negatives, MiningOptions, {"format", "seed", "ids"}),
        (config.guard, GuardOptions, {"depth", "batch_size"}),
    ]:
        own = set(type(section).model_fields)
        assert {field for field in vars(options()) if field not in own} == decided
        assert vars(section.build()).items() <= vars(options()).items() | vars(section).items()
    assert config.negatives.build(format="pairs").format == "pairs"


def test_files_flags_and_values_are_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("data: {collection: 'beir:scifact'}\nmodel: {name: my-model}\ntraining: {learning_rate: 1e-4}\n")
    assert load(path) == load({**LEAST, "training": {"learning_rate": "1e-4"}})
    changed = load(path, {"training.learning_rate": 3e-5, "ablations": ["crop"]})
    assert changed.training["learning_rate"] == 3e-5
    assert changed.ablations == ({"kind": "crop"},)
    assert load(changed) == changed
    assert load(changed, {"seeds": [3]}).seeds == (3,)
    assert load({**LEAST, "training": {"eval_strategy": IntervalStrategy.EPOCH}}) == load(LEAST)
    with pytest.raises(ValueError, match="a configuration is a file or a mapping; got 3"):
        load(3)  # type: ignore[arg-type]


def test_a_configuration_that_is_given_stays_as_it_is() -> None:
    values = {**LEAST, "training": {"max_steps": 3}}
    load(values, {"training.max_steps": 5, "model.name": "other"})
    assert values == {**LEAST, "training": {"max_steps": 3}}
    assert LEAST["model"] == {"name": "my-model"}


def test_a_setting_may_have_an_equals_sign_in_its_value() -> None:
    assert parse_settings(["model.name=a=b", "seeds=[0]"]) == {"model.name": "a=b", "seeds": [0]}


@pytest.mark.parametrize(
    ("text", "message"), [("a", "--set takes KEY=VALUE; got 'a'"), ("=3", "KEY=VALUE"), ("a=[", "is not YAML")]
)
def test_settings_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings([text])


CONFIGS: list[dict[str, Any]] = [
    LEAST,
    {
        "data": {"corpus": "c", "queries": "q", "qrels": {"train": "t", "dev": "d: e"}, "validation": 0.1,
                 "options": {"titles": "no", "split": {"dev": 0.1}}},
        "model": {"name": "1e-5", "options": {"trust_remote_code": True, "model_kwargs": {"a": [1, {"b": None}]}}},
        "loss": {"kind": "LambdaLoss", "weighting_scheme": {"kind": "NDCGLoss2PPScheme", "mu": 5}},
        "ablations": ["crop", {"kind": "copies", "ablation": {"kind": "drop", "layers": [0, 1]}}],
        "objective": {"kind": "listwise", "temperature": 0.5},
        "training": {"tokens_per_batch": 500, "optim": "sgd", "lr_scheduler_kwargs": {"x": 1.0}},
        "negatives": {"shares": [1, 2], "runs": ["first_stage", "other: run"], "min_score": -1e-9},
        "evaluation": {"measures": "nDCG@10 AP(rel=2)@1000", "primary": "AP(rel=2)@1000"},
        "guard": {"enabled": False, "score_weights": []},
        "seeds": [0, 7],
    },
]  # fmt: skip


@pytest.mark.parametrize("values", CONFIGS)
def test_what_is_printed_loads_back_equal(values: dict[str, Any], tmp_path: Path) -> None:
    config = load(values)
    text = template(config)
    path = tmp_path / "printed.yaml"
    path.write_text(text)
    assert load(path) == config
    assert template(load(path)) == text
    # Other readers of YAML see the same, up to numbers such as 1e-5 that YAML 1.1 takes for text.
    assert yaml.safe_load(text)["seeds"] == list(config.seeds)
    assert to_dict(load(to_dict(config))) == to_dict(config)


def test_every_key_has_a_comment() -> None:
    lines = template(load(LEAST)).splitlines()

    def described(section: type[BaseModel]) -> int:
        count = 0
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}:")] or [None]
            if section is Config:
                assert place is not None
                assert lines[place - 1].startswith("# ")
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                count += described(field.annotation)
            count += 1
        return count

    assert described(Config) > 50
    keys = [i for i, line in enumerate(lines) if line.startswith("  ") and not line.lstrip().startswith(("#", "-"))]
    assert len(keys) > 50
    assert all(lines[i - 1].startswith("  # ") for i in keys)
    assert max(map(len, lines)) <= 118


def test_the_defaults_of_training_are_fields_with_a_help() -> None:
    assert set(DEFAULTS) <= set(fields())
    assert not set(DECIDED) & set(fields())
    assert all(help_of(name) for name in DEFAULTS)
    values, problems = checked({"use_cpu": "yes", "gradient_accumulation_steps": "2"})
    assert problems == []
    assert (values["use_cpu"], values["gradient_accumulation_steps"]) == (True, 2)
