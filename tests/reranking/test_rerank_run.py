"""A run of any size: the scores of a slow loop, whatever the groups; resumed and sharded, the same bits."""

from __future__ import annotations

import ast
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from collection import CORPUS, QUERIES, RUN, write
from hypothesis import given, settings
from hypothesis import strategies as st
from optional_libraries import datasets
from processes import python
from sentence_transformers import CrossEncoder

from cmp_rerank.evaluation import rerank
from cmp_rerank.ir import rank, read_run
from cmp_rerank.reranking import Counts, rerank_run
from cmp_rerank.reranking.groups import groups

SMALL = {"depth": 5, "pairs_per_group": 12, "tokens_per_batch": 200}


class Length:
    """Scores a pair by its lengths, and remembers how often it was asked for how many."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.calls: list[int] = []
        self.fail_after = fail_after

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        if self.fail_after == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append(len(pairs))
        return [len(query) + len(text) / 7 for query, text in pairs]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("model"))


def slow_loop(model: CrossEncoder, depth: int | None) -> dict[str, dict[str, float]]:
    """One pair at a time, by the model's own predict."""
    result = {}
    for query, scores in RUN.items():
        ranked = [doc for doc, _ in rank(scores)]
        new = {
            doc: float(model.predict([(QUERIES[query], CORPUS[doc])], activation_fn=torch.nn.Identity())[0])
            for doc in ranked[:depth]
        }
        lowest = min(new.values())
        new |= {doc: lowest - place for place, doc in enumerate(ranked[len(new) :], 1)}
        result[query] = new
    return result


@pytest.mark.parametrize("depth", [3, None])
def test_scores_are_those_of_a_slow_loop(model: CrossEncoder, depth: int | None) -> None:
    expected = slow_loop(model, depth)
    for more in ({}, {"pairs_per_group": 1}, {"pairs_per_group": 7, "tokens_per_batch": 1}):
        found = rerank_run(model, QUERIES, CORPUS, RUN, depth=depth, **more)
        assert list(found) == list(expected)
        for query, scores in expected.items():
            assert found[query] == pytest.approx(scores, abs=2e-5)
            assert list(found[query]) == [doc for doc, _ in rank(found[query])]
    spread = [score for scores in expected.values() for score in scores.values()]
    assert np.std(spread) > 0.05  # or the comparison would mean little


def test_a_file_gives_what_a_dictionary_gives(model: CrossEncoder, tmp_path: Path) -> None:
    folder = write(tmp_path)
    expected = rerank_run(model, QUERIES, CORPUS, RUN, **SMALL)
    assert rerank_run(model, QUERIES, CORPUS, folder / "first.trec", **SMALL) == expected
    lines = (folder / "first.trec").read_text().splitlines(keepends=True)
    (folder / "mixed.trec").write_text("".join(lines[1::2] + lines[::2]))  # not grouped by query
    mixed = rerank_run(model, QUERIES, CORPUS, folder / "mixed.trec", **SMALL)
    assert set(mixed) == set(expected)
    assert all(mixed[query] == pytest.approx(expected[query], abs=2e-5) for query in expected)
    out = rerank_run(model, QUERIES, CORPUS, folder / "first.trec", out=tmp_path / "new.trec", **SMALL)
    assert out == tmp_path / "new.trec"
    assert read_run(out) == expected
    assert sorted(path.name for path in tmp_path.iterdir() if "new.trec" in path.name) == ["new.trec"]


@given(
    st.lists(st.lists(st.integers(0, 50), unique=True, max_size=8), max_size=12),
    st.integers(1, 30),
    st.none() | st.integers(1, 5),
    st.integers(1, 4),
)
def test_groups_hold_everything_once_and_shards_share_them(
    lists: list[list[int]], pairs: int, depth: int | None, shards: int
) -> None:
    run = {f"q{i}": {f"d{doc}": float(-at) for at, doc in enumerate(docs)} for i, docs in enumerate(lists)}
    cut = list(groups(run, depth, pairs))
    assert [query for group in cut for query in group.ranked] == list(run)
    assert [group.number for group in cut] == list(range(len(cut)))
    assert all(
        list(group.ranked[query].items()) == list(run[query].items()) for group in cut for query in group.ranked
    )
    for group in cut[:-1]:
        *before, last = [len(list(docs)[:depth]) for docs in group.ranked.values()]
        assert sum(before) < pairs <= sum(before) + last
    queries, corpus = dict.fromkeys(run, "query"), {f"d{i}": "x" * i for i in range(51)}
    options: dict[str, Any] = {"depth": depth, "pairs_per_group": pairs}
    whole = rerank_run(Length(), queries, corpus, run, **options)
    parts = [rerank_run(Length(), queries, corpus, run, shard=(i, shards), **options) for i in range(shards)]
    assert sum(map(len, parts)) == len(whole)
    assert {query: scores for part in parts for query, scores in part.items()} == whole


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=3), st.integers(1, 3))
def test_stopped_anywhere_and_resumed_nothing_is_scored_twice(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], shards: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    expected = rerank_run(Length(), QUERIES, CORPUS, RUN, **SMALL)
    out, asked, queries = folder / "new.trec", [], 0
    for shard in range(shards):
        for stop in (*stops, None):
            stopped = Length(fail_after=stop)
            counts = Counts()
            try:
                written = rerank_run(
                    stopped, QUERIES, CORPUS, RUN, out=out, shard=(shard, shards), counts=counts, **SMALL
                )
            except KeyboardInterrupt:
                continue
            finally:
                asked += stopped.calls
            break
        assert (written is not None) == (shard == shards - 1)
        queries += counts.queries
    assert read_run(out) == expected
    assert sorted(asked) == sorted(len(group.candidates) for group in groups(RUN, 5, 12))
    assert queries == len(RUN)


