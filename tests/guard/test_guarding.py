"""The guard from end to end, with small real models: a good tuned model is used, a bad one is not."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sentence_transformers import CrossEncoder
from tiny_collection import Tiny, tiny_collection

from cmp_rerank.evaluation import evaluate, rerank
from cmp_rerank.guard import GuardOptions, Split, guard, load_guard
from cmp_rerank.guard.interpolation import copy_of, put
from cmp_rerank.guard.save import read_mix
from cmp_rerank.guard.verdict import Row
from cmp_rerank.ir import combine, write_qrels, write_run
from cmp_rerank.models.long_document import LongDocumentReranker

FEW = GuardOptions(interpolations=(0.5,), score_weights=(0.5,), repeats=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def tiny(start: CrossEncoder) -> Tiny:
    return tiny_collection(start)


def same_weights(one: CrossEncoder, other: CrossEncoder) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_a_good_model_is_handed_over(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    before = copy_of(tiny.good)
    shown: list[tuple[int, int]] = []
    verdict = guard(
        start, tiny.good, corpus=tiny.corpus, **tiny.inputs(slice(0, 25)), measure="RR", options=FEW,
        test=Split(**tiny.inputs(slice(25, None))), out=tmp_path / "out", progress=lambda *n: shown.append(n),
    )  # fmt: skip
    assert (verdict.outcome, verdict.had, verdict.chosen) == ("helped", "start", "tuned")
    assert verdict.sentence.startswith("Fine-tuning helped: the tuned model has RR 1.000 on 25 validation queries")
    assert [row.name for row in verdict.rows] == [
        "first stage", "start", "start, 50% score", "start to tuned 50%", "start to tuned 50%, 50% score", "tuned",
        "tuned, 50% score",
    ]  # fmt: skip
    assert verdict.test is not None
    assert verdict.test.queries == 35
    assert "significantly better than the starting model: 1.000 against" in verdict.test.sentence
    assert shown[-1] == (3 * 250, 3 * 250)
    assert verdict.cost.pairs == 3 * 250 + 2 * 350
    assert same_weights(CrossEncoder(str(tmp_path / "out"), device="cpu"), tiny.good)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.good.state_dict().items())
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]


def test_a_bad_model_is_not_used(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    verdict = guard(
        start, tiny.bad, corpus=tiny.corpus, **tiny.inputs(slice(0, 25)), measure="RR", options=FEW,
        test=Split(**tiny.inputs(slice(25, None))), out=tmp_path / "out",
    )  # fmt: skip
    assert verdict.outcome == "would have hurt"
    assert verdict.chosen in ("start", "start, 50% score")
    assert verdict.sentence.startswith(
        "Fine-tuning would have hurt and was not used: the tuned model changes RR by -"
    )
    assert same_weights(CrossEncoder(str(tmp_path / "out"), device="cpu"), start)
    if verdict.kept:
        assert verdict.test is not None
        assert "the tuned model is significantly worse than the starting model" in verdict.test.sentence


def test_a_model_that_training_did_not_change_makes_no_difference(start: CrossEncoder, tiny: Tiny) -> None:
    options = GuardOptions(score_weights=(), interpolations=(0.5,))
    found = guard(
        start, copy.deepcopy(start), corpus=tiny.corpus, **tiny.inputs(), test=Split(**tiny.inputs()), options=options
    )
    assert (found.outcome, found.chosen, found.tuned_gain) == ("no detectable difference", found.had, 0.0)
    assert found.test is not None
    assert "not significantly different from the starting model" in found.test.sentence
    assert len({row.mean for row in found.rows if row.name != "first stage"}) == 1


@pytest.mark.parametrize(
    "qrels",
    ["hidden", "first stage", "mixed"],
    ids=["model alone", "first stage alone", "sum"],
)
def test_what_is_saved_gives_the_validation_value_exactly(
    start: CrossEncoder, tiny: Tiny, tmp_path: Path, qrels: str
) -> None:
    inputs = tiny.inputs()
    if qrels != "hidden":
        mixed = combine([tiny.first_stage, rerank(tiny.good, tiny.queries, tiny.corpus, tiny.first_stage)], scale="z")
        run = tiny.first_stage if qrels == "first stage" else mixed
        inputs["qrels"] = {query: {max(scores, key=scores.__getitem__): 1} for query, scores in run.items()}
    options = GuardOptions(interpolations=(), score_weights=(0.5,), scale="z", depth=8, repeats=1)
    verdict = guard(
        start, tiny.good, corpus=tiny.corpus, **inputs, measure="nDCG@10", options=options, out=tmp_path / "out"
    )
    expected = {"hidden": "tuned", "first stage": "first stage", "mixed": "tuned, 50% score"}[qrels]
    assert verdict.chosen == expected
    guarded = load_guard(tmp_path / "out", device="cpu")
    run = guarded.rerank(tiny.queries, tiny.corpus, tiny.first_stage)
    value = evaluate(run, inputs["qrels"], "nDCG@10")["nDCG@10"]
    assert value == guarded.validation == verdict.row(verdict.chosen).mean
    assert guarded.measure == "nDCG@10"
    assert all(set(run[query]) == set(tiny.first_stage[query]) for query in run)
    if qrels == "first stage":
        assert guarded.mix.weight == 0
        assert verdict.outcome in ("would have hurt", "no detectable difference")
        assert same_weights(guarded.model, start)


def test_a_model_that_is_saved_over_the_one_handed_over_does_not_get_its_share(
    start: CrossEncoder, tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW, out=out)
    mix = read_mix(out)
    CrossEncoder(str(out), device="cpu").save_pretrained(str(out))  # the same weights
    assert read_mix(out) == mix
    tiny.bad.save_pretrained(str(out))
    message = "guard.json: the guard has handed over other weights than those in model.safetensors; run the guard"
    for read in (read_mix, load_guard, partial(load_guard, model=tiny.bad)):
        with pytest.raises(ValueError, match=message):
            read(out)
    (out / "guard.json").unlink()
    assert read_mix(out) is None


def test_what_a_sum_does_without_tuning_is_told(start: CrossEncoder, tiny: Tiny) -> None:
    rows = (
        Row("first stage", "the first stage alone", 0.6, 0.0, 0.0, False, 0.0, 0.0),
        Row("start, 50% score", "the sum", 0.69, 0.09, 0.02, False, 0.1, 1.0),
        Row("tuned, 50% score", "the tuned sum", 0.7, 0.1, 0.02, True, 0.9, 1.0),
    )
    verdict = guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW)
    names = {"had": "first stage", "picked": "tuned, 50% score", "chosen": "tuned, 50% score"}
    told = replace(verdict, rows=rows, **names).sentence
    assert told.endswith("; without tuning, the sum has 0.690.")
    assert "without tuning" not in replace(verdict, rows=(rows[0], rows[2]), **names).sentence


def test_values_are_those_of_each_candidate_by_hand(start: CrossEncoder, tiny: Tiny) -> None:
    options = GuardOptions(interpolations=(0.25,), score_weights=(0.75,), repeats=1, depth=6)
    verdict = guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), measure="nDCG@10", options=options)
    between = copy.deepcopy(start)
    put(between, [(start.state_dict(), 0.75), (tiny.good.state_dict(), 0.25)])
    for name, model in (("start", start), ("start to tuned 25%", between), ("tuned", tiny.good)):
        alone = rerank(model, tiny.queries, tiny.corpus, tiny.first_stage, k=6)
        assert verdict.row(name).mean == evaluate(alone, tiny.qrels, "nDCG@10")["nDCG@10"]
        tops = {q: dict(sorted(s.items(), key=lambda item: -item[1])[:6]) for q, s in tiny.first_stage.items()}
        scored = {q: {d: alone[q][d] for d in tops[q]} for q in tops}
        mixed = combine([tops, scored], [0.25, 0.75], scale="minmax")
        expected = {
            q: s | {d: -1 + tiny.first_stage[q][d] - 1 for d in alone[q].keys() - s} for q, s in mixed.items()
        }
        assert verdict.row(f"{name}, 75% score").mean == evaluate(expected, tiny.qrels, "nDCG@10")["nDCG@10"]


def test_folders_and_files_give_what_objects_give(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    for name, model in (("start", start), ("good", tiny.good)):
        model.save_pretrained(str(tmp_path / name))
    write_qrels(tmp_path / "qrels", tiny.qrels)
    write_run(tmp_path / "run", tiny.first_stage)
    files = {"qrels": tmp_path / "qrels", "first_stage": tmp_path / "run"}
    first = guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW)
    second = guard(
        tmp_path / "start", str(tmp_path / "good"), corpus=tiny.corpus, queries=tiny.queries, **files, options=FEW,
        device="cpu",
    )  # fmt: skip
    assert first.per_query == second.per_query
    assert first.sentence == second.sentence


def test_the_order_of_queries_does_not_matter(start: CrossEncoder, tiny: Tiny) -> None:
    inputs = tiny.inputs()
    backwards = {name: dict(reversed(list(values.items()))) for name, values in inputs.items()}
    first, second = (
        guard(start, tiny.good, corpus=tiny.corpus, **given, options=FEW) for given in (inputs, backwards)
    )
    assert first.to_dict()["candidates"][0]["mean"] == second.to_dict()["candidates"][0]["mean"]
    assert [row.share for row in first.rows] == [row.share for row in second.rows]
    assert first.sentence == second.sentence


def test_several_seeds_and_their_soup(start: CrossEncoder, tiny: Tiny) -> None:
    verdict = guard(start, [tiny.good, tiny.bad], corpus=tiny.corpus, **tiny.inputs(), measure="RR", options=FEW)
    names = [row.name for row in verdict.rows if not row.name.endswith("score")]
    assert names == ["first stage", "start", "start to soup 50%", "soup", "tuned 1", "tuned 2"]
    assert verdict.chosen == "tuned 1"
    soup = copy.deepcopy(start)
    put(soup, [(tiny.good.state_dict(), 0.5), (tiny.bad.state_dict(), 0.5)])
    run = rerank(soup, tiny.queries, tiny.corpus, tiny.first_stage)
    assert verdict.row("soup").mean == evaluate(run, tiny.qrels, "RR")["RR"]
    both = [verdict.row(name).gain for name in ("tuned 1", "tuned 2")]
    assert verdict.tuned_gain == pytest.approx(sum(both) / 2)


@pytest.mark.parametrize(
    ("had", "expected"), [("first stage", "first stage"), ("start", "start"), ("start mixed", "start, 50% score")]
)
def test_what_the_user_had_can_be_told(start: CrossEncoder, tiny: Tiny, had: Any, expected: str) -> None:
    options = GuardOptions(interpolations=(), score_weights=(0.5,), had=had, repeats=1)
    verdict = guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=options)
    assert verdict.had == expected


def test_without_a_start_or_with_a_new_head(tiny: Tiny, tmp_path: Path) -> None:
    none = guard(None, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW, out=tmp_path / "out")
    assert [row.name for row in none.rows] == ["first stage", "tuned", "tuned, 50% score"]
    assert none.notes[0].startswith("There is no starting model")
    encoder = tmp_path / "encoder"
    config = tiny_models.bert_config()
    tiny_models.save_checkpoint(encoder, config, tiny_models.wordpiece(), tiny_models.transformers.AutoModel)
    new_head = guard(encoder, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW, device="cpu")
    assert [row.name for row in new_head.rows] == ["first stage", "tuned", "tuned, 50% score"]
    assert any("new head, drawn at random" in note for note in new_head.notes)
    with pytest.raises(ValueError, match="had='start' needs a starting model that can rank; got none"):
        guard(None, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=GuardOptions(had="start"))


def test_models_of_two_architectures_are_compared_but_not_interpolated(tiny: Tiny, tmp_path: Path) -> None:
    other = tiny_models.cross_encoder(tmp_path / "other", hidden_size=16)
    verdict = guard(other, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW, out=tmp_path / "out")
    assert "start to tuned 50%" not in [row.name for row in verdict.rows]
    assert "start" in [row.name for row in verdict.rows]
    assert "No weights between the starting and the tuned model are tried: the tensor" in verdict.notes[0]


def test_an_adapter_is_compared_but_not_interpolated(start: CrossEncoder, tiny: Tiny) -> None:
    peft = pytest.importorskip("peft")
    tuned = copy.deepcopy(start)
    tuned.add_adapter(peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False))
    verdict = guard(start, tuned, corpus=tiny.corpus, **tiny.inputs(), options=FEW)
    assert [row.name for row in verdict.rows if row.name.endswith("%")] == []
    assert verdict.row("tuned").mean != verdict.row("start").mean
    assert "merge_and_unload() of peft" in verdict.notes[0]


def test_long_documents_stay_long_documents(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    long = LongDocumentReranker(copy.deepcopy(tiny.good), passage_tokens=4)
    verdict = guard(start, long, corpus=tiny.corpus, **tiny.inputs(), options=FEW, out=tmp_path / "out")
    guarded = load_guard(tmp_path / "out", device="cpu")
    run = guarded.rerank(tiny.queries, tiny.corpus, tiny.first_stage)
    assert evaluate(run, tiny.qrels, "nDCG@10")["nDCG@10"] == verdict.row(verdict.chosen).mean
    assert isinstance(guarded.model, LongDocumentReranker) == verdict.chosen.startswith(("tuned", "start to"))


def test_a_training_that_diverged_is_not_used(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    broken = copy.deepcopy(tiny.good)
    next(broken.parameters()).data[0, 0] = float("nan")
    verdict = guard(start, broken, corpus=tiny.corpus, **tiny.inputs(), options=FEW, test=Split(**tiny.inputs()))
    assert verdict.outcome == "would have hurt"
    assert [row.name for row in verdict.rows] == ["first stage", "start", "start, 50% score"]
    assert "weights that are NaN" in verdict.notes[0]
    assert "the tuned model gives scores that are not finite, so training has diverged" in verdict.sentence
    json.loads(verdict.to_json())


def test_a_training_whose_scores_overflow_is_not_used(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    """Its weights are finite, and what it gives is not. What lies between it and the others is not used, either."""
    broken = copy.deepcopy(tiny.good)
    broken.transformers_model.bert.encoder.layer[0].output.LayerNorm.weight.data.fill_(3e38)
    inputs = {"corpus": tiny.corpus, **tiny.inputs(slice(0, 20))}
    (tmp_path / "link").symlink_to(tmp_path / "out")
    verdict = guard(start, broken, **inputs, options=FEW, test=Split(**tiny.inputs()), out=tmp_path / "link")
    assert (verdict.outcome, verdict.kept, verdict.tuned_gain) == ("would have hurt", True, None)
    assert [row.name for row in verdict.rows] == ["first stage", "start", "start, 50% score"]
    assert verdict.notes == (
        "The tuned model gives scores that are not finite, from a training that diverged, and is not tried.",
    )
    assert verdict.cost.pairs == 200 + 600
    json.loads(verdict.to_json())
    assert same_weights(CrossEncoder(str(tmp_path / "out"), device="cpu"), start)
    with pytest.raises(ValueError, match="scores must be finite"):  # what the user had cannot be left out
        guard(broken, tiny.good, **inputs, options=FEW)
    seeds = guard(start, [broken, copy.deepcopy(tiny.good)], **inputs, options=replace(FEW, score_weights=()))
    assert [row.name for row in seeds.rows] == ["first stage", "start", "tuned 2"]
    assert seeds.tuned_gain == seeds.row("tuned 2").gain


def test_the_same_weights_twice_are_refused(start: CrossEncoder, tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="must be models of their own; got the same weights in memory"):
        guard(start, start, corpus=tiny.corpus, **tiny.inputs())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"depth": 5}}, "options must be GuardOptions; got a dict of 1"),
        ({"test": ({}, {}, {})}, "test must be a Split; got a tuple of 3"),
        ({"measure": "RR nDCG@10"}, "the guard chooses by one measure; got RR, nDCG@10"),
        ({"measure": "nDGC@10"}, "nDGC"),
        (
            {"first_stage": {"p": {"d1": 1.0}}},
            "the first stage has no candidate for any judged query; got 1 in the run",
        ),
        ({"first_stage": {"q00": {"d99": 1.0}}}, "no text for document 'd99'"),
        ({"qrels": {}}, "there is no judged query"),
        ({"qrels": {"q00": {"d0": 0}, "q01": {"d0": -1}}}, "no judged query has a relevant document.*; got 2 with"),
        ({"queries": ["a"]}, "queries must map ids to texts; got a list of 1"),
    ],
)
def test_refused(start: CrossEncoder, tiny: Tiny, change: dict[str, Any], message: str) -> None:
    arguments = {"corpus": tiny.corpus, **tiny.inputs(slice(0, 2))} | change
    with pytest.raises(ValueError, match=message):
        guard(start, tiny.good, **arguments)


def test_models_of_other_kinds_are_refused(start: CrossEncoder, tiny: Tiny) -> None:
    inputs = {"corpus": tiny.corpus, **tiny.inputs(slice(0, 2))}
    with pytest.raises(ValueError, match="tuned must be a model or a list of them; got an empty list"):
        guard(start, [], **inputs)
    with pytest.raises(ValueError, match="tuned must be a CrossEncoder, its folder or its name; got a Linear"):
        guard(start, torch.nn.Linear(1, 1), **inputs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nowhere: no such checkpoint"):
        guard(start, "nowhere", **inputs)
    with pytest.raises(ValueError, match=r"start must be the folder of a checkpoint, .* got 'nowhere'"):
        guard("nowhere", start, **inputs)


def test_a_folder_that_holds_something_is_refused_before_the_work(
    start: CrossEncoder, tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    with pytest.raises(ValueError, match="exists already and is not an empty folder"):
        guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), out=tmp_path / "out")
    with pytest.raises(ValueError, match="no such directory"):
        guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), out=tmp_path / "nowhere" / "out")


def test_nothing_half_written_stays(
    start: CrossEncoder, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cmp_rerank.guard.verdict.Verdict.save", full)
        with pytest.raises(OSError, match="No space left"):
            guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    guard(start, tiny.good, corpus=tiny.corpus, **tiny.inputs(), options=FEW, out=tmp_path / "out")
    assert load_guard(tmp_path / "out", device="cpu").mix.weight == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the folder that the guard wrote"),
        ("{", "this is no file of the guard"),
        ("[]", "this is no file of the guard"),
        ('{"weight": 2, "scale": "z", "depth": 5}', "weight must be a number between 0 and 1; got 2"),
        ('{"weight": 1, "scale": "z"}', "this is no file of the guard .'depth'."),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "guard.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_guard(tmp_path)
