"""Long documents: passages against a slow loop, gradients, the signatures of CrossEncoder, the real trainer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss
from tiny_models import QUERIES, TEXTS

from cmp_rerank import CmpCrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.long_document import (
    AvgP,
    Coverage,
    FirstP,
    LongDocumentAdapter,
    LongDocumentReranker,
    MaxP,
    SumP,
    TopKAvgP,
)

WINDOW = 40
LONG = " ".join(TEXTS[:5])
DOCUMENTS = [TEXTS[0], LONG, TEXTS[3], LONG + " " + TEXTS[2], ""]
PAIRS = [(QUERIES[0], document) for document in DOCUMENTS]
COMBINE = [FirstP(), MaxP(), SumP(), AvgP(), TopKAvgP(2), TopKAvgP(9)]


@pytest.fixture
def model(tiny_model: CrossEncoder) -> CrossEncoder:
    tiny_model.max_seq_length = WINDOW
    return tiny_model.eval()


def slow(model: CrossEncoder, pairs: Any, combine: Any, size: int | None, stride: int | None) -> torch.Tensor:
    """Every passage of every document alone, as token ids written out by hand, with gradients."""
    tokenizer, scores = model.tokenizer, []
    for query, document in pairs:
        head = [tokenizer.cls_token_id, *tokenizer.encode(query, add_special_tokens=False), tokenizer.sep_token_id]
        body = tokenizer.encode(document, add_special_tokens=False, verbose=False)
        room = WINDOW - len(head) - 1
        width = min(size or room, room)
        step = min(stride or (width + 1) // 2, width)
        passages, at = [], 0
        while True:
            passages.append(body[at : at + width])
            if at + width >= len(body):
                break
            at += step
        logits = []
        for passage in passages:
            ids = [*head, *passage, tokenizer.sep_token_id]
            types = [0] * len(head) + [1] * (len(passage) + 1)
            features = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
            features["attention_mask"] = torch.ones_like(features["input_ids"])
            logits.append(model(features)["scores"][0, 0])
        best = sorted(logits, key=lambda logit: -logit.item())
        if isinstance(combine, FirstP):
            best = logits[:1]
        elif isinstance(combine, (MaxP, TopKAvgP)):
            best = best[: getattr(combine, "k", 1)]
        scores.append(sum(best) / (1 if isinstance(combine, SumP) else len(best)))
    return torch.stack(scores)


@pytest.mark.parametrize("combine", COMBINE, ids=repr)
@pytest.mark.parametrize(("size", "stride"), [(None, None), (12, 5), (12, 12)])
def test_scores_and_gradients_against_a_slow_loop(model: CrossEncoder, combine: Any, size: Any, stride: Any) -> None:
    reranker = LongDocumentReranker(model, combine, passage_tokens=size, stride=stride, tokens_per_chunk=100)
    weights = torch.linspace(-1, 1, len(PAIRS))
    expected = slow(model, PAIRS, combine, size, stride)
    ours = reranker(reranker.preprocess(PAIRS))["scores"]
    assert ours.shape == (len(PAIRS), 1)
    torch.testing.assert_close(ours[:, 0], expected, atol=1e-5, rtol=1e-5)
    gradients = []
    for scores in (expected, ours[:, 0]):
        model.zero_grad()
        (weights * scores).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3)


def test_predict_and_rank_are_those_of_a_cross_encoder(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model)
    for name in ("predict", "rank"):
        assert inspect.signature(getattr(reranker, name)) == inspect.signature(getattr(model, name))
    expected = torch.sigmoid(slow(model, PAIRS, MaxP(), None, None)).detach().numpy()
    for batch_size in (1, 3, 32):
        assert reranker.predict(PAIRS, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)
    assert reranker.predict(PAIRS[1]) == pytest.approx(expected[1], abs=1e-5)
    assert isinstance(reranker.predict(PAIRS, convert_to_tensor=True), torch.Tensor)
    assert reranker.predict([]).shape == (0,)
    ranked = reranker.rank(QUERIES[0], DOCUMENTS, top_k=2, return_documents=True)
    order = np.argsort(-expected)
    assert [entry["corpus_id"] for entry in ranked] == order[:2].tolist()
    assert ranked[0]["text"] == DOCUMENTS[order[0]]


def test_documents_that_fit_score_as_the_model_itself(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model)
    short = [(QUERIES[0], "Bees fly."), (QUERIES[1], "")]
    assert reranker.predict(short) == pytest.approx(model.predict(short), abs=1e-6)
    model.max_seq_length = 160  # a long window runs natively
    long = [(QUERIES[0], LONG)]
    assert reranker.predict(long) == pytest.approx(model.predict(long), abs=1e-6)
    passages = LongDocumentReranker(model, passage_tokens=12)  # the one option
    assert passages.predict(long) != pytest.approx(model.predict(long), abs=1e-4)


def test_a_window_of_8192_tokens_runs_natively(tmp_path: Path) -> None:
    """ModernBERT's window, with local attention in most layers: documents of thousands of tokens in one pass."""
    model = tiny_models.cross_encoder(tmp_path, tiny_models.modernbert_config, max_position_embeddings=8192)
    model.max_seq_length = 8192
    logits = {"activation_fn": torch.nn.Identity()}
    long = " ".join(TEXTS * 20)
    tokens = len(model.tokenizer.encode(long, add_special_tokens=False, verbose=False))
    assert 2048 < tokens < 8000
    pairs = [(QUERIES[0], long), (QUERIES[1], TEXTS[0])]
    reranker = LongDocumentReranker(model)
    assert reranker.predict(pairs, **logits) == pytest.approx(model.predict(pairs, **logits), abs=1e-5)
    assert reranker.coverage.long == 0
    passages = LongDocumentReranker(model, passage_tokens=512)
    assert passages.predict(pairs, **logits)[0] != pytest.approx(model.predict(pairs, **logits)[0], abs=1e-4)
    assert passages.coverage.passages > tokens / 512


