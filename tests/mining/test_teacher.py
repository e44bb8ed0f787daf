"""Labels of a teacher: by hand, by a slow loop, and from runs of large language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from test_formats import train

from cmp_rerank.ir import read_corpus, read_queries, read_run, write_run
from cmp_rerank.mining import mine
from cmp_rerank.mining.teacher import teacher_labels

CORPUS = {f"d{number}": f"text {number}" for number in range(10)}
QUERIES = {"q0": "query 0", "q1": "query 1"}
RUN = {"q0": {f"d{number}": float(-number) for number in range(5)}, "q1": {"d7": 1.0, "d8": 0.5}}


class Length:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def predict(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.seen += pairs
        return [float(text.split()[1]) for _, text in pairs]


@given(
    scores=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-3, 3).map(float), min_size=1),
    extra=st.sets(st.sampled_from("uvwxyz")),
    unscored=st.sampled_from(["drop", "lowest"]),
)
def test_ranks_against_a_slow_loop(scores: dict[str, float], extra: set[str], unscored: str) -> None:
    documents = sorted(scores) + sorted(extra)
    reciprocal = teacher_labels("q", documents, scores, "reciprocal", unscored)
    linear = teacher_labels("q", documents, scores, "linear", unscored)
    ranks = teacher_labels("q", documents, scores, "ranks", unscored)
    kept = documents if unscored == "lowest" else sorted(scores)
    assert list(reciprocal) == list(linear) == kept
    for document in kept:
        if document in scores:
            better = [o for o in scores if (scores[o], o) > (scores[document], document)]
            place = 1 + len(better)
        else:
            place = len(scores) + 1
        assert reciprocal[document] == 1 / place
        assert ranks[document] == place
        assert linear[document] == pytest.approx((len(kept) - place + 1) / len(kept))
        assert 0 < linear[document] <= 1
    same = teacher_labels("q", documents, scores, "scores", unscored)
    assert same == {d: scores.get(d, min(scores.values())) for d in kept}


def test_a_missing_score_is_an_error_that_names_the_options() -> None:
    with pytest.raises(ValueError, match=r"got none for 1 of 2 documents of query 'q', such as 'b'; .*'lowest'"):
        teacher_labels("q", ["a", "b"], {"a": 1.0}, "scores", "error")
    with pytest.raises(ValueError, match="scores must be finite; got nan for query 'q' and document 'a'"):
        teacher_labels("q", ["a"], {"a": float("nan")}, "scores", "error")


def found(**options: Any) -> dict[str, dict[str, float]]:
    data = mine(QUERIES, CORPUS, {"q0": {"d0": 1}, "q1": {"d7": 1}}, RUN, ids=True, pick="top", **options).rows
    return {row["query_id"]: dict(zip(row["doc_ids"], row["labels"], strict=True)) for row in data.to_list()}  # type: ignore[attr-defined]


def test_a_run_teaches() -> None:
    teacher = {"q0": {"d0": 0.5, "d1": 9.0, "d2": 2.0}}
    options: dict[str, Any] = {"negatives": 2, "teacher": teacher, "short": "keep"}
    # The teacher knows nothing of q1: there is nothing to learn.
    assert found(**options) == {"q0": {"d1": 9.0, "d2": 2.0, "d0": 0.5}}
    assert list(found(**options)["q0"]) == ["d1", "d2", "d0"]
    assert found(labels="reciprocal", **options)["q0"] == {"d1": 1.0, "d2": 1 / 2, "d0": 1 / 3}
    assert found(labels="linear", **options)["q0"] == {"d1": 1.0, "d2": 2 / 3, "d0": 1 / 3}
    assert found(labels="ranks", **options)["q0"] == {"d1": 1.0, "d2": 2.0, "d0": 3.0}
    assert list(found(labels="ranks", **options)["q0"]) == ["d1", "d2", "d0"]  # best first
    both = found(labels="both", **options)["q0"]
    assert both == {"d1": [0.0, 9.0], "d2": [0.0, 2.0], "d0": [1.0, 0.5]}
    options |= {"negatives": 3}
    with pytest.raises(ValueError, match="got none for 1 of 4 documents of query 'q0', such as 'd3'"):
        found(**options)
    assert found(unscored="drop", **options) == {"q0": {"d1": 9.0, "d2": 2.0, "d0": 0.5}}
    assert found(unscored="lowest", **options) == {"q0": {"d1": 9.0, "d2": 2.0, "d0": 0.5, "d3": 0.5}}
    # Without its positive there is no list.
    with pytest.raises(ValueError, match="the teacher knows too few of their documents: 2"):
        found(unscored="drop", negatives=2, teacher={"q0": {"d1": 1.0, "d2": 0.0}})


def test_a_file_teaches_by_the_ranks_that_it_gives(tmp_path: Path) -> None:
    path = tmp_path / "teacher.trec"
    path.write_text("".join(f"q0 Q0 d{n} {place} 1.0 llm\n" for place, n in enumerate((1, 2, 0), 1)))
    assert found(negatives=2, teacher=path, labels="reciprocal") == {"q0": {"d1": 1.0, "d2": 1 / 2, "d0": 1 / 3}}
    # By their scores, which are tied here, the ids would decide.
    by_score = found(negatives=2, teacher=read_run(path), labels="reciprocal")
    assert by_score == {"q0": {"d2": 1.0, "d1": 1 / 2, "d0": 1 / 3}}


def test_a_model_that_filters_and_teaches_scores_each_pair_once() -> None:
    model = Length()
    labels = found(negatives=2, model=model, min_score=0.0, teacher=model)
    assert labels["q0"] == {"d2": 2.0, "d1": 1.0, "d0": 0.0}
    assert len(model.seen) == len(set(model.seen))


def test_without_judgments_a_teacher_labels_what_a_run_has() -> None:
    mined = mine(QUERIES, CORPUS, None, RUN, teacher=RUN, labels="reciprocal", negatives=3, short="keep", pick="top")
    assert [row["docs"] for row in mined.dataset.to_list()] == [  # type: ignore[attr-defined]
        ["text 0", "text 1", "text 2"],
        ["text 7", "text 8"],
    ]
    assert mined.counts.positives == 0
    assert mined.counts.fewer == 1


@pytest.mark.parametrize("name", ["RankNetLoss", "LambdaLoss", "ADRMSELoss"])
def test_ranks_of_a_language_model_are_distilled(
    name: str, shared_data: Path, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    """As Rank-DistiLLM: the model learns the order that a language model gave the first stage's documents."""
    folder = shared_data / "trec-dl-2019"
    queries, corpus = read_queries(folder / "queries.jsonl"), read_corpus(folder / "corpus.jsonl")
    path = shared_data / "metrics-golden" / "rankvicuna-splade_p_p_ensemble_distil-top20.trec"
    teacher = read_run(path, rank_order="given")
    mined = mine(
        queries, corpus, None, path, teacher=path, labels="reciprocal", negatives=20, ranks=(1, 20), pick="top"
    )
    assert mined.counts.summary() == (f"43 rows from 43 of 43 queries: 0 positives, 860 negatives ({path.stem} 860)")
    assert mined.notes() == []
    # The slow loop: texts in the order of the file, labels 1, 1/2, 1/3, ...
    for row, (query, ranked) in zip(mined.dataset.to_list(), teacher.items(), strict=True):  # type: ignore[attr-defined]
        assert row["query"] == queries[query]
        assert row["docs"] == [corpus[document] for document in list(ranked)[:20]]
        assert row["labels"] == [1 / place for place in range(1, 21)]
    short = mined.dataset.select(range(2)).map(lambda row: {"docs": [text[:80] for text in row["docs"]]})
    assert train(tiny_model, short, getattr(losses, name)(tiny_model), tmp_path) > 0


