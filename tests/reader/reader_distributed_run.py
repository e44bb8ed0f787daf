"""What test_reader_distributed.py runs in one process and in two: trains a reader and writes weights and logits.

python reader_distributed_run.py CHECKPOINT OUTPUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.append(str(Path(__file__).parents[1]))

import torch
from tiny_readers import windows
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, TrainingArguments

from cmp_rerank.ablations import CmpCrop, CmpDrop
from cmp_rerank.training import ComparativeTrainer


def run(checkpoint: str, output: Path, tokens: int | None) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint)
    data = windows(tokenizer, crop=CmpCrop(), pack=False)[:7] + windows(tokenizer, crop=CmpCrop())
    args = TrainingArguments(
        str(output / "run"), per_device_train_batch_size=4 // world, max_steps=4, report_to=[], use_cpu=True,
        ddp_backend="gloo" if world > 1 else None, seed=1, save_strategy="no", disable_tqdm=True, learning_rate=0.1,
        optim="sgd", dataloader_drop_last=True, dataloader_pin_memory=False, logging_steps=1, max_grad_norm=0,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = ComparativeTrainer(
        model, args, train_dataset=data, processing_class=tokenizer, strategy="hybrid", tokens_per_batch=tokens,
        ablations=[CmpCrop(), CmpDrop(p=0.3, layers="top:1")], tokens_per_chunk=120,
    )  # fmt: skip
    trainer.train()
    logits = torch.cat([torch.from_numpy(x) for half in trainer.logits(data) for x in half])
    facts = {
        "weights": torch.cat([p.detach().flatten().double() for p in model.parameters()]),
        "logits": logits,
        "violations": [e["violation_rate"] for e in trainer.state.log_history if "violation_rate" in e],
        "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
        "wrapper": type(trainer.model_wrapped).__name__,
    }
    torch.save(facts, output / f"{tokens}-{os.environ.get('RANK', '0')}-of-{world}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for tokens in (None, 120):
        run(sys.argv[1], Path(sys.argv[2]), tokens)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
