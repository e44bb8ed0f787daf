"""The recipes: two configurations that differ in their ablations only, and samples of queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmp_rerank.collections import Collection, Split
from cmp_rerank.demo.recipe import ARMS, COMPARATIVE, FAST, FULL, PLAIN, Recipe, configs, sampled
from cmp_rerank.pipeline import load, template
from cmp_rerank.pipeline.config import to_dict


def collection(queries: int = 12) -> Collection:
    def split(name: str) -> Split:
        names = [f"{name}{i}" for i in range(queries)]
        return Split({query: f"query {query}" for query in names}, {query: {"d": 1} for query in names})

    return Collection("tiny", {"d": "a document"}, {name: split(name) for name in ("train", "dev", "test")})


@pytest.mark.parametrize("recipe", [FULL, FAST], ids=lambda recipe: recipe.name)
def test_the_configurations_differ_in_their_ablations_only(recipe: Recipe) -> None:
    made = configs(recipe, "beir:collection", "encoder", 3)
    assert list(made) == list(ARMS)
    plain, comparative = (to_dict(made[arm]) for arm in (PLAIN, COMPARATIVE))
    assert [key for key in plain if plain[key] != comparative[key]] == ["ablations"]
    assert plain["ablations"] == []
    assert [each["kind"] for each in comparative["ablations"]] == ["crop", "drop"]
    assert plain["seeds"] == [3]
    assert plain["guard"]["enabled"] is True
    # Dropout of its own would be one more difference: CmpDrop switches it off.
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    assert plain["model"]["options"]["config_kwargs"] == rates


def test_the_fast_form_differs_where_it_says_so() -> None:
    full, fast = (to_dict(configs(recipe, "beir:c", "m", 0)[PLAIN]) for recipe in (FULL, FAST))
    differing = {
        f"{section}.{key}"
        for section in full
        if isinstance(full[section], dict)
        for key in full[section]
        if full[section][key] != fast[section][key]
    }
    assert differing == set(FAST.settings)


def test_the_file_in_a_run_folder_is_one_to_copy(tmp_path: Path) -> None:
    made = configs(FULL, "beir:c", "m", 0)[COMPARATIVE]
    (tmp_path / "my.yaml").write_text(template(made))
    assert load(tmp_path / "my.yaml") == made


def test_a_sample_depends_on_the_seed_and_the_ids_only() -> None:
    few = replace(FAST, queries={"train": 5, "dev": 2, "test": 3})
    whole = collection()
    first, again, other = (sampled(whole, few, seed) for seed in (0, 0, 1))
    assert {split: len(first.qrels(split)) for split in first.splits} == few.queries
    assert first.queries() == again.queries() != other.queries()
    assert first.corpus == whole.corpus
    for split in few.queries:
        assert set(first.queries(split)) == set(first.qrels(split)) < set(whole.queries(split))
    # The order in which the queries come does not matter, and a larger sample holds a smaller one.
    backwards = whole.with_splits(
        {
            name: Split(dict(reversed(whole.queries(name).items())), dict(reversed(whole.qrels(name).items())))
            for name in whole.splits
        }
    )
    assert list(sampled(backwards, few, 0).queries("train")) == list(first.queries("train"))
    more = sampled(whole, replace(few, queries={**few.queries, "train": 9}), 0)
    assert set(more.queries("train")) > set(first.queries("train"))


def test_too_few_queries_and_other_splits_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"train must have at least \d+ judged queries; got 12 of tiny.*more packages"
    ):
        sampled(collection(), FAST, 0)
    with pytest.raises(ValueError, match="queries must be those of train, dev and test; got train"):
        Recipe("x", queries={"train": 3})
    with pytest.raises(ValueError, match="queries of dev must be a whole number of at least 1; got 0"):
        Recipe("x", queries={"train": 3, "dev": 0, "test": 1})
