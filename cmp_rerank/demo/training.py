"""One arm of the demo: the ecosystem's own trainer, with the plain loss or with `ComparativeLoss` around it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp_rerank.demo.config import DemoConfig
from cmp_rerank.ir import Progress

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

# ListNet's target is the softmax of the labels: with one label of 10 among zeros it is 1 to four digits, and the loss
# is the cross-entropy of the relevant document against the others.
POSITIVE = 10.0


def train(
    stage: str,
    model_path: str,
    rows: Sequence[Mapping[str, Any]],
    config: DemoConfig,
    checkpoint: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Fine-tune the model at ``model_path`` as a reranker and save it.

    The two arms differ in one line: ``loss = ComparativeLoss(model, loss, [CmpCrop(), CmpDrop()])``.

    Args:
        stage: ``"start"`` trains the new head at a constant learning rate. The arms ``"plain"`` and
            ``"comparative"`` continue from it with a falling one.
        model_path: folder of the encoder, or of the checkpoint of the start.
        rows: query and documents, the relevant one first; used in this order.
        config: the recipe.
        checkpoint: where to save.
        progress: called after each step.

    Returns:
        Seconds, a hash of the initial weights, a hash of the rows, and the values of every step.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss
    from transformers import PrinterCallback, TrainerCallback

    from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss

    class Follow(TrainerCallback):
        """Reports progress, and keeps the logged values."""

        steps: list[dict[str, float]] = []  # noqa: RUF012

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.steps.append({"step": state.global_step, **{k: v for k, v in logs.items() if k != "epoch"}})

    model = start_model(model_path, config)
    if stage == "start":
        model.max_length = config.start_length
    begin = _weights(model)
    loss: Any = ListNetLoss(model, mini_batch_size=-1)
    if stage == "comparative":
        loss = ComparativeLoss(model, loss, [CmpCrop(), CmpDrop(config.drop)], seed=config.seed)
    documents = 1 + config.negatives
    dataset = Dataset.from_list([{**row, "labels": [POSITIVE] + [0.0] * (documents - 1)} for row in rows])
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(checkpoint.parent / "trainer"),
        max_steps=config.start_steps if stage == "start" else config.steps,
        per_device_train_batch_size=config.queries_per_step,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps if stage == "start" else config.warmup_steps // 3,
        lr_scheduler_type="constant_with_warmup" if stage == "start" else "linear",
        optim="adamw_torch_fused",
        seed=config.seed,
        batch_sampler=in_order,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=model.device.type == "cuda",
    )
    follow = Follow()
    follow.steps = []
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss, callbacks=[follow])
    trainer.remove_callback(PrinterCallback)
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    model.max_length = config.max_length
    model.save_pretrained(str(checkpoint))
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "begin": begin,
        "rows": hashlib.sha256(repr([(row["query"], row["docs"]) for row in rows]).encode()).hexdigest()[:16],
        "loss": type(loss).__name__,
        "steps": follow.steps,
    }


def start_model(model_path: str, config: DemoConfig) -> CrossEncoder:
    """Load the model of a folder. An encoder gets a new head of one label, the same for the same seed.

    Its scores are logits: a sigmoid would round high scores to 1 and tie them.
    """
    import torch
    from sentence_transformers import CrossEncoder

    from cmp_rerank.hooks.sites import repeated_layers

    torch.manual_seed(config.seed)
    model = CrossEncoder(
        model_path,
        num_labels=1,
        max_length=config.max_length,
        activation_fn=torch.nn.Identity(),
        config_kwargs={"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout},
    )
    if config.frozen_layers is not None:
        _, layers = repeated_layers(model)
        frozen = [p for name, p in model.named_parameters() if "embeddings." in name]
        for parameter in [*frozen, *layers[: config.frozen_layers].parameters()]:
            parameter.requires_grad_(False)
    return model


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
    """Batches in the order of the rows, in which negatives get harder."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def _weights(model: CrossEncoder) -> str:
    """A hash of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + os.fsencode(str(value.dtype)) + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
