"""A new ablation, objective and measure are one file each (tests/extensions), and work where the package's own do."""

from __future__ import annotations

import inspect
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extensions.found_early import FoundEarly
from extensions.margin import Margin
from extensions.mask_tokens import MaskTokens
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES
from tiny_readers import reader, windows
from transformers import TrainingArguments

import cmp_rerank
from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.ablations import Plan
from cmp_rerank.evaluation import compare, evaluate
from cmp_rerank.models.pairs import example_seed, tokenise
from cmp_rerank.testing import check_ablation
from cmp_rerank.training import ComparativeTrainer, RerankerTrainer, RerankerTrainingArguments

MASK = MaskTokens(mask_id=4)


def test_each_is_one_file_that_the_package_does_not_know() -> None:
    package = Path(cmp_rerank.__file__).parent
    names: set[str] = set()
    for path in package.rglob("*.py"):
        with path.open("rb") as file:
            names |= {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}
    assert "PairwiseHinge" in names
    for own in (MaskTokens, Margin, FoundEarly):
        assert own.__name__ not in names
        assert len(inspect.getsourcelines(own)[0]) <= 40


def test_the_ablation_conforms() -> None:
    check_ablation(MASK)


@pytest.mark.parametrize("strategy", ["naive", "stacked", "hybrid", "auto"])
def test_masked_views_are_scored_as_the_masked_text(strategy: Any, tiny_model: CrossEncoder) -> None:
    """Value and gradients are those of a slow loop: each view by itself, through the plain model."""
    tiny_model.double().train()
    plan = Plan([CmpCrop(), MASK, MASK])
    loss = ComparativeLoss(
        tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), plan.ablations, objective=Margin(), strategy=strategy
    )
    for module in tiny_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # nothing of this plan disables it
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    value = loss([QUERIES, PASSAGES], labels)
    value.backward()
    found = torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None])
    tiny_model.zero_grad(set_to_none=True)

    draw = "0 (0, 0)"
    examples = tokenise(
        tiny_model, list(zip(QUERIES, PASSAGES, strict=True)), plan, relevant=(labels > 0).tolist(), draw=draw
    )
    total = torch.zeros((), dtype=torch.float64)
    masked = 0
    for example, label in zip(examples, labels, strict=True):
        losses = []
        for view in plan.views(example):
            ids = view.feature(example, "input_ids")
            masked += int((ids == MASK.mask_id).sum())
            row = {
                "input_ids": torch.from_numpy(ids)[None],
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            }
            row["token_type_ids"] = torch.from_numpy(view.feature(example, "token_type_ids"))[None]
            score = tiny_model(row)["scores"].flatten()
            losses.append(torch.nn.functional.binary_cross_entropy_with_logits(score, label[None]))
        total = total + Margin()(torch.stack(losses)[None])[0] / len(labels)
    assert masked > 4
    assert examples[0].seed == example_seed(QUERIES[0], PASSAGES[0], draw)
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None])
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(found, expected)
    assert expected.abs().max() > 1e-4


def test_ablation_and_objective_in_the_trainers(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict(
        {"query": QUERIES * 2, "passage": PASSAGES + OTHERS, "label": [1.0] * 4 + [0.0] * 4}
    )
    loss = ComparativeLoss(
        tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [MASK, CmpDrop()], objective=Margin()
    )
    args = RerankerTrainingArguments(
        output_dir=str(tmp_path / "a"), max_steps=2, report_to=[], use_cpu=True, logging_steps=1
    )
    trainer = RerankerTrainer(model=tiny_model, args=args, train_dataset=data, loss=loss)
    trainer.train()
    assert "MaskTokens(mask_id=4" in str(loss.get_config_dict()["ablations"])
    assert loss.get_config_dict()["objective"] == "Margin(margin=0.1)"
    assert loss.diagnostics["task_loss_step_1"] != loss.diagnostics["task_loss_full"]

    model, tokenizer = reader("bert")
    reading = ComparativeTrainer(
        model,
        TrainingArguments(str(tmp_path / "b"), max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True),
        train_dataset=windows(tokenizer),
        processing_class=tokenizer,
        ablations=[MASK, MASK],
        objective=Margin(),
    )
    reading.train()
    # Windows without a segmenter have no passage tokens that may be taken: the views are equal.
    assert reading.diagnostics["task_loss_step_2"] == reading.diagnostics["task_loss_full"]
    reading.train_dataset = windows(tokenizer, crop=CmpCrop())
    reading.train()
    assert reading.diagnostics["task_loss_step_2"] != reading.diagnostics["task_loss_full"]


def test_the_measure_beside_others() -> None:
    rng = np.random.default_rng(0)
    qrels = {f"q{i}": {f"d{j}": int(rng.integers(0, 2)) for j in range(6)} for i in range(30)}
    runs = {name: {q: {d: float(rng.random()) for d in docs} for q, docs in qrels.items()} for name in "ab"}
    result = evaluate(runs["a"], qrels, [FoundEarly(), "nDCG@10"])
    for query, docs in runs["a"].items():
        best = sorted(docs, key=lambda d: (docs[d], d), reverse=True)[:3]
        assert result.per_query["FoundEarly@3"][query] == any(qrels[query][d] for d in best)
    assert 0 < result.means["FoundEarly@3"] < 1
    assert compare(runs, qrels, [FoundEarly()], baseline="a")
