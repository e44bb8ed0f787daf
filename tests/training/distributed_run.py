"""What test_distributed.py runs in one process and in several: trains by a scenario and writes the weights.

python distributed_run.py CHECKPOINT OUTPUT SCENARIO...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss, ListMLELoss
from tiny_models import OTHERS, PASSAGES, QUERIES, TEXTS
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.training.windows import WindowBatches

QUESTIONS = [*QUERIES, *reversed(QUERIES)] * 4
# Lengths differ a lot, so that processes have other numbers of chunks.
ANSWERS = [*PASSAGES, "Bees.", *OTHERS[:2], f"{TEXTS[1]} {TEXTS[3]}"] * 4
POINTWISE = datasets.Dataset.from_dict({"query": QUESTIONS, "passage": ANSWERS, "label": [1.0, 0.0] * 16})
LISTS = datasets.Dataset.from_dict(
    {
        "query": QUESTIONS,
        "docs": [[a, b] for a, b in zip(ANSWERS, reversed(ANSWERS), strict=True)],
        "labels": [[1, 0]] * 32,
    }
)
# From no document to three.
RAGGED = datasets.Dataset.from_dict(
    {
        "query": QUESTIONS,
        "docs": [[ANSWERS[(3 * i + j) % 32] for j in range(0 if i % 16 == 5 else 1 + i % 3)] for i in range(32)],
        "labels": [[float(j == 0) for j in range(0 if i % 16 == 5 else 1 + i % 3)] for i in range(32)],
    }
)
ABLATIONS = [CmpCrop(), CmpDrop(p=0.2, layers="top:1")]


def bce(model: CrossEncoder, strategy: Any = None) -> Any:
    loss = BinaryCrossEntropyLoss(model)
    if strategy is None:
        return loss
    return ComparativeLoss(model, loss, ABLATIONS, strategy=strategy, tokens_per_chunk=60)


def list_mle(model: CrossEncoder) -> Any:
    """A mean over queries, so that the mean of processes is that of all of their queries."""
    return ComparativeLoss(model, ListMLELoss(model), ABLATIONS, strategy="hybrid", tokens_per_chunk=60)


SCENARIOS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "plain": (POINTWISE, bce, {}),
    "plain-small-chunks": (POINTWISE, bce, {"tokens_per_chunk": 60, "length_bucketing": False}),
    "plain-token-budget": (POINTWISE, bce, {"tokens_per_batch": 200}),
    "plain-last-batch": (
        POINTWISE.select(range(26)),
        bce,
        {"max_steps": 8, "dataloader_drop_last": False},
    ),
    "lists": (LISTS, LambdaLoss, {}),
    "ragged": (RAGGED, list_mle, {}),
    "ragged-token-budget": (RAGGED, list_mle, {"tokens_per_batch": 400}),
    "ragged-accumulating": (RAGGED, list_mle, {"gradient_accumulation_steps": 2, "max_steps": 2}),
    "mixed": (
        datasets.DatasetDict({"lists": RAGGED, "pairs": POINTWISE}),
        lambda m: {"lists": list_mle(m), "pairs": bce(m)},
        {"max_steps": 6},
    ),
    "stacked": (POINTWISE, lambda m: bce(m, "stacked"), {"length_bucketing": False}),
    "hybrid": (POINTWISE, lambda m: bce(m, "hybrid"), {"length_bucketing": False}),
    "trunk": (POINTWISE, lambda m: bce(m, "trunk"), {"length_bucketing": False}),
    "recomputing": (POINTWISE, lambda m: bce(m, "hybrid"), {"length_bucketing": False}),
    "accumulating": (POINTWISE, lambda m: bce(m, "hybrid"), {"gradient_accumulation_steps": 2, "max_steps": 2}),
    "out-of-memory-3": (POINTWISE, lambda m: bce(m, "stacked"), {"length_bucketing": False}),
    "out-of-memory-4": (POINTWISE, lambda m: bce(m, "stacked"), {"length_bucketing": False}),
    "checkpointing": (POINTWISE, lambda m: bce(m, "hybrid"), {"gradient_checkpointing": True}),
}


class OneProcess(RerankerTrainer):
    """Trains on the batches that several processes have together."""

    def get_batch_sampler(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        sampler = super().get_batch_sampler(dataset, *args, **kwargs)
        if isinstance(sampler, WindowBatches) and self.args.tokens_per_batch:
            window, world = sampler.window, int(os.environ["PROCESSES"])
            return WindowBatches(
                len(dataset), sampler.lengths, tokens=sampler.tokens, window=window, world=world, seed=sampler.seed
            )
        return sampler


def run(checkpoint: str, output: Path, scenario: str) -> None:
    data, make_loss, options = SCENARIOS[scenario]
    model = CrossEncoder(checkpoint, device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    world = int(os.environ.get("WORLD_SIZE", "1"))
    args = RerankerTrainingArguments(**(dict(
        output_dir=str(output / "run"), per_device_train_batch_size=8 // world, max_steps=4, report_to="none",
        use_cpu=True, ddp_backend="gloo" if world > 1 else None, seed=1, save_strategy="no", disable_tqdm=True,
        learning_rate=0.1, optim="sgd", logging_steps=1, dataloader_drop_last=True, dataloader_pin_memory=False,
        eval_strategy="no" if "FSDP_VERSION" in os.environ else "steps", eval_steps=2,
    ) | options))  # fmt: skip
    loss = make_loss(model)
    if scenario == "recomputing":
        loss.scorer.budget.recompute_activations = True
    passes: list[int] = []
    model[0].model.bert.embeddings.register_forward_hook(lambda *_: passes.append(1))
    if scenario.startswith("out-of-memory") and world > 1 and int(os.environ["RANK"]) == 1:
        begun: list[int] = []

        def fail(*_: Any) -> None:  # in the first of its chunks or the second; before them, two passes look for sites
            begun.append(1)
            if len(begun) == int(scenario[-1]):
                raise torch.OutOfMemoryError("CUDA out of memory.")

        model[0].model.bert.register_forward_pre_hook(fail)
    evaluator = CrossEncoderClassificationEvaluator(list(zip(QUERIES, PASSAGES, strict=True)), [1, 0, 1, 0])
    evaluations: list[int] = []
    called = CrossEncoderClassificationEvaluator.__call__

    def noted(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        evaluations.append(1)
        return called(self, *arguments, **kwargs)

    CrossEncoderClassificationEvaluator.__call__ = noted  # type: ignore[method-assign]
    trainer = (RerankerTrainer if world > 1 else OneProcess)(
        model=model, args=args, train_dataset=data, loss=loss, evaluator=evaluator if args.do_eval else None
    )
    trainer.train()
    CrossEncoderClassificationEvaluator.__call__ = called  # type: ignore[method-assign]
    rank = int(os.environ.get("RANK", "0"))
    facts = {
        "passes": len(passes),
        "evaluations": len(evaluations),
        "wrapper": type(trainer.model_wrapped).__name__,
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }
    (output / f"{scenario}-{rank}-of-{world}.json").write_text(json.dumps(facts))
    write(trainer.model_wrapped, output / f"{scenario}-of-{world}.pt")


def write(model: torch.nn.Module, path: Path) -> None:
    state: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if os.environ.get("RANK", "0") == "0":
        numbers = [state[name] for name in sorted(state) if state[name].is_floating_point()]
        torch.save(torch.cat([x.detach().flatten().double() for x in numbers]), path)


def allow_sharding() -> None:
    """Accelerate shards parameters on accelerators only: let it take this for one."""
    from accelerate import DistributedType, PartialState
    from accelerate.state import AcceleratorState

    os.environ.update(
        ACCELERATE_USE_FSDP="true",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        FSDP_TRANSFORMER_CLS_TO_WRAP="BertLayer",
    )
    made = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        if not AcceleratorState._shared_state:
            PartialState(cpu=True, backend="gloo")
            PartialState._shared_state["device"] = torch.device("cpu")
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_MUSA
        made(self, *args, **kwargs)

    AcceleratorState.__init__ = init  # type: ignore[method-assign]


def run_sharded(checkpoint: str, output: Path, strategy: str) -> None:
    """FSDP by torch itself, without a trainer."""
    from torch.distributed.fsdp import fully_shard

    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model = CrossEncoder(checkpoint, device="cpu").train()
    if world > 1:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        for layer in model[0].model.bert.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
    passes: list[int] = []
    model[0].model.bert.embeddings.register_forward_hook(lambda *_: passes.append(1))
    loss = ComparativeLoss(
        model,
        BinaryCrossEntropyLoss(model),
        ABLATIONS,
        strategy=strategy,
        tokens_per_chunk=150,  # type: ignore[arg-type]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        rows = POINTWISE[8 * step + 8 // world * rank : 8 * step + 8 // world * (rank + 1)]
        loss([rows["query"], rows["passage"]], torch.tensor(rows["label"])).backward()
        optimizer.step()
        optimizer.zero_grad()
    facts = {"passes": len(passes), "wrapper": type(model).__name__}
    (output / f"fsdp-{strategy}-{rank}-of-{world}.json").write_text(json.dumps(facts))
    write(model, output / f"fsdp-{strategy}-of-{world}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "FSDP_VERSION" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        allow_sharding()
    for name in sys.argv[3:]:
        if name.startswith("fsdp-"):
            run_sharded(sys.argv[1], Path(sys.argv[2]), name.removeprefix("fsdp-"))
        else:
            run(sys.argv[1], Path(sys.argv[2]), name)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