def test_finished_groups_are_not_scored_again_and_half_a_line_is_cut(tmp_path: Path) -> None:
    out = tmp_path / "new.trec"
    expected = rerank_run(Length(), QUERIES, CORPUS, RUN, **SMALL)
    number = len(list(groups(RUN, 5, 12)))
    assert number > 4
    with pytest.raises(KeyboardInterrupt):
        rerank_run(Length(fail_after=3), QUERIES, CORPUS, RUN, out=out, **SMALL)
    journal = tmp_path / "new.trec.part-0-of-1"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 4  # the settings and three groups
    for keep in (len(whole), len(whole) - 1, len(whole) - len(lines[3]) // 2, len(b"".join(lines[:3]))):
        journal.write_bytes(whole[:keep])
        model = Length()
        assert rerank_run(model, QUERIES, CORPUS, RUN, out=out, **SMALL) == out
        assert len(model.calls) == number - (3 if keep == len(whole) else 2)
        assert read_run(out) == expected
        assert not journal.exists()
        journal.write_bytes(whole)
    model = Length()
    rerank_run(model, QUERIES, CORPUS, RUN, out=out, resume=False, **SMALL)
    assert len(model.calls) == number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 4}, "depth was 5, now 4"),
        ({"pairs_per_group": 11}, "pairs_per_group was 12, now 11"),
        ({"queries": QUERIES | {"q0": "another"}}, "the run or the texts have changed .* from query 'q0' on"),
        ({"corpus": {doc: text + "." for doc, text in CORPUS.items()}}, "the run or the texts have changed"),
        ({"run": {q: dict(reversed(s.items())) | {"d0": 9.0} for q, s in RUN.items()}}, "have changed"),
        ({"run": {q: {d: -v for d, v in s.items()} for q, s in RUN.items()}}, "have changed"),
        # The same candidates in the same order: the scores of those below the depth would come from another run.
        ({"run": {q: {d: 2 * v for d, v in s.items()} for q, s in RUN.items()}}, "have changed"),
    ],
)
def test_something_else_is_not_resumed(change: dict, message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"queries": QUERIES, "corpus": CORPUS, "run": RUN, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        rerank_run(Length(fail_after=2), out=tmp_path / "new.trec", **arguments)
    with pytest.raises(ValueError, match=message):
        rerank_run(Length(), out=tmp_path / "new.trec", **(arguments | change))
    assert not (tmp_path / "new.trec").exists()
    assert rerank_run(Length(), out=tmp_path / "new.trec", **(arguments | change), resume=False)


def test_another_model_is_not_resumed(model: CrossEncoder, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    other = tiny_models.cross_encoder(tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        rerank_run(other, QUERIES, CORPUS, RUN, out=tmp_path / "new.trec", progress=stop, **SMALL)
    for change in (lambda: setattr(other, "max_seq_length", 20), lambda: other[0].model.classifier.bias.data.add_(1)):
        change()
        with pytest.raises(ValueError, match=r"begun with other settings .model was '.*CrossEncoder"):
            rerank_run(other, QUERIES, CORPUS, RUN, out=tmp_path / "new.trec", **SMALL)
        other.max_seq_length = 128


class Other(Length):
    """Another model."""


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (Other, {}, "model is '.*Length', not '.*Other'"),
        (Length, {"depth": 4}, "depth is 5, not 4"),
        (Length, {"pairs_per_group": 1000}, "pairs_per_group is 12, not 1000.* groups is"),
        (Length, {"run": RUN | {"q0": {d: 2 * v for d, v in RUN["q0"].items()}}}, "run is '.*', not '"),
    ],
)
def test_shards_of_two_rerankings_are_not_merged(
    model: type[Length], change: dict, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "new.trec"
    arguments: dict[str, Any] = {"queries": QUERIES, "corpus": CORPUS, "run": RUN, "out": out, **SMALL}
    assert rerank_run(Length(), **arguments, shard=(1, 2)) is None
    new = arguments | change
    assert rerank_run(model(), **new, shard=(0, 2)) is None
    assert not out.exists()
    assert re.search(rf"part-1-of-2 is of another reranking than new.trec.part-0-of-2 \(.*{message}", caplog.text)
    scores_depend_on_it = "run" not in change  # that query is in the other shard
    if scores_depend_on_it:
        with pytest.raises(ValueError, match="begun with other settings"):
            rerank_run(model(), **new, shard=(1, 2))
    assert rerank_run(model(), **new, shard=(1, 2), resume=not scores_depend_on_it) == out
    assert read_run(out) == rerank_run(model(), **(new | {"out": None}))
    assert not list(tmp_path.glob("*.part-*"))


def test_one_process_at_a_time_writes_a_shard(tmp_path: Path) -> None:
    class Nested:
        def predict(self, pairs: list) -> list[float]:
            with pytest.raises(ValueError, match="another process is writing this file"):
                rerank_run(Nested(), QUERIES, CORPUS, RUN, out=tmp_path / "new.trec")
            return [0.0] * len(pairs)

    assert rerank_run(Nested(), QUERIES, CORPUS, RUN, out=tmp_path / "new.trec")


def test_killed_and_resumed_and_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    tiny_models.save_checkpoint(tmp_path / "model", tiny_models.bert_config(), tiny_models.wordpiece())
    write(tmp_path)
    script = Path(__file__).parent / "reranking_run.py"
    done = python(script, tmp_path / "model", tmp_path)
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout.splitlines()[-1])
    assert found["killed"] == -9
    assert 2 <= found["groups"] < len(list(groups(RUN, 5, 12)))
    assert found["resumed"] == found["whole"] == 0
    assert found["shards"] in (0, 1)  # one of them, at least, has found that all is complete
    expected = (tmp_path / "whole.trec").read_bytes()
    assert (tmp_path / "killed.trec").read_bytes() == expected
    assert (tmp_path / "two.trec").read_bytes() == expected
    assert len(expected.splitlines()) == sum(map(len, RUN.values()))
    assert not list(tmp_path.glob("*.part-*"))


def test_the_same_options_give_the_same_bits(model: CrossEncoder) -> None:
    once, again = (rerank_run(model, QUERIES, CORPUS, RUN, **SMALL) for _ in range(2))
    assert once == again
    other = rerank_run(model, QUERIES, CORPUS, RUN, **(SMALL | {"tokens_per_batch": 4000}))
    # The canary: other passes do round differently, so equal bits above are no accident.
    assert any(once[q][d] != other[q][d] for q, d in itertools.chain(*([(q, d) for d in once[q]] for q in once)))


@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-5), ("bf16", 0.05), ("int8", 0.3)])
def test_other_precisions_are_close_and_leave_the_model_alone(
    model: CrossEncoder, precision: str, close: float
) -> None:
    expected = rerank_run(model, QUERIES, CORPUS, RUN, **SMALL)
    found = rerank_run(model, QUERIES, CORPUS, RUN, precision=precision, **SMALL)
    gap = [abs(found[q][d] - score) for q, scores in expected.items() for d, score in scores.items()]
    spread = np.std([score for scores in expected.values() for score in scores.values()])
    # Rounding is not zero in 32 bits either: a copy of the weights lies elsewhere in memory.
    assert max(gap) <= close * spread
    assert (max(gap) > 1e-4 * spread) == (precision != "float32")
    assert rerank_run(model, QUERIES, CORPUS, RUN, **SMALL) == expected
    assert model[0].model.classifier.weight.dtype == torch.float32
    # 8 bits of a score would make ties of what are none.
    one = [score for scores in found.values() for score in scores.values()]
    assert len(set(one)) > 0.8 * len(one)


