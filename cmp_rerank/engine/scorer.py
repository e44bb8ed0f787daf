"""Scoring the views of examples, by a strategy that trades time for memory."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from cmp_rerank.ablations import Ablation, Example, View
from cmp_rerank.engine.adapter import Adapter
from cmp_rerank.engine.embedding_gradients import EmbeddingGradients
from cmp_rerank.engine.memory import Budget, Footprint, available, free, kept_bytes, out_of_memory
from cmp_rerank.engine.modifier import AblationHooks, PassModifier, Verified
from cmp_rerank.engine.passes import Passes, most_passes
from cmp_rerank.engine.recompute import recomputed
from cmp_rerank.engine.rows import Chunking, Row, Step, computation, forks, in_order, shortened, singles
from cmp_rerank.engine.shared_trunk import SharedTrunk
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.hooks.checkpointing import is_reentrant
from cmp_rerank.hooks.dropout import dropout_rates
from cmp_rerank.hooks.turns import turn
from cmp_rerank.hooks.wrappers import is_compiled, is_sharded, without_data_parallel
from cmp_rerank.text.checks import check_whole

logger = logging.getLogger(__name__)

Strategy = Literal["auto", "stacked", "hybrid", "trunk", "naive"]
"""How the steps are run: "auto", "stacked", "hybrid", "trunk" or "naive"; see `Scorer`. An option of a loss:
``ComparativeLoss(..., strategy="hybrid")``."""
STRATEGIES: tuple[str, ...] = get_args(Strategy)
"""The names of all strategies, ``"auto"`` first."""
Kind = TypeVar("Kind", bound=PassModifier)


class Scorer:
    """Score rows with a model, ablated as their views say.

    Rows that are the same computation, of whatever example, are run once and have the same score. The others are
    sorted by length and run in chunks, so that little is padded. Masks depend only on the example, so neither order
    nor chunks change a score beyond rounding, and all strategies give the same scores and gradients:

    - ``"stacked"``: all rows are rows of one batch; all activations are kept for the backward pass.
    - ``"hybrid"``: activations of the full model's rows are kept. The others run without gradients, and in the
      backward pass again, with gradients, where the gradient of their score is not zero.
    - ``"trunk"``: stacked, but the layers below the ablated ones run once for rows that read the same tokens.
    - ``"naive"``: one pass for each step, of the whole batch, as slow as it is obvious. For tests.
    - ``"auto"``: ``"trunk"`` where there are layers to share and it is right for the model; else ``"hybrid"``, with
      the activations of as many other rows kept, too, as are expected to get a gradient, and to fit into the memory
      that is free. If that is all of them, it is ``"stacked"``.

    When memory runs out, the size of chunks is halved permanently, activations are recomputed from then on instead
    of kept, and the pass is repeated; this is logged.

    Args:
        adapter: the kind of model.
        ablations: those that act on the model, in the order of the levels of views (``Plan.on_model``). Without any,
            the model's own dropout stays as it is.
        tokens_per_chunk: how many tokens, padding included, one forward pass may hold. Default: 4,096 on a CPU,
            65,536 elsewhere.
        strategy: see above. Default: ``"auto"``.
        unpadded: whether the encoder's layers run on tokens instead of padded rows, see
            `cmp_rerank.engine.unpadded.Unpadded`. It is compared with a padded pass once; where it cannot be, or
            does not give the same scores, the log says why, and rows are padded. Not with ``"trunk"``. Default: no.
        activation_bytes: how many bytes of activations ``"auto"`` may keep; those of the full model's rows it
            keeps anyway. Default: what is free, see `cmp_rerank.engine.memory.available`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        ::

            plan = Plan([CmpCrop(), CmpDrop()])
            scorer = Scorer(adapter_of(model), plan.on_model, strategy="hybrid")
            views = [plan.views(example) for example in examples]
            scores = scorer(model, examples, views)  # (examples, 1 + steps, labels)
    """

    def __init__(
        self,
        adapter: Adapter,
        ablations: Sequence[Ablation] = (),
        *,
        tokens_per_chunk: int | None = None,
        strategy: Strategy | None = None,
        unpadded: bool | None = None,
        activation_bytes: int | None = None,
    ) -> None:
        if strategy is not None and strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {STRATEGIES}; got {strategy!r}.")
        if activation_bytes is not None and strategy not in (None, "auto"):
            raise ValueError(f'activation_bytes is for strategy="auto"; got strategy={strategy!r}.')
        if activation_bytes is not None:
            activation_bytes = check_whole("activation_bytes", activation_bytes, 0)
        if unpadded is not None and not isinstance(unpadded, bool):
            raise ValueError(f"unpadded must be True or False; got {unpadded!r}.")
        self.adapter = adapter
        self.ablations = tuple(ablations)
        self.activation_bytes = activation_bytes
        self.budget = Budget(tokens_per_chunk)
        self._strategy = strategy
        self._unpadded = unpadded
        self._given = {"tokens": tokens_per_chunk, "strategy": strategy, "unpadded": unpadded}
        self._default_tokens: int | None = None
        self._model: _Known | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy finds out about its model by itself: what was found is hooks of this one."""
        return vars(self) | {"_model": None}

    @property
    def strategy(self) -> Strategy:
        """How rows are run."""
        return self._strategy or "auto"

    @property
    def unpadded(self) -> bool:
        """Whether layers run on tokens instead of padded rows, where they can."""
        return bool(self._unpadded)

    def uses(self, kind: type[PassModifier]) -> bool:
        """Whether a pass modifier was tried on the last model and found to be right for it."""
        known = self._model
        return known is not None and known.verified.right(kind)

    def set_defaults(
        self, *, tokens_per_chunk: int | None = None, strategy: Strategy | None = None, unpadded: bool | None = None
    ) -> None:
        """Set options that were not given to the constructor; the last call counts."""
        if self._given["tokens"] is None and tokens_per_chunk != self._default_tokens:
            self.budget = Budget(tokens_per_chunk)
            self._default_tokens = tokens_per_chunk
        if self._given["strategy"] is None and self.activation_bytes is None:
            self._strategy = strategy
        if self._given["unpadded"] is None:
            self._unpadded = unpadded

    def __call__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        views: Sequence[Sequence[View]],
        idle: Sequence[int] = (),
    ) -> Tensor:
        """Score every view of every example, with gradients where they are enabled.

        Args:
            model: the model, or a wrapper of it.
            examples: n examples.
            views: for each example its views, the same number for all; the first is the full model's.
            idle: numbers of the views of which most are expected to get no gradient. ``"auto"`` keeps no activations
                of their rows. Gradients do not depend on it.

        Returns:
            Scores of shape (n, number of views, width) in float32 or better, on the model's device; of a
            cross-encoder the width is the number of labels.

        Raises:
            ValueError: if the strategy cannot be used with this model; the message says why.
        """
        inner = self.adapter.inner(model)
        step = Step.of(examples, views, self._identity(inner), idle)
        # What is found out about a model, its hooks and its configuration would be in the way of another thread.
        with turn(inner):
            scores = self._score_within_memory(model, step)
        if torch.finfo(scores.dtype).bits < 32:
            scores = scores.float()
        return scores[torch.from_numpy(step.index).to(scores.device)]

    def _identity(self, inner: Any) -> Callable[[int, int, Row], Hashable]:
        """What is equal for rows that are one computation."""
        if self.strategy == "naive":
            return lambda i, k, _: (i, k)
        by_position = self.adapter.by_position
        # Masks of ablations come from seeds of equal texts. The model's own dropout draws anew for each example.
        if not self.ablations and inner.training and dropout_rates(inner):
            return lambda i, _, row: (i, computation(row, by_position))
        return lambda _, __, row: computation(row, by_position)

    def _score_within_memory(self, model: nn.Module, step: Step) -> Tensor:
        """Scores of all rows, (rows, width); passes that run out of memory are repeated with smaller chunks."""
        known = self._known(model, step)
        embeddings: list[PassModifier] = []
        if torch.is_grad_enabled() and not is_sharded(model) and not is_compiled(model) and self.strategy != "naive":
            embeddings.append(EmbeddingGradients(known.inner))
        while True:
            passes = Passes(model, self.adapter, step.longest, [*embeddings, *known.ablations])
            try:
                return self._score(known, passes, step)
            except Exception as error:
                smallest = self.budget.recompute_activations and passes.tokens <= max(
                    len(view) for _, view in step.rows
                )
                if smallest or self.strategy == "naive" or not out_of_memory(error) or is_sharded(model):
                    raise  # sharded: the other processes wait for the passes that were planned, and no others
                self.budget.halve(passes.tokens or self.budget.of(known.inner.device), error)
            free()
            passes.repeat()

    def _score(self, known: _Known, passes: Passes, step: Step) -> Tensor:
        rows = step.rows
        strategy = self._resolve(known, passes, step)
        chunking = Chunking(forks if strategy == "trunk" else singles, self.budget, known.inner.device)
        if strategy == "trunk":
            passes.modifiers = (*passes.modifiers, known.verified.of(SharedTrunk))
        elif self.unpadded and strategy != "naive" and self._can_unpad(known, passes, rows):
            at = len(passes.modifiers) - len(known.ablations)  # outside of the ablations, which see tokens as rows
            unpadded = known.verified.of(Unpadded)
            passes.modifiers = (*passes.modifiers[:at], unpadded, *passes.modifiers[at:])
        kept = self._kept(known, passes, step, strategy)
        again = sorted(set(range(len(rows))) - set(kept))
        parts: list[Tensor] = []
        order: list[int] = []
        with passes.ready():
            # Backward, autograd takes the latest first: kept activations are freed before any row is run again.
            if again:
                parts.append(recomputed(passes, [rows[i] for i in again], chunking))
                order += again
            if kept:
                chunks = step.index.T.tolist() if strategy == "naive" else chunking.of(rows, kept)
                # Every pass gathers parameters from all processes, so all need the same number of them.
                idle = most_passes(len(chunks), known.inner.device) - len(chunks) if is_sharded(passes.model) else 0
                for chunk in chunks:
                    parts.append(passes.run([rows[i] for i in chunk]))
                    order += chunk
                for _ in range(idle):
                    parts[0] = parts[0] + 0 * passes.run([rows[kept[0]]]).sum()
        return in_order(parts, order)

    # What is known of a model ------------------------------------------------------------------------------

    def _known(self, model: nn.Module, step: Step) -> _Known:
        """What was found out about the model.

        One that is not the last one is examined first; so is one whose modules are others since, as by adapters.
        """
        inner = self.adapter.inner(model)
        modules = tuple(inner.modules())
        if self._model is None or self._model.inner is not inner or self._model.modules != modules:
            trial = Passes(model, self.adapter, step.longest).trial()
            probe = self.adapter.probe(inner, lambda: trial.run([step.rows[0]] * 2))
            hooks = [
                AblationHooks(ablation.hooks(inner, probe), number, self.adapter, inner)
                for number, ablation in enumerate(self.ablations)
            ]
            if hooks and is_compiled(model):
                # The compiler would reuse the code of another model, with that model's hooks: its guards do not
                # check hooks.
                torch.compiler.reset()
            self._model = _Known(inner, modules, hooks)
        return self._model

    def _resolve(self, known: _Known, passes: Passes, step: Step) -> Strategy:
        """The strategy; ``"auto"`` becomes one of the others."""
        sharded = is_sharded(passes.model)
        if self.strategy == "hybrid" and sharded:
            raise ValueError(
                'strategy="hybrid" runs as many passes as a process has rows with weight, but with sharded '
                'parameters (FSDP) every pass waits for all processes. Use "stacked", with gradient checkpointing '
                "where memory is short."
            )
        reentrant = torch.is_grad_enabled() and is_reentrant(known.inner)
        if reentrant and (self.strategy == "hybrid" or self.budget.recompute_activations):
            what = (
                'strategy="hybrid"' if self.strategy == "hybrid" else "recomputing activations after memory ran out"
            )
            raise ValueError(
                f"{what} runs rows again inside of the backward pass, and reentrant gradient checkpoints cannot: "
                'set gradient_checkpointing_kwargs={"use_reentrant": False}, or use strategy="stacked".'
            )
        if self.strategy in ("stacked", "hybrid", "naive"):
            return self.strategy
        if (self.strategy == "trunk" or step.shares) and self._can_share(known, passes, step.rows):
            return "trunk"
        if self.strategy == "trunk":
            reason = known.verified.reason(SharedTrunk)
            raise ValueError(f'strategy="trunk" cannot be used with {type(known.inner).__name__}: {reason}')
        return "stacked" if sharded or reentrant else "hybrid"

    def _can_share(self, known: _Known, passes: Passes, rows: Sequence[Row]) -> bool:
        """Whether the layers below the ablated ones may run once for rows that read the same tokens."""

        def make() -> SharedTrunk:
            if not known.ablations:
                raise ValueError("nothing is dropped, so no two rows read the same tokens.")
            return SharedTrunk(known.inner, min(each.hooks.first_layer for each in known.ablations))

        found = known.verified.get(SharedTrunk, make, lambda trunk: passes.trial(*known.ablations, trunk), rows[0])
        above = any(each.hooks.first_layer for each in known.ablations)  # there are layers below the ablated ones
        if found is None and above and self.strategy == "auto" and not known.logged:
            known.logged = True
            reason = known.verified.reason(SharedTrunk)
            logger.info("The layers below the ablated ones are not shared between steps: %s", reason)
        return found is not None

    def _can_unpad(self, known: _Known, passes: Passes, rows: Sequence[Row]) -> bool:
        """Whether the layers may run without padding."""
        tried = known.verified.tried(Unpadded)

        def make() -> Unpadded:
            if is_compiled(passes.model):
                raise ValueError("it is compiled")
            if not self.adapter.one_pass:
                raise ValueError("it divides its rows into passages itself")
            return Unpadded(known.inner)

        row = max(rows, key=lambda row: (row[1].levels, len(row[1])))
        found = known.verified.get(Unpadded, make, lambda mine: passes.trial(mine, *known.ablations), row)
        if found is None and not tried:
            reason = known.verified.reason(Unpadded)
            logger.warning("%s cannot run unpadded (%s): rows are padded.", type(known.inner).__name__, reason)
        return found is not None

    # Which activations are kept ----------------------------------------------------------------------------

    def _kept(self, known: _Known, passes: Passes, step: Step, strategy: Strategy) -> Sequence[int]:
        """The rows whose activations are kept for the backward pass; the others run again there."""
        rows = step.rows
        everything = range(len(rows))
        if not torch.is_grad_enabled() or is_sharded(passes.model) or strategy == "naive":
            return everything
        if self.budget.recompute_activations:
            # What wraps the model for distributed training must see one pass with a graph.
            shortest = min(everything, key=lambda i: len(rows[i][1]))
            return [] if without_data_parallel(passes.model) is passes.model else [shortest]
        if strategy != "hybrid":
            return everything
        full = np.unique(step.index[:, 0]).tolist()
        return self._as_many_as_fit(known, passes, step, full) if self.strategy == "auto" else full

    def _as_many_as_fit(self, known: _Known, passes: Passes, step: Step, full: Sequence[int]) -> Sequence[int]:
        """The rows of the full model, and of the others, the longest first, as many as memory is expected to hold.

        A kept row costs its backward pass whether or not its gradient is zero. A row that is not kept costs a second
        forward pass where it is not: that is less work where over a third of the rows have no gradient.
        """
        rows = step.rows
        room = available(known.inner.device) if self.activation_bytes is None else self.activation_bytes
        others = sorted(set(range(len(rows))) - set(full) - step.idle, key=lambda i: len(rows[i][1]), reverse=True)
        if room is None or not others:
            return full
        if known.footprint is None:
            short = min(rows, key=lambda row: (len(row[1]), [-level for level in row[1].levels]))
            long = max(rows, key=lambda row: (len(row[1]), row[1].levels))  # what is dropped is kept for, too
            known.footprint = Footprint.through(*(self._kept_of(known, passes, row) for row in (short, long)))
        footprint = known.footprint
        chunking = Chunking(singles, self.budget, known.inner.device)

        def needed(number: int) -> int:
            chunks = chunking.of(rows, [*full, *others[:number]])
            return ceil(sum(footprint.of(len(chunk), max(len(rows[i][1]) for i in chunk)) for chunk in chunks))

        if needed(len(others)) > room:
            others = others[: max(0, bisect_right(range(len(others)), room, key=needed) - 1)]
        return [*full, *others]

    def _kept_of(self, known: _Known, passes: Passes, row: Row) -> tuple[int, int]:
        """Tokens of a row, and the bytes that its activations take, by a pass that leaves no trace.

        The row beside it is shorter: where something is padded, masks are kept, too.
        """
        view = row[1]
        beside = shortened(row, len(view), 1) or [row]
        trial = passes.trial(*known.ablations)
        devices = [known.inner.device] if known.inner.device.type == "cuda" else []
        with torch.random.fork_rng(devices), trial.ready(), kept_bytes(known.inner) as kept:
            trial.run([row, *beside])
        return len(view), ceil(kept[0] / 2)


@dataclass
class _Known:
    """What a scorer has found out about a model."""

    inner: Any
    modules: tuple[nn.Module, ...]
    ablations: list[AblationHooks]
    verified: Verified = field(default_factory=Verified)
    footprint: Footprint | None = None
    logged: bool = False
