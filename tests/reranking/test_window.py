"""A window beyond the positions of a model is refused when it is loaded, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import families

from cmp_rerank.reranking.loading import check_window, load_reranker


@pytest.mark.parametrize("name", families())
@torch.no_grad()
def test_just_what_the_model_cannot_read_is_refused(name: str) -> None:
    model = families()[name]().eval()
    for tokens in (157, 158, 159, 160, 161, 200):
        ids = torch.full((1, tokens), 7)
        ids[:, -1] = 3  # T5 scores at the end of the text
        try:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (IndexError, RuntimeError):
            with pytest.raises(ValueError, match=f"max_length must be at most 1.., the positions .*; got {tokens};"):
                check_window(model, tokens)
        else:
            check_window(model, tokens)


def test_it_is_told_when_a_model_is_loaded(tiny_checkpoint: Path) -> None:
    assert load_reranker(tiny_checkpoint, max_length=160, device="cpu").max_seq_length == 160
    with pytest.raises(ValueError, match=r"max_length must be at most 160, the positions that .*; got 161; choose"):
        load_reranker(tiny_checkpoint, max_length=161, device="cpu")