def test_coverage_counts_what_truncation_would_lose(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model, passage_tokens=10, stride=10)
    reranker.predict(PAIRS)
    lengths = [len(model.tokenizer.encode(document, add_special_tokens=False)) for document in DOCUMENTS]
    truncated = model.preprocess(
        PAIRS, processing_kwargs={"text": {"padding": False}, "common": {"return_tensors": None}}
    )
    seen = [row.count(1) - 1 for row in truncated["token_type_ids"]]
    expected = Coverage(
        documents=len(PAIRS),
        long=sum(n > s for n, s in zip(lengths, seen, strict=True)),
        tokens=sum(lengths),
        lost=sum(lengths) - sum(seen),
        passages=sum(max(-(-n // 10), 1) for n in lengths),
    )
    assert reranker.coverage == expected
    assert f"lost {expected.lost} of {expected.tokens} tokens" in str(reranker.coverage)


@pytest.mark.skipif(
    not hasattr(CrossEncoder, "_inference"), reason="before 6.2 sentence-transformers makes batches of documents"
)
def test_passages_of_all_documents_share_batches_in_order_of_length(
    model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = model[0].forward

    def spy(features: dict[str, Any], **kwargs: Any) -> Any:
        shapes.append(tuple(features["input_ids"].shape))
        return forward(features, **kwargs)

    monkeypatch.setattr(model[0], "forward", spy)
    LongDocumentReranker(model).predict(PAIRS, batch_size=4)
    assert all(rows == 4 for rows, _ in shapes[:-1])
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)
    assert max(widths) <= WINDOW


def test_first_passages_only_and_a_limit(model: CrossEncoder) -> None:
    first = LongDocumentReranker(model, FirstP())
    first.predict(PAIRS)
    assert first.coverage.passages == len(PAIRS)
    limited = LongDocumentReranker(model, max_passages=2)
    for pair in PAIRS:
        unlimited = LongDocumentReranker(model)
        unlimited.predict([pair])
        before = limited.coverage.passages
        limited.predict([pair])
        assert limited.coverage.passages - before == min(unlimited.coverage.passages, 2)
    assert len(PAIRS) < limited.coverage.passages < 2 * len(PAIRS)


def test_a_long_query_leaves_the_document_half_of_the_window(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model)
    query = "what do bears eat " * 40
    features = reranker.preprocess([(query, LONG)])
    ((view, _), *_) = reranker._passages(features["part_of_pair"][0].numpy())
    assert len(view) == WINDOW
    assert (features["part_of_pair"][0].numpy()[view.tokens] == 2).sum() == (WINDOW - 3) // 2
    ids = features["input_ids"][0].numpy()[view.tokens].tolist()
    assert ids.count(model.tokenizer.sep_token_id) == 2
    assert np.isfinite(reranker.predict([(query, LONG), (query, "")])).all()


def test_an_ordinary_checkpoint_is_saved(model: CrossEncoder, tmp_path: Path) -> None:
    reranker = LongDocumentReranker(model)
    reranker.save_pretrained(str(tmp_path))
    loaded = CrossEncoder(str(tmp_path), device="cpu")
    assert type(loaded) is CrossEncoder
    assert "cmp_rerank" not in (tmp_path / "modules.json").read_text()
    assert loaded.predict(PAIRS) == pytest.approx(model.predict(PAIRS), abs=1e-6)
    assert LongDocumentReranker(loaded).predict(PAIRS) == pytest.approx(reranker.predict(PAIRS), abs=1e-6)


def test_causal_rerankers_with_a_chat_template(tmp_path: Path) -> None:
    model = tiny_models.chat_reranker(tmp_path).eval()
    reranker = LongDocumentReranker(model, passage_tokens=30, stride=30)
    short = [(QUERIES[0], "Bees fly."), (QUERIES[0], TEXTS[2][:40])]
    assert reranker.predict(short) == pytest.approx(model.predict(short), abs=1e-5)
    scores = reranker.predict([(QUERIES[0], LONG)], activation_fn=torch.nn.Identity())
    features = reranker.preprocess([(QUERIES[0], LONG)])
    views = [view for view, _ in reranker._passages(features["part_of_pair"][0].numpy())]
    assert len(views) > 2
    ids = features["input_ids"][0].numpy()
    alone = []
    for view in views:
        row = torch.tensor(ids[view.tokens])[None]
        given = {"input_ids": row, "attention_mask": torch.ones_like(row), "modality": "message", "logits_to_keep": 1}
        with torch.no_grad():
            alone.append(model(given)["scores"].item())
        assert model.tokenizer.decode(ids[view.tokens]).replace(" ", "").endswith("</s><s>assistantRelevant")
    assert scores == pytest.approx([max(alone)], abs=1e-5)
    model.max_seq_length = 20
    with pytest.raises(ValueError, match="has no room for the document"):
        reranker.predict([(QUERIES[0], LONG)])


def dataset() -> Any:
    rows = [
        {"query": q, "doc": d, "label": float(i % 2)}
        for i, (q, d) in enumerate(zip(QUERIES, DOCUMENTS[:4], strict=True))
    ]
    return datasets.Dataset.from_list(rows)


def train(model: CrossEncoder, loss: torch.nn.Module, tmp_path: Path) -> list[float]:
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset(), loss=loss)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_real_trainer_trains_it_with_a_plain_loss(model: CrossEncoder, tmp_path: Path) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reranker = LongDocumentReranker(model)
    data = dataset()
    labels = torch.tensor(data["label"])
    logits = slow(model, list(zip(data["query"], data["doc"], strict=True)), MaxP(), None, None)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = train(reranker, BinaryCrossEntropyLoss(reranker), tmp_path)
    assert losses[0] == pytest.approx(expected, abs=1e-4)
    assert any(
        not torch.equal(before[name], p) for name, p in model.named_parameters()
    )  # the wrapped model's weights


def test_the_real_trainer_trains_it_with_crops(model: CrossEncoder, tmp_path: Path) -> None:
    reranker = LongDocumentReranker(model)
    loss = ComparativeLoss(reranker, BinaryCrossEntropyLoss(reranker), [CmpCrop()])
    losses = train(reranker, loss, tmp_path)
    assert all(np.isfinite(losses))
    assert loss.truncation.cut == 0  # nothing is truncated
    assert reranker.coverage.long > 0


def first_passage(scores: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return scores[:, 0]


@pytest.mark.parametrize(
    ("ours", "combine"),
    [
        (False, MaxP()),
        (True, first_passage),
        pytest.param(False, first_passage, marks=pytest.mark.slow),
        pytest.param(True, MaxP(), marks=pytest.mark.slow),
    ],
)
def test_trainers_resume_it_and_load_its_best_checkpoint(
    ours: bool, combine: Any, tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An aggregation that no checkpoint can hold is not in the way: it stays that of the model."""
    Arguments = RerankerTrainingArguments if ours else CrossEncoderTrainingArguments
    Trainer = RerankerTrainer if ours else CrossEncoderTrainer

    def make() -> Any:
        reranker = LongDocumentReranker(CrossEncoder(str(tiny_checkpoint), device="cpu"), combine, passage_tokens=20)
        arguments = Arguments(
            output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, eval_steps=1,
            save_steps=1, eval_strategy="steps", load_best_model_at_end=True, lr_scheduler_type="constant",
            metric_for_best_model="eval_loss", greater_is_better=True, report_to="none", disable_tqdm=True,
            use_cpu=True,
        )  # fmt: skip
        loss = BinaryCrossEntropyLoss(reranker)
        return Trainer(model=reranker, args=arguments, train_dataset=dataset(), eval_dataset=dataset(), loss=loss)

    done = make()
    done.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in done.state.log_history if "eval_loss" in entry}
    best = max(losses, key=lambda step: losses[step])  # of a training that learns, the last one is not that
    assert best < 4
    assert done.state.best_global_step == best
    assert done.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-6)
    again = make()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.model.combine is combine
    for name, value in done.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_model_of_its_own_code_is_loaded_with_it_again(model: CrossEncoder) -> None:
    assert not LongDocumentReranker(model).trust_remote_code
    model.trust_remote_code = True
    assert LongDocumentReranker(model).trust_remote_code


def test_crops_of_a_long_document_are_scored_as_shorter_documents(model: CrossEncoder) -> None:
    from cmp_rerank.ablations import FixedCounts, Plan
    from cmp_rerank.engine import Scorer
    from cmp_rerank.models.pairs import tokenise
    from cmp_rerank.text.segmenters import Sentences

    reranker = LongDocumentReranker(model).eval()
    plan = Plan([CmpCrop(support=None, schedule=FixedCounts((7,)))])
    (example,) = tokenise(reranker, [(QUERIES[0], LONG)], plan)
    views = plan.views(example)
    kept = sorted({int(i) for i in example.segment[views[1].tokens] if i >= 0})
    assert len(kept) == 7
    text = " ".join(LONG[slice(*Sentences()(LONG)[i])] for i in kept)
    with torch.no_grad():
        scores = Scorer(LongDocumentAdapter())(reranker, [example], [views])
    expected = slow(model, [(QUERIES[0], LONG), (QUERIES[0], text)], MaxP(), None, None)
    torch.testing.assert_close(scores[0, :, 0], expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "naive", "auto"])
def test_drops_go_by_the_tokens_of_the_document(model: CrossEncoder, strategy: Any) -> None:
    """Each passage alone, as a row of its own with the document's positions, drops the same units."""
    from cmp_rerank import CmpDrop
    from cmp_rerank.ablations import Example, Plan, View
    from cmp_rerank.engine import Scorer
    from cmp_rerank.models.pairs import tokenise

    reranker = LongDocumentReranker(model, tokens_per_chunk=90).train()
    drop = CmpDrop(p=0.3, layers="top:1") if strategy == "auto" else CmpDrop(p=0.3)
    plan = Plan([CmpCrop(), drop])
    pairs = [(QUERIES[0], LONG), (QUERIES[1], TEXTS[2])]
    examples = tokenise(reranker, pairs, plan)
    views = [plan.views(example) for example in examples]
    scores = Scorer(LongDocumentAdapter(), [drop], strategy=strategy)(reranker, examples, views)
    for i, (example, steps) in enumerate(zip(examples, views, strict=True)):
        for k, view in enumerate(steps):
            passages = reranker._passages(example.features["part_of_pair"][view.tokens])
            alone = [View(view.tokens[passage.tokens], view.levels) for passage, _ in passages]
            bare = {name: values for name, values in example.features.items() if name != "part_of_pair"}
            row = Example(bare, example.segment, seed=example.seed, shared=example.shared)
            expected = torch.stack(
                [Scorer(CrossEncoderAdapter(), [drop])(model, [row], [[one]])[0, 0, 0] for one in alone]
            ).max()
            torch.testing.assert_close(scores[i, k, 0], expected, atol=1e-5, rtol=1e-5)
        assert (scores[i, 1] - scores[i, 2]).abs().max() > 1e-3


def test_listwise_losses_and_several_labels(model: CrossEncoder, tmp_path: Path) -> None:
    reranker = LongDocumentReranker(model)
    loss = ListNetLoss(reranker)([[QUERIES[0]], [DOCUMENTS[:3]]], [torch.tensor([1.0, 0.0, 0.0])])
    loss.backward()
    assert loss.item() > 0
    three = tiny_models.cross_encoder(tmp_path, num_labels=3)
    three.max_seq_length = WINDOW
    scores = LongDocumentReranker(three).predict(PAIRS, apply_softmax=True)
    assert scores.shape == (len(PAIRS), 3)
    assert scores.sum(axis=1) == pytest.approx(np.ones(len(PAIRS)), abs=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"passage_tokens": 0}, "passage_tokens must be a whole number, at least 1; got 0"),
        ({"stride": 0}, "stride must be a whole number, at least 1; got 0"),
        ({"max_passages": 0}, "max_passages must be a whole number, at least 1; got 0"),
        ({"passage_tokens": 4, "stride": 5}, "some tokens would never be read"),
        ({"combine": 3}, "combine must be MaxP"),
    ],
)
def test_bad_options_are_refused_in_words(model: CrossEncoder, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LongDocumentReranker(model, **kwargs)


def test_other_bad_input(model: CrossEncoder) -> None:
    with pytest.raises(ValueError, match="k must be a whole number, at least 1; got 0"):
        TopKAvgP(0)
    with pytest.raises(ValueError, match="model must be a CrossEncoder that scores passages"):
        LongDocumentReranker(LongDocumentReranker(model))
    with pytest.raises(ValueError, match=r"Input 0 must be a pair of texts \(query, document\); got a list of 1"):
        LongDocumentReranker(model).predict([["only a query"]])


def test_a_document_of_a_hundred_thousand_words_is_read_to_its_end(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model, max_passages=3)
    reranker.predict([(QUERIES[0], "Some nine words stand here before the next end. " * 11_200)])
    assert reranker.coverage.tokens > 100_000
    assert reranker.coverage.lost > 0.99 * reranker.coverage.tokens
    assert reranker.coverage.passages == 3