def test_the_order_is_learned(tiny_model: CrossEncoder) -> None:
    """The sign is right: some steps on distilled ranks bring the model's order nearer to the teacher's."""
    from tiny_models import PASSAGES

    corpus = {f"d{number}": passage for number, passage in enumerate(PASSAGES)}
    teacher = {"q0": {"d2": 4.0, "d0": 3.0, "d3": 2.0, "d1": 1.0}}
    data = mine(QUERIES, corpus, None, teacher, teacher=teacher, labels="linear", negatives=4).dataset
    row = data[0]
    loss = losses.RankNetLoss(tiny_model)
    optimizer = torch.optim.Adam(tiny_model.parameters(), lr=1e-3)
    tiny_model.train()
    for _ in range(30):
        value = loss([[row["query"]], [row["docs"]]], [torch.tensor(row["labels"])])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    scores = tiny_model.predict([(row["query"], text) for text in corpus.values()]).tolist()
    assert sorted(corpus, key=dict(zip(corpus, scores, strict=True)).__getitem__, reverse=True) == [
        "d2", "d0", "d3", "d1",
    ]  # fmt: skip


def test_a_written_run_teaches_as_it_stands(tmp_path: Path) -> None:
    write_run(tmp_path / "teacher.trec", RUN)
    options: dict[str, Any] = {"negatives": 1, "labels": "scores"}
    assert found(teacher=tmp_path / "teacher.trec", **options) == found(teacher=RUN, **options)
