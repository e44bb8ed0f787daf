"""Rows for tests of CmpDrop: token ids with original positions, padded by hand and run through a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.ablations.drop import DropHooks

PAD = 1
END = 3


@dataclass(frozen=True)
class Row:
    """Token ids, their positions in the uncropped example, its seed, and the drop depth."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    seed: int
    depth: int = 0

    def at(self, depth: int) -> Row:
        return replace(self, depth=depth)

    def cropped(self, keep: Sequence[int]) -> Row:
        return replace(self, ids=tuple(self.ids[i] for i in keep), positions=tuple(self.positions[i] for i in keep))


def example(length: int, seed: int) -> Row:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 64, (length,), generator=generator).tolist()
    # heads of encoder-decoders look for one end of sequence
    return Row((2, *ids[1:-1], END), tuple(range(length)), seed * 7919 + 2**40 * seed)


def batch(rows: Sequence[Row], width: int | None = None, left: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """The model's inputs, padded to a width, and the positions."""
    width = max(width or 0, *(len(row.ids) for row in rows))

    def padded(values: list[tuple[int, ...]], value: int) -> Tensor:
        fill = [(value,) * (width - len(v)) for v in values]
        return torch.tensor([(*f, *v) if left else (*v, *f) for f, v in zip(fill, values, strict=True)])

    inputs = {
        "input_ids": padded([row.ids for row in rows], PAD),
        "attention_mask": padded([(1,) * len(row.ids) for row in rows], 0),
    }
    return inputs, padded([row.positions for row in rows], 0)


def head(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """One number for each row, (rows,)."""
    output: Any = model(**inputs)
    if hasattr(output, "logits"):
        return output.logits[:, 0]  # type: ignore[no-any-return]
    hidden, mask = output.last_hidden_state, inputs["attention_mask"][..., None]
    mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    return mean @ torch.linspace(-1, 1, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)  # type: ignore[no-any-return]


@contextmanager
def ablated(ablation: DropHooks, rows: Sequence[Row], positions: Tensor) -> Iterator[None]:
    with ablation.rows(torch.tensor([row.seed for row in rows]), positions, [row.depth for row in rows]):
        yield


def score(
    ablation: DropHooks, rows: Sequence[Row], width: int | None = None, left: bool = False, chunk: int | None = None
) -> Tensor:
    """Scores of rows in chunks, padded to a width: (rows,)."""
    scores = []
    with ablation.installed():
        for at in range(0, len(rows), chunk or len(rows)):
            part = rows[at : at + (chunk or len(rows))]
            inputs, positions = batch(part, width, left)
            with ablated(ablation, part, positions):
                scores.append(head(ablation.model, inputs))
    return torch.cat(scores)


def zeros(ablation: DropHooks, rows: Sequence[Row], left: bool = False) -> list[list[Tensor]]:
    """For each site, in every call, which units of each row were dropped: (tokens of the row, hidden)."""
    seen: list[list[Tensor]] = []
    inputs, positions = batch(rows, None, left)
    width = inputs["input_ids"].shape[1]

    def note(x: Tensor) -> None:
        spans = [slice(width - len(r.ids), width) if left else slice(0, len(r.ids)) for r in rows]
        seen.append([x[i, span] == 0 for i, span in enumerate(spans)])

    def after(_: nn.Module, args: Any, output: Any) -> None:
        note(output[0] if isinstance(output, tuple) else output)

    def before(_: nn.Module, args: Any) -> None:
        note(args[0])

    with ablation.installed(), torch.no_grad():
        handles = [
            module.register_forward_pre_hook(before) if early else module.register_forward_hook(after)
            for module, _, early in ablation._hooks
        ]
        try:
            with ablated(ablation, rows, positions):
                head(ablation.model, inputs)
        finally:
            for handle in handles:
                handle.remove()
    return seen