def test_what_is_counted(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, seen = Counts(), []
    monkeypatch.setattr(model, "max_seq_length", 40)
    rerank_run(model, QUERIES, CORPUS, RUN, counts=counts, progress=lambda *x: seen.append(x), **SMALL)
    pairs = [(QUERIES[q], CORPUS[d]) for q, s in RUN.items() for d, _ in rank(s)[:5]]
    lengths = [len(model.tokenizer(*pair, truncation=False)["input_ids"]) for pair in pairs]
    assert counts == Counts(len(RUN), len(pairs), sum(length > 40 for length in lengths))
    assert 0 < counts.cut < len(pairs)
    assert seen[-1] == (len(pairs), len(pairs))
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": {"q0": "a"}}, r"no text for query 'q1', 'q10', 'q11' and others \(14 of 15\)"),
        ({"corpus": {doc: "a" for doc in CORPUS if doc != "d3"}}, r"no text for document 'd3' \(1 of \d+\)"),
        ({"depth": 0}, "depth must be a whole number of at least 1; got 0"),
        ({"pairs_per_group": 0}, "pairs_per_group must be"),
        ({"precision": "int4"}, "precision must be one of 'float32', 'bf16', 'int8'; got 'int4'"),
        ({"precision": "bf16"}, "needs a model of torch.* got a Length"),
        ({"shard": (2, 2)}, r"shard must be .* got \(2, 2\)"),
        ({"passages": "p.jsonl"}, "got no out"),
        ({"passages": "p.trec", "out": "./p.trec"}, "must be two files; got ./p.trec for both"),
        ({"passages": "p.jsonl", "out": "x.trec"}, "told by a LongDocumentReranker; got a Length"),
        ({"out": "nowhere/x.trec"}, "nowhere: no such directory"),
        ({"run": "nowhere.trec"}, "nowhere.trec: no such file"),
        (
            {"run": {"q1": {"d 1": 1.0}}, "corpus": {"d 1": "a"}, "out": "x.trec"},
            "the document id 'd 1' cannot stand",
        ),
        ({"tokens_per_batch": 0}, "tokens_per_batch must be a whole number of at least 1; got 0"),
        ({"model": CrossEncoder}, "the class CrossEncoder"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_scored(
    change: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Length()
    arguments: dict[str, Any] = {"model": model, "queries": QUERIES, "corpus": CORPUS, "run": RUN, **change}
    with pytest.raises(ValueError, match=message):
        rerank_run(**arguments)
    assert not model.calls
    assert not list(tmp_path.iterdir())


def test_nan_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    class Broken:
        def predict(self, pairs: list) -> list[float]:
            return [1.0] * (len(pairs) - 1) + [math.nan]

    with pytest.raises(ValueError, match=r"the model's score for query 'q.*' and document 'd.*' is nan"):
        rerank_run(Broken(), QUERIES, CORPUS, RUN, out=tmp_path / "new.trec", **SMALL)
    assert not (tmp_path / "new.trec").exists()


def test_nothing_to_do(tmp_path: Path) -> None:
    assert rerank_run(Length(), {}, {}, {}) == {}
    assert rerank_run(Length(), {"q": "a"}, {}, {"q": {}}) == {"q": {}}


def test_a_class_that_scores_in_its_own_way_is_asked(tmp_path: Path) -> None:
    class Own(CrossEncoder):
        def predict(self, inputs: Any, **_: Any) -> Any:
            return np.array([float(len(text)) for _, text in inputs])

    tiny_models.cross_encoder(tmp_path)
    found = rerank_run(Own(str(tmp_path), device="cpu"), QUERIES, CORPUS, RUN)
    assert found["q0"] == {doc: float(len(CORPUS[doc])) for doc in found["q0"]}


def test_before_sentence_transformers_6_2(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CrossEncoder had no `_inference` then: all was in `predict`."""
    found = rerank_run(model, QUERIES, CORPUS, RUN, **SMALL)
    monkeypatch.delattr(CrossEncoder, "_inference", raising=False)
    assert rerank_run(model, QUERIES, CORPUS, RUN, **SMALL) == found


def test_datasets_are_texts(model: CrossEncoder) -> None:
    queries, corpus = (
        datasets.Dataset.from_dict({"id": list(texts), "text": list(texts.values())}) for texts in (QUERIES, CORPUS)
    )
    assert rerank_run(model, queries, corpus, RUN, **SMALL) == rerank_run(model, QUERIES, CORPUS, RUN, **SMALL)
    assert rerank(model, queries, corpus, RUN, k=5) == rerank(model, QUERIES, CORPUS, RUN, k=5)


def test_a_pass_on_a_cpu_holds_512_tokens(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: shapes.append((*inputs[0]["input_ids"].shape,)))
    try:
        found = rerank_run(model, QUERIES, CORPUS, RUN)
    finally:
        hook.remove()
    tokens = [rows * length for rows, length in shapes]
    assert 256 < max(tokens) <= 512 < sum(tokens)
    assert found == rerank_run(model, QUERIES, CORPUS, RUN, tokens_per_batch=512)
