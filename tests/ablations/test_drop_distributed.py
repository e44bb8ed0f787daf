"""CmpDrop on two processes: gradients are those of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from processes import SERVER
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss

QUERIES = [*tiny_models.QUERIES, *tiny_models.QUERIES]
PASSAGES = [*tiny_models.PASSAGES, *(3 * text for text in tiny_models.OTHERS)]
LABELS = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
SHARDS = ([0, 1, 2, 3], [4, 5, 6, 7])  # the second has the longer passages, so it needs more chunks


def loss_of(model: Any, inner: CrossEncoder, drop: CmpDrop) -> ComparativeLoss:
    loss = ComparativeLoss(inner, BinaryCrossEntropyLoss(inner), [CmpCrop(), drop], tokens_per_chunk=120)
    loss.model = model  # as the trainer does it
    return loss


def step(loss: ComparativeLoss, rows: list[int]) -> Tensor:
    columns = [[QUERIES[i] for i in rows], [PASSAGES[i] for i in rows]]
    value = loss(columns, torch.tensor([LABELS[i] for i in rows]))
    assert isinstance(value, Tensor)
    return value


def gradients(model: CrossEncoder) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def load(folder: str, checkpointing: bool) -> CrossEncoder:
    model = CrossEncoder(folder, device="cpu")
    if checkpointing:
        assert model.model is not None
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def worker(rank: int, folder: str, drop: CmpDrop, checkpointing: bool) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model = load(folder, checkpointing)
        wrapped = DistributedDataParallel(model)
        loss = loss_of(wrapped, model, drop)
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1

        assert model.model is not None
        model.model.base_model.register_forward_hook(count)
        rounds = []
        for _ in range(2):  # buckets of gradients are laid out anew after the first step
            model.zero_grad()
            step(loss, SHARDS[rank]).backward()  # type: ignore[no-untyped-call]
            rounds.append(gradients(model))
        torch.save({"rounds": rounds, "passes": passes}, Path(folder) / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("drop", "checkpointing"),
    [(CmpDrop(p=0.2), False), pytest.param(CmpDrop(p=0.2, unit="head"), True, marks=pytest.mark.slow)],
)
def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path, drop: CmpDrop, checkpointing: bool) -> None:
    folder = str(tiny_models.save_checkpoint(tmp_path, tiny_models.bert_config(), tiny_models.wordpiece()))
    context = torch.multiprocessing.start_processes(
        worker, (folder, drop, checkpointing), nprocs=2, join=False, start_method=SERVER.get_start_method()
    )
    model = load(folder, checkpointing)
    loss = loss_of(model, model, drop)
    expected = []
    for _ in range(2):
        model.zero_grad()
        step(loss, [*SHARDS[0], *SHARDS[1]]).backward()  # type: ignore[no-untyped-call]
        expected.append(gradients(model))
    while not context.join(timeout=120):
        pass
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert ranks[0]["passes"] != ranks[1]["passes"], "the canary: both processes ran as many chunks"
    for i, gradient in enumerate(expected):
        assert max(g.abs().max() for g in gradient.values()) > 1e-3
        for rank in ranks:
            assert rank["rounds"][i].keys() == gradient.keys()
            for name, g in gradient.items():
                torch.testing.assert_close(rank["rounds"][i][name], g, rtol=1e-5, atol=1e-6, msg=name)
    first, second = expected
    assert any(not torch.allclose(first[n], second[n], atol=1e-4) for n in first)  # each step has its own masks
