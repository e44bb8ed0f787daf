"""Scoring the views of examples, by a strategy that trades time for memory."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from cmp_rerank.ablations import CmpDrop, Example, View
from cmp_rerank.ablations.drop import Ablation
from cmp_rerank.engine.adapter import Adapter, CrossEncoderAdapter
from cmp_rerank.engine.chunks import cut, forks, singles
from cmp_rerank.engine.embedding_gradients import Lookups
from cmp_rerank.engine.memory import Budget, Footprint, available, free, kept_bytes, out_of_memory
from cmp_rerank.engine.passes import (
    Passes,
    for_trials,
    is_compiled,
    is_reentrant,
    is_sharded,
    most_passes,
    without_ddp,
)
from cmp_rerank.engine.recompute import recomputed
from cmp_rerank.engine.rows import Row, pooled
from cmp_rerank.engine.shared_trunk import Trunk
from cmp_rerank.engine.unpadded import Unpadded

logger = logging.getLogger(__name__)

Strategy = Literal["auto", "stacked", "hybrid", "trunk", "naive"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


class Scorer:
    """Score rows with a model, ablated as their views say.

    Rows that are the same computation are run once; the others are sorted by length and run in chunks, so that
    little is padded. Masks depend only on the example, so neither order nor chunks change a score beyond
    rounding, and all strategies give the same scores and gradients:

    - ``"stacked"``: all rows are rows of one batch; all activations are kept for the backward pass.
    - ``"hybrid"``: activations of the full model's rows are kept. The others run without gradients, and in the
      backward pass again, with gradients, where the gradient of their score is not zero.
    - ``"trunk"``: stacked, but the layers below the ablated ones run once for rows that read the same tokens.
    - ``"naive"``: one pass for each step, of the whole batch, as slow as it is obvious. For tests.
    - ``"auto"``: ``"trunk"`` where there are layers to share and it is right for the model; else ``"hybrid"``, with
      the activations of as many other rows kept, too, as are expected to fit into the memory that is free. If that
      is all of them, it is ``"stacked"``.

    When memory runs out, the chunk is halved for good, activations are from then on recomputed instead of kept,
    and the pass is repeated; this is logged.

    Args:
        drop: how neurons are ablated; None: the views of all rows have depth 0, and the model's own dropout
            stays as it is.
        tokens_per_chunk: how many tokens, padding included, one forward pass may hold. Default: 4,096 on a CPU,
            65,536 elsewhere.
        strategy: see above.
        adapter: the kind of model. Default: cross-encoders of sentence-transformers.
        unpadded: whether the encoder's layers run on tokens instead of padded rows, see
            `cmp_rerank.engine.unpadded.Unpadded`. It is compared with a padded pass once; where it cannot be, or
            does not give the same scores, the log says why, and rows are padded. Not with ``"trunk"``.
        activation_bytes: how many bytes of activations ``"auto"`` may keep; those of the full model's rows it
            keeps anyway. Default: what is free, see `cmp_rerank.engine.memory.available`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        drop: CmpDrop | None,
        tokens_per_chunk: int | None = None,
        strategy: Strategy = "auto",
        adapter: Adapter | None = None,
        unpadded: bool = False,
        activation_bytes: int | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {STRATEGIES}, got {strategy!r}.")
        if activation_bytes is not None and strategy != "auto":
            raise ValueError(f'activation_bytes is for strategy="auto", got {strategy!r}.')
        if activation_bytes is not None and not (isinstance(activation_bytes, int) and activation_bytes >= 0):
            raise ValueError(f"activation_bytes must be a whole number, at least 0, got {activation_bytes!r}.")
        self.drop = drop
        self.activation_bytes = activation_bytes
        self.strategy: Strategy = strategy
        self.adapter: Adapter = adapter or CrossEncoderAdapter()
        self.unpadded = unpadded
        self.budget = Budget(tokens_per_chunk)
        self._ablation: Ablation | None = None
        self._trunk: Trunk | None = None
        self._no_trunk: str | None = None
        self._unpadded: Unpadded | None = None
        self._unpadded_for: nn.Module | None = None
        self._footprint: Footprint | None = None

    def __call__(self, model: nn.Module, examples: Sequence[Example], views: Sequence[Sequence[View]]) -> Tensor:
        """Score every view of every example, with gradients where they are enabled.

        Args:
            model: the model, or a wrapper of it.
            examples: n examples.
            views: for each example its views, the same number for all; the first is the full model's.

        Returns:
            Scores of shape (n, number of views, width) in float32 or better, on the model's device; of a
            cross-encoder the width is the number of labels.

        Raises:
            ValueError: if the strategy cannot be used with this model; the message says why.
        """
        rows, index = pooled(examples, views)
        longest = max(map(len, examples))
        ablation = self._attach(model, rows, longest)
        if self.strategy == "naive":
            passes = Passes(model, self.adapter, longest, ablation)
            with passes.ready():
                steps = [
                    passes.run([(example, steps[k]) for example, steps in zip(examples, views, strict=True)])
                    for k in range(index.shape[1])
                ]
            return _precise(torch.stack(steps, dim=1))
        lookups = None
        if torch.is_grad_enabled() and not is_sharded(model) and not is_compiled(model):
            lookups = Lookups(self.adapter.inner(model))
        while True:
            passes = Passes(model, self.adapter, longest, ablation, lookups=lookups)
            try:
                scores = self._score(passes, rows, index[:, 0])
                break
            except Exception as error:
                exhausted = self.budget.lean and passes.tokens <= max(len(view) for _, view in rows)
                if exhausted or not out_of_memory(error) or is_sharded(model):
                    raise  # sharded: the other processes wait for the passes that were planned, and no others
                self.budget.halve(passes.tokens or self.budget.of(passes.inner.device), error)
            free()
            passes.repeat()
        return _precise(scores)[torch.from_numpy(index).to(scores.device)]

    def _score(self, passes: Passes, rows: list[Row], full: np.ndarray) -> Tensor:
        """Scores of all rows, (rows, width)."""
        sharded = is_sharded(passes.model)
        strategy = self._resolve(passes, rows, sharded)
        grouping = singles
        if strategy == "trunk":
            passes.trunk = self._trunk
            grouping = forks
        elif self.unpadded:
            passes.unpadded = self._without_padding(passes, rows)
        everything = range(len(rows))
        kept: Sequence[int] = everything
        if torch.is_grad_enabled() and not sharded:
            if self.budget.lean:
                # What wraps the model for distributed training must see one pass with a graph.
                shortest = min(everything, key=lambda i: len(rows[i][1]))
                kept = [] if without_ddp(passes.model) is passes.model else [shortest]
            elif strategy == "hybrid":
                kept = np.unique(full).tolist()
                if self.strategy == "auto":
                    kept = self._as_many_as_fit(passes, rows, kept)
        again = sorted(set(everything) - set(kept))

        parts: list[Tensor] = []
        order: list[int] = []
        with passes.ready():
            # Backward, autograd takes the latest first: what is kept is let go before anything is run again.
            if again:
                parts.append(recomputed(passes, [rows[i] for i in again], grouping, self.budget))
                order += again
            if kept:
                mine = [rows[i] for i in kept]
                device = passes.inner.device
                chunks = cut(grouping(mine), mine, self.budget.of(device), self.budget.start(device))
                # Every pass gathers parameters from all processes, so all need the same number of them.
                idle = most_passes(len(chunks), device) - len(chunks) if sharded else 0
                for chunk in chunks:
                    parts.append(passes.run([mine[i] for i in chunk]))
                    order += [kept[i] for i in chunk]
                for _ in range(idle):
                    parts[0] = parts[0] + 0 * passes.run(mine[:1]).sum()
        where = torch.empty(len(rows), dtype=torch.int64)
        where[order] = torch.arange(len(rows))
        together = torch.cat(parts)
        return together[where.to(together.device)]

    # Which strategy -----------------------------------------------------------------------------------------

    def _resolve(self, passes: Passes, rows: Sequence[Row], sharded: bool) -> Strategy:
        if self.strategy == "hybrid" and sharded:
            raise ValueError(
                'strategy="hybrid" runs as many passes as a process has rows with weight, but with sharded '
                'parameters (FSDP) every pass waits for all processes. Use "stacked", with gradient checkpointing '
                "where memory is short."
            )
        reentrant = torch.is_grad_enabled() and is_reentrant(passes.inner)
        if reentrant and (self.strategy == "hybrid" or self.budget.lean):
            what = 'strategy="hybrid"' if self.strategy == "hybrid" else "what is done after memory ran out"
            raise ValueError(
                f"{what} runs rows again inside of the backward pass, and reentrant gradient checkpoints cannot: "
                'set gradient_checkpointing_kwargs={"use_reentrant": False}, or use strategy="stacked".'
            )
        if self.strategy in ("stacked", "hybrid"):
            return self.strategy
        shared = self.strategy == "trunk" or len(forks(rows)) < len(rows)
        if shared and self._can_share(passes, rows):
            return "trunk"
        if self.strategy == "trunk":
            raise ValueError(f'strategy="trunk" cannot be used with {type(passes.inner).__name__}: {self._no_trunk}')
        return "stacked" if sharded or reentrant else "hybrid"

    def _can_share(self, passes: Passes, rows: Sequence[Row]) -> bool:
        """Whether the trunk is right for this model; found out once."""
        if self._trunk is not None or self._no_trunk is not None:
            return self._trunk is not None
        reason: str | None = "nothing is dropped, so no two rows read the same tokens."
        if passes.ablation is not None:
            try:
                trunk = Trunk(passes.inner, min(site.layer for site in passes.ablation.sites))
            except ValueError as error:
                reason = str(error)
            else:
                trial = Passes(passes.trial, self.adapter, passes.longest, passes.ablation, trunk)
                with trial.ready():
                    reason = trunk.verify(trial.run, rows[0])
                if reason is None:
                    self._trunk = trunk
                    return True
                reason = f"rows that share their lower layers do not get the scores of a plain pass: {reason}."
        if self.strategy == "auto" and self.drop is not None and self.drop.layers != "all":
            logger.info("The layers below the ablated ones are not shared between steps: %s", reason)
        self._no_trunk = reason
        return False

    def _without_padding(self, passes: Passes, rows: Sequence[Row]) -> Unpadded | None:
        """What runs this model unpadded, if that is right for it; found out once."""
        if self._unpadded_for is passes.inner:
            return self._unpadded
        self._unpadded, self._unpadded_for = None, passes.inner
        try:
            if self.drop is not None and self.drop.masks == "native":
                raise ValueError('masks="native" needs padded rows')
            if is_compiled(passes.model):
                raise ValueError("it is compiled")
            unpadded = Unpadded(passes.inner)
            trial = Passes(passes.trial, self.adapter, passes.longest, passes.ablation, unpadded=unpadded)
            with trial.ready():
                reason = unpadded.verify(trial.run, max(rows, key=lambda row: (row[1].depth, len(row[1]))))
            if reason is not None:
                raise ValueError(reason)
            self._unpadded = unpadded
        except ValueError as error:
            logger.warning("%s cannot run unpadded (%s): rows are padded.", type(passes.inner).__name__, error)
        return self._unpadded

    def _as_many_as_fit(self, passes: Passes, rows: Sequence[Row], full: Sequence[int]) -> Sequence[int]:
        """The rows of the full model, and of the others, the longest first, as many as memory is expected to hold."""
        device = passes.inner.device
        room = available(device) if self.activation_bytes is None else self.activation_bytes
        others = sorted(set(range(len(rows))) - set(full), key=lambda i: len(rows[i][1]), reverse=True)
        if room is None or not others:
            return full
        if self._footprint is None:
            short = min(rows, key=lambda row: (len(row[1]), -row[1].depth))  # what is dropped is kept for, too
            long = max(rows, key=lambda row: (len(row[1]), row[1].depth))
            self._footprint = Footprint.through(self._kept_of(passes, short), self._kept_of(passes, long))
        footprint = self._footprint

        def needed(number: int) -> int:
            mine = [rows[i] for i in (*full, *others[:number])]
            chunks = cut(singles(mine), mine, self.budget.of(device), self.budget.start(device))
            return ceil(sum(footprint.of(len(chunk), max(len(mine[i][1]) for i in chunk)) for chunk in chunks))

        if needed(len(others)) > room:
            others = others[: max(0, bisect_right(range(len(others)), room, key=needed) - 1)]
        return [*full, *others]

    def _kept_of(self, passes: Passes, row: Row) -> tuple[int, int]:
        """Tokens of a row, and the bytes that its activations take, by a pass that leaves no trace.

        The row beside it is shorter: where something is padded, masks are kept, too.
        """
        example, view = row
        shorter = (example, View(np.delete(view.tokens, len(view) // 2), view.depth))
        trial = Passes(passes.trial, self.adapter, passes.longest, passes.ablation)
        devices = [passes.inner.device] if passes.inner.device.type == "cuda" else []
        with torch.random.fork_rng(devices), trial.ready(), kept_bytes(passes.inner) as kept:
            trial.run([row, shorter])
        return len(view), ceil(kept[0] / 2)

    def _attach(self, model: nn.Module, rows: list[Row], longest: int) -> Ablation | None:
        if self.drop is None:
            return None
        inner = self.adapter.inner(model)
        if self._ablation is None or self._ablation.model is not inner:
            probe = Passes(for_trials(model, inner), self.adapter, longest, None)
            self._ablation = Ablation(inner, self.drop, lambda: probe.run(rows[:1] * 2))
            if is_compiled(model):
                # What was compiled of another model is taken for this one's, with the hooks that it had: they are not
                # among the things that are compared before it runs.
                torch.compiler.reset()
            self._trunk = self._no_trunk = self._footprint = None
        return self._ablation


def _precise(scores: Tensor) -> Tensor:
    """In float32 or better."""
    narrow: Any = torch.finfo(scores.dtype).bits < 32
    return scores.float() if narrow else scores
