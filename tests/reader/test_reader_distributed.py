"""Two processes train the reader that one process trains: same views, same weights, same log, all logits on each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import distributed, succeeded
from tiny_readers import reader

SCRIPT = Path(__file__).with_name("reader_distributed_run.py")


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    for module in (model, tokenizer):
        module.save_pretrained(tmp_path / "start")
    before = torch.cat([p.detach().flatten().double() for p in model.parameters()])
    for world in (1, 2):
        succeeded(distributed(world, SCRIPT, tmp_path / "start", tmp_path))
    one = torch.load(tmp_path / "None-0-of-1.pt")
    ours, theirs = (torch.load(tmp_path / f"None-{rank}-of-2.pt") for rank in (0, 1))
    assert ours["wrapper"] == "DistributedDataParallel"
    assert (one["weights"] - before).abs().max() > 1e-3  # there was something to get wrong
    for two in (ours, theirs):
        assert (one["weights"] - two["weights"]).abs().max() < 1e-5
        assert torch.allclose(one["logits"], two["logits"], atol=1e-4)
        assert two["violations"] == pytest.approx(one["violations"], abs=1e-6)
        assert two["losses"] == pytest.approx(one["losses"], abs=1e-3)
    # Batches by tokens: other ones in two processes, but the same weights on both.
    ours, theirs = (torch.load(tmp_path / f"120-{rank}-of-2.pt") for rank in (0, 1))
    assert torch.equal(ours["weights"], theirs["weights"])
    assert torch.equal(ours["logits"], theirs["logits"])
