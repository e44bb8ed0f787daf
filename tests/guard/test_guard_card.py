"""What the model card says of what the guard hands over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from huggingface_hub import ModelCard
from sentence_transformers import CrossEncoder
from tiny_collection import Tiny, tiny_collection

from cmp_rerank.evaluation import evaluate
from cmp_rerank.guard import GuardOptions, Verdict, guard
from cmp_rerank.ir.card import add_section, with_section

FEW = GuardOptions(interpolations=(), score_weights=(0.5,), repeats=1)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def tiny(start: CrossEncoder) -> Tiny:
    return tiny_collection(start)


def guarded(tmp_path: Path, tiny: Tiny, start: Any, tuned: Any, options: GuardOptions = FEW) -> tuple[Verdict, str]:
    verdict = guard(start, tuned, corpus=tiny.corpus, **tiny.inputs(), measure="RR", options=options,
                    out=tmp_path / "out")  # fmt: skip
    return verdict, (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_tuned_model_says_that_it_is_one(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    verdict, card = guarded(tmp_path, tiny, start, tiny.good)
    assert verdict.chosen == "tuned"
    section = card[card.index("## What the guard found") : card.index("## Training Details")]
    assert verdict.sentence in section
    assert "This checkpoint is the tuned model." in section
    row = re.search(r"^\| tuned \| 1\.000 \(1\.000 to 1\.000\) \| (\S+) \((\S+) to (\S+)\) \| handed over \|$",
                    section, re.MULTILINE)  # fmt: skip
    assert row is not None
    gain, low, high = map(float, row.groups())
    assert gain == pytest.approx(verdict.row("tuned").gain, abs=1e-3)
    error = verdict.row("tuned").error
    assert error is not None
    # The percentile interval is near the normal one.
    assert (gain - low, high - gain) == pytest.approx((1.96 * error, 1.96 * error), rel=0.25)
    assert "cmp-rerank " in section
    assert "pip install -U sentence-transformers" in card  # what upstream writes is there, too
    result = ModelCard(card).data.eval_results[0]
    assert (result.metric_type, result.metric_value) == ("RR", 1.0)
    assert result.metric_name == "RR of the tuned model"


def test_a_start_that_is_kept_does_not_pass_for_the_tuned_model(
    start: CrossEncoder, tiny: Tiny, tmp_path: Path
) -> None:
    options = GuardOptions(interpolations=(), score_weights=(), repeats=1, had="start")
    verdict, card = guarded(tmp_path, tiny, tiny.good, tiny.bad, options)
    assert verdict.chosen == "start"
    assert "Nothing of the fine-tuning that was judged is in its weights" in card
    assert ModelCard(card).data.eval_results[0].metric_name == "RR of the starting model"


def test_a_first_stage_alone_says_that_the_model_has_no_part(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    best = {query: {max(scores, key=scores.__getitem__): 1} for query, scores in tiny.first_stage.items()}
    tiny = Tiny(tiny.corpus, tiny.queries, tiny.first_stage, best, tiny.good, tiny.bad)
    verdict, card = guarded(tmp_path, tiny, None, tiny.bad)
    assert verdict.chosen == "first stage"
    assert "This model has no part in the ranking" in card
    assert "load_guard" not in card


def test_a_share_of_the_score_comes_with_the_code_that_ranks(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    qrels = {}
    for query, scores in tiny.first_stage.items():
        top = sorted(scores, key=scores.__getitem__)[-3:]
        qrels[query] = {max(top, key=lambda doc, query=query: doc in tiny.qrels[query]): 1}
    both = Tiny(tiny.corpus, tiny.queries, tiny.first_stage, qrels, tiny.good, tiny.bad)
    verdict, card = guarded(tmp_path, both, start, tiny.good)
    assert verdict.chosen == "tuned, 50% score"
    assert "the model has a share of 0.5" in card
    (code,) = re.findall(r"```python\n(from cmp_rerank.*?)```", card, re.DOTALL)
    found: dict[str, Any] = {"queries": both.queries, "corpus": both.corpus, "first_stage": both.first_stage}
    exec(code.replace("the folder of this model", str(tmp_path / "out")), found)
    assert evaluate(found["run"], qrels, "RR")["RR"] == verdict.row(verdict.chosen).mean


def test_a_section_replaces_its_older_one_and_leaves_the_rest() -> None:
    card = "---\ntags: [a]\n---\n# M\n\n## Usage\nuse\n\n## Training Details\n\nmany\n"
    once = with_section(with_section(card, "A", "one\n### sub"), "B", "two")
    again = with_section(with_section(once, "A", "three"), "B", "two")
    assert re.findall(r"^## .*", again, re.MULTILINE) == ["## Usage", "## A", "## B", "## Training Details"]
    assert "one" not in again
    assert "sub" not in again
    assert with_section(with_section(again, "A", "three"), "B", "two") == again
    assert with_section("# M\n", "A", "one") == "# M\n\n## A\n\none\n"
    with pytest.raises(ValueError, match="headings of the third level; got one of the second"):
        with_section(card, "A", "text\n## B")


def test_no_card_is_no_error(tmp_path: Path) -> None:
    add_section(tmp_path / "README.md", "A", "one")
    assert list(tmp_path.iterdir()) == []
