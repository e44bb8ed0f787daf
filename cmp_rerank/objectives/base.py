"""What an objective is: an object that turns the task losses of every step into one loss per example."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from cmp_rerank.objectives._checks import checked
from cmp_rerank.objectives.progress import TrainingProgress

__all__ = ["FunctionObjective", "Objective", "Outputs", "at", "beaten", "check_objective", "violations"]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the model gave for every row of a batch, for an objective that sets ``needs_outputs``.

    A row is one input of the model in all its steps: a (query, passage) pair, a window, or a text to classify. An
    example is a row of ``losses``. For a pointwise loss each row is an example; for a listwise loss the rows of one
    query share an example.

    Args:
        scores: The scores or logits, shape (rows, 1 + steps, width), with their graph. The width is the number of
            labels of a reranker or classifier; of a reader it is the number of positions, in start and end logits.
        example: The example each row belongs to, an index into the rows of ``losses``: int64, shape (rows,).
        kept: False where the view of a step lacks that token, and the score there means nothing: bool, the shape of
            ``scores``. None where all scores count.

    Raises:
        ValueError: If the kinds or shapes do not fit; the message says what was got.

    Example:
        Two passages of the first query and one of the second, each in full and in one ablation, with one logit.

        >>> outputs = Outputs(torch.zeros(3, 2, 1), example=torch.tensor([0, 0, 1]))
        >>> outputs.mean_by_example(torch.tensor([1.0, 2.0, 5.0]), examples=2)
        tensor([1.5000, 5.0000])
    """

    scores: Tensor
    example: Tensor
    kept: Tensor | None = None

    def __post_init__(self) -> None:
        scores, example, kept = self.scores, self.example, self.kept
        if not isinstance(scores, Tensor) or scores.dim() != 3 or not scores.is_floating_point():
            raise ValueError(
                f"scores must be a floating-point tensor of shape (rows, 1 + steps, width); got {_described(scores)}"
            )
        if not isinstance(example, Tensor) or example.dtype != torch.int64 or example.shape != scores.shape[:1]:
            raise ValueError(
                f"example must be an int64 tensor of shape (rows,) = ({len(scores)},), the row of the losses that "
                f"each row belongs to; got {_described(example)}"
            )
        if kept is not None and (
            not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != scores.shape
        ):
            raise ValueError(
                f"kept must be None, or a bool tensor of the shape of scores, {tuple(scores.shape)}; "
                f"got {_described(kept)}"
            )

    def mean_by_example(self, values: Tensor, examples: int) -> Tensor:
        """Average a value of each row over the rows of each example.

        Args:
            values: One value per row, shape (rows,).
            examples: The number of examples, which is the number of rows of ``losses``.

        Returns:
            One mean per example, shape (examples,); 0 for an example without a row.

        Raises:
            ValueError: If there is not one value per row, or a row belongs to no example.
        """
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape != self.example.shape:
            raise ValueError(
                f"values must be one floating-point number per row, shape {tuple(self.example.shape)}; "
                f"got {_described(values)}"
            )
        sizes = self._sizes(examples)
        return values.new_zeros(examples).index_add(0, self.example, values) / sizes.clamp(min=1)

    def lists(self, examples: int) -> tuple[Tensor, Tensor]:
        """Put the rows of each example side by side, so that they can be compared as a list.

        Args:
            examples: The number of examples, which is the number of rows of ``losses``.

        Returns:
            The scores, shape (examples, longest list, 1 + steps, width), 0 where an example has fewer rows; and
            whether a row is there, bool, shape (examples, longest list). Rows keep their order.

        Raises:
            ValueError: If a row belongs to no example.

        Example:
            >>> outputs = Outputs(torch.tensor([1.0, 2.0, 3.0])[:, None, None], example=torch.tensor([0, 1, 0]))
            >>> scores, there = outputs.lists(2)
            >>> scores[:, :, 0, 0], there
            (tensor([[1., 3.],
                    [2., 0.]]), tensor([[ True,  True],
                    [ True, False]]))
        """
        sizes = self._sizes(examples)
        longest = int(sizes.max()) if examples else 0
        order = self.example.argsort(stable=True)
        place = torch.empty_like(self.example)
        place[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[self.example[order]]
        scores = self.scores.new_zeros(examples, longest, *self.scores.shape[1:])
        there = torch.arange(longest, device=sizes.device) < sizes[:, None]
        return scores.index_put((self.example, place), self.scores), there

    def _sizes(self, examples: int) -> Tensor:
        """How many rows each example has, (examples,)."""
        outside = self.example[(self.example < 0) | (self.example >= examples)]
        if len(outside):
            raise ValueError(f"example must index {examples} rows of losses; got {int(outside[0])}")
        return torch.bincount(self.example, minlength=examples)


class Objective(ABC):
    """What training makes of the task losses of an example's steps.

    A subclass defines ``__call__``. What else it needs are its own options, best as the fields of a frozen dataclass,
    whose ``repr`` goes to the model card. `needs_outputs` set to True makes the trainer pass the scores as well.

    An objective need not know which rows can be left out of the backward pass. Rows are left out where autograd gives
    a step weight 0.

    Example:
        The task loss of the full model, and what an ablation does better than it, squared:

        >>> class SquaredHinge(Objective):
        ...     def __call__(self, losses, outputs=None):
        ...         return losses[:, 0] + (losses[:, :1] - losses[:, 1:]).relu().square().sum(dim=1)

        >>> losses = torch.tensor([[0.5, 0.3], [0.5, 0.8]])
        >>> SquaredHinge()(losses)
        tensor([0.5400, 0.5000])
        >>> SquaredHinge().weights(losses)
        tensor([[ 1.4000, -0.4000],
                [ 1.0000,  0.0000]])
        >>> SquaredHinge().diagnostics(losses)
        {'violation_rate': tensor(0.5000), 'beaten_rate': tensor(0.5000), 'zero_weight_rate': tensor(0.2500)}
    """

    #: Whether the objective looks at the scores or logits, too. Then it is called with `Outputs`, else with None.
    needs_outputs: bool = False

    @abstractmethod
    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Give one loss per example.

        Args:
            losses: Task losses, shape (batch, 1 + steps), full model first, with their graph.
            outputs: The scores that the losses were computed from, if `needs_outputs`.

        Returns:
            Shape (batch,), with a graph.
        """

    def at(self, progress: TrainingProgress) -> Objective:
        """Give the objective as it is at a moment of training; by default the same at all times.

        Training asks this before each batch. An objective that changes gives another one here, and keeps no state: so
        training goes on rightly after a resume.

        Args:
            progress: How far training has come.
        """
        return self

    def check_steps(self, steps: int) -> None:  # noqa: B027
        """Raise a ValueError unless the objective is for a plan with this number of steps; by default for any.

        A loss asks this when it is built. In training there may be fewer steps, down to none, where a schedule says
        so.
        """

    def weights(self, losses: Tensor) -> Tensor:
        """Give the gradient of the objective with respect to each task loss, by autograd on a detached copy.

        A subclass may give a closed form.

        Args:
            losses: Task losses, shape (batch, 1 + steps), full model first.

        Returns:
            d objective(losses).sum() / d losses, the shape of ``losses``, without a graph.

        Raises:
            ValueError: If the losses make no sense, the objective does not give one value per example, its gradient
                is not finite, or it needs outputs, which are not at hand here.
        """
        if self.needs_outputs:
            raise ValueError(
                f"The weights of {self!r} cannot be had from the losses alone, since it needs outputs; "
                "give it a method `weights` of its own, or leave them out"
            )
        with torch.inference_mode(False), torch.enable_grad():
            leaf = checked(losses).detach().clone().requires_grad_()
            values = self(leaf, None)
            if not isinstance(values, Tensor) or values.shape != leaf.shape[:-1]:
                raise ValueError(
                    f"An objective must give one value per example, shape {tuple(leaf.shape[:-1])}; "
                    f"{self!r} gave {_described(values)}"
                )
            if not values.requires_grad:  # a constant
                return torch.zeros_like(leaf, requires_grad=False)
            (weights,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True, materialize_grads=True)
        if not weights.isfinite().all():
            raise ValueError(
                f"The gradient of {self!r} must be finite; got {weights.tolist()} for the losses {losses.tolist()}: "
                "look for roots, logarithms and divisions at 0"
            )
        return weights

    def diagnostics(self, losses: Tensor) -> dict[str, Tensor]:
        """Tell how often the comparison principle is violated, and how much of the backward pass has no weight.

        They depend on the losses alone, also where the objective needs outputs: what the outputs add to the objective
        is not part of them. An objective that needs outputs tells no ``zero_weight_rate``, unless it has a method
        `weights` of its own.

        Args:
            losses: Task losses, shape (batch, 1 + steps), full model first.

        Returns:
            Scalars, without a graph: ``violation_rate``, the share of examples for which `violations` is True;
            ``beaten_rate``, that for which `beaten` is True; and ``zero_weight_rate``, the share of (example, step)
            whose weight is exactly 0.

        Raises:
            ValueError: As for `weights`, without what concerns outputs.
        """
        losses = checked(losses).detach()
        rates = {
            "violation_rate": violations(losses).to(losses.dtype).mean(),
            "beaten_rate": beaten(losses).to(losses.dtype).mean(),
        }
        if _tells_weights(self):
            rates["zero_weight_rate"] = (self.weights(losses) == 0).to(losses.dtype).mean()
        return rates


@dataclass(frozen=True, repr=False)
class FunctionObjective(Objective):
    """A plain function of the losses as an objective. `check_objective` makes it; there is seldom a need to.

    Args:
        function: Takes losses of shape (batch, 1 + steps), and gives one loss per example, shape (batch,). With
            ``needs_outputs`` it takes the losses and `Outputs`.
        needs_outputs: Whether the function takes outputs, too.

    Example:
        >>> FunctionObjective(torch.Tensor.mean).needs_outputs
        False
    """

    function: Callable[..., Tensor]
    needs_outputs: bool = False

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Call the function, with the outputs if it needs them."""
        return self.function(losses, outputs) if self.needs_outputs else self.function(losses)

    def __repr__(self) -> str:
        # The default repr of a function holds its address, which differs from run to run.
        return f"FunctionObjective({getattr(self.function, '__qualname__', None) or repr(self.function)})"


def check_objective(objective: Any) -> Objective:
    """Give what can be used as an objective, and refuse what cannot.

    Any object with the attributes of `Objective` will do, whatever its class. It is called with
    ``(losses, outputs)``, and has a method ``diagnostics``. A callable without that method, such as a function of the
    losses, is wrapped and gets the diagnostics of `Objective`. It is called with outputs only if it has
    ``needs_outputs = True``.

    Args:
        objective: The object or function.

    Returns:
        The object itself, or the function wrapped in a `FunctionObjective`.

    Raises:
        ValueError: If it is a class, is not callable, cannot be called with the losses, or has a ``needs_outputs``
            that is no bool; the message says what was got.

    Example:
        >>> check_objective(lambda losses: losses.mean(dim=1))
        FunctionObjective(<lambda>)
        >>> check_objective("hinge")
        Traceback (most recent call last):
        ValueError: objective must be an object such as PairwiseHinge() or a function of the losses; got 'hinge'
    """
    if isinstance(objective, type):
        raise ValueError(
            f"objective must be an object, not a class; got the class {objective.__name__}: "
            f"write {objective.__name__}(), with its options"
        )
    if not callable(objective):
        raise ValueError(
            f"objective must be an object such as PairwiseHinge() or a function of the losses; got {objective!r}"
        )
    needs_outputs = getattr(objective, "needs_outputs", False)
    if not isinstance(needs_outputs, bool):
        raise ValueError(f"needs_outputs of {objective!r} must be True or False; got {needs_outputs!r}")
    whole = callable(getattr(objective, "diagnostics", None))
    arguments = ("losses", "outputs") if needs_outputs or whole else ("losses",)
    if not _takes(objective, len(arguments)):
        raise ValueError(
            f"objective must be callable with ({', '.join(arguments)}); got {objective!r}, which takes "
            f"{_signature(objective)}"
        )
    return cast(Objective, objective) if whole else FunctionObjective(objective, needs_outputs)


def at(objective: Objective, progress: TrainingProgress) -> Objective:
    """Give an objective as it is at a moment of training, whether or not its class has the method `Objective.at`.

    Args:
        objective: The objective.
        progress: How far training has come.

    Raises:
        ValueError: If what it gives for that moment is no objective.
    """
    method = getattr(objective, "at", None)
    return objective if method is None else check_objective(method(progress))


def check_steps(objective: Objective, steps: int) -> None:
    """Raise a ValueError unless an objective is for a plan with this number of steps, if its class says so at all."""
    if isinstance(objective, Objective):
        objective.check_steps(steps)


def violations(losses: Tensor) -> Tensor:
    """Tell which examples violate the comparison principle: l(i) > l(j) for some i < j. Equal losses do not.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.

    Returns:
        Booleans, shape (batch,).

    Raises:
        ValueError: If the losses make no sense; the message says what was got.

    Example:
        >>> violations(torch.tensor([[0.1, 0.1, 0.4], [0.1, 0.5, 0.4]]))
        tensor([False,  True])
    """
    losses = checked(losses)
    return (losses[..., :-1] > losses[..., 1:]).any(dim=-1)  # all is in order if all neighbours are


def beaten(losses: Tensor) -> Tensor:
    """Tell for which examples some ablated step has a lower loss than the full model: l(0) > l(j) for some j.

    Each of them is one of the `violations`; these also have examples with steps in the wrong order among each other.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.

    Returns:
        Booleans, shape (batch,).

    Raises:
        ValueError: If the losses make no sense; the message says what was got.

    Example:
        >>> beaten(torch.tensor([[0.1, 0.1, 0.4], [0.1, 0.5, 0.4], [0.3, 0.5, 0.2]]))
        tensor([False, False,  True])
    """
    losses = checked(losses)
    return losses[..., 0] > losses.amin(dim=-1)


def idle_steps(objective: Objective, steps: int) -> list[int]:
    """The ablation steps that have no weight where all steps are in order, which is what training aims for.

    Rows of such a step get a gradient only where they violate the comparison principle. In random order that is two
    rows of three or fewer.

    Args:
        objective: The objective.
        steps: How many ablation steps there are.

    Returns:
        Numbers of steps, from 1; none where the objective cannot tell from losses alone.

    Example:
        >>> from cmp_rerank.objectives import HingeRegularized, PairwiseHinge
        >>> idle_steps(HingeRegularized(task="full"), 2), idle_steps(PairwiseHinge(), 2)
        ([1, 2], [])
    """
    if not _tells_weights(objective):
        return []
    try:
        weights = objective.weights(torch.linspace(1.0, 2.0, 1 + steps)[None])[0].tolist()
    except Exception:  # it saves time at most; what is wrong with an objective shows in the losses of a batch
        return []
    return [step for step, weight in enumerate(weights) if step and not weight]


def _tells_weights(objective: Objective) -> bool:
    """Whether the weights can be had from the losses alone."""
    method = getattr(type(objective), "weights", None)
    return method is not None and (not objective.needs_outputs or method is not Objective.weights)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a callable, of a module that of its ``forward``; None where it has none, as some of torch."""
    try:
        return inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):
        return None


def _takes(function: Callable[..., Any], arguments: int) -> bool:
    signature = _signature(function)
    try:
        if signature is not None:
            signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def _described(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
