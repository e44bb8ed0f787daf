"""The arms: each differs from another one in one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from cmp_rerank.objectives import Objective, Outputs, PairwiseHinge


@dataclass(frozen=True)
class AverageWeights(Objective):
    """The weights that an objective gives to the steps, averaged over the examples of a batch.

    What is left of comparing if nobody says which examples beat the full model: every example has the same weights,
    those of the full model and of the ablated copies are as high as in comparing.
    """

    objective: Objective = field(default_factory=PairwiseHinge)

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """One loss per example, (batch,)."""
        return losses @ self.objective.weights(losses).mean(dim=0)


def _none(support: Any = None) -> list[Any]:
    return []


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        ablations: Makes the ablation steps from the support that the data gives, if any; none is plain training.
        objective: Makes the objective over the steps.
        dropout: Rate of the model's own dropout.
        epochs: Factor on the task's epochs.
        decay: Weight decay.
        averaged: Whether the mean of the weights over the last half of the steps is measured.
        keep_best: Whether the epoch that is best on the validation part is measured (early stopping).
        share: Share of a batch's examples whose ablations are compared, see `ComparativeLoss`.
        instead: Chance that an example makes its last ablated pass instead of the full one, drawn at each step: data
            augmentation, one pass for each example. 0: all passes are made. No trainer of the package does it.
        rate_of: The arm whose learning rate it has; empty: one of its own.
        passes: Forward passes of one example for each epoch, the full model's included; on average, with a share.
    """

    ablations: Callable[..., list[Any]] = _none
    objective: Callable[[], Any] | None = None
    dropout: float = 0.0
    epochs: int = 1
    decay: float = 0.01
    averaged: bool = False
    keep_best: bool = False
    share: float = 1.0
    instead: float = 0.0
    rate_of: str = ""
    passes: float = 1

    @property
    def cost(self) -> float:
        """Forward passes of one example for each of the task's epochs, of which the arm may make several."""
        return self.passes * self.epochs


def _drops(steps: int, p: float = 0.1, layers: str = "all") -> Callable[..., list[Any]]:
    def make(support: Any = None) -> list[Any]:
        from cmp_rerank import CmpDrop

        return [CmpDrop(p=p, layers=layers) for _ in range(steps)]

    return make


def _crops(steps: int, drops: int = 0, *, given: bool = True) -> Callable[..., list[Any]]:
    """Crops that know the support where the data gives it, or guess it; then drops."""

    def make(support: Any = None) -> list[Any]:
        from cmp_rerank import CmpCrop, CmpDrop

        crop = CmpCrop(support=support) if given and support is not None else CmpCrop()
        return [*[crop] * steps, *[CmpDrop(p=0.1)] * drops]

    return make


def _copies(support: Any = None) -> list[Any]:
    from cmp_rerank import IndependentCopies

    return [IndependentCopies()]


def _drop_copies(support: Any = None) -> list[Any]:
    from cmp_rerank import CmpDrop, IndependentCopies

    return [IndependentCopies(CmpDrop(p=0.1), steps=2)]


def _objective(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import cmp_rerank.objectives

        return getattr(cmp_rerank.objectives, name)(**options)

    return make


def _regularized(**options: Any) -> Arm:
    objective = _objective("HingeRegularized", task="full", **options)
    return Arm(_drops(2), objective, passes=3)


def _compared(steps: int, p: float = 0.1, layers: str = "all", **options: Any) -> Arm:
    return Arm(_drops(steps, p, layers), _objective("PairwiseHinge", **options), passes=1 + steps)


def _averaged_steps(steps: int, p: float = 0.1) -> Arm:
    return Arm(_drops(steps, p), _objective("MeanOfSteps"), passes=1 + steps)


def _shared(arm: Arm, share: float) -> Arm:
    return replace(arm, share=share, passes=1 + (arm.passes - 1) * share)


ARMS: dict[str, Arm] = {
    "plain": Arm(),
    "plain, dropout 0.05": Arm(dropout=0.05),
    "plain, dropout 0.1": Arm(dropout=0.1),
    "plain, 2x epochs": Arm(epochs=2),
    "plain, 3x epochs": Arm(epochs=3),
    "plain, dropout 0.1, 2x epochs": Arm(dropout=0.1, epochs=2),
    "plain, dropout 0.1, 3x epochs": Arm(dropout=0.1, epochs=3),
    "plain, decay 0.1": Arm(decay=0.1),
    "plain, averaged weights": Arm(averaged=True),
    "plain, best epoch": Arm(keep_best=True),
    "mean, c=1": _averaged_steps(1),
    "mean, c=2": _averaged_steps(2),
    "mean, c=2, p=0.02": _averaged_steps(2, 0.02),
    "mean, c=2, p=0.3": _averaged_steps(2, 0.3),
    "weighted mean, c=2": Arm(_drops(2), AverageWeights, rate_of="compared, c=2", passes=3),
    "compared, c=1": _compared(1),
    "compared, c=2": _compared(2),
    "compared, c=3": _compared(3),
    "compared, c=2, p=0.02": _compared(2, 0.02),
    "compared, c=2, p=0.3": _compared(2, 0.3),
    "compared, c=2, top:1": _compared(2, layers="top:1"),
    "compared, c=2, full": _compared(2, baseline="full"),
    "compared, c=2, best": _compared(2, baseline="best"),
    "ListMLE over steps, c=2": Arm(_drops(2), _objective("Listwise"), passes=3),
    "full + hinges, c=2": _regularized(),
    "full + hinges, c=2, weight 4": _regularized(weight=4.0),
    "full + hinges, c=2, detached": _regularized(detached=True),
    "compared, c=2, share 0.5": _shared(_compared(2), 0.5),
    "compared, c=2, share 0.25": _shared(_compared(2), 0.25),
    "full + hinges, c=2, share 0.5": _shared(_regularized(), 0.5),
    "full + hinges, c=2, share 0.25": _shared(_regularized(), 0.25),
    "mean of copies, dropout 0.1": Arm(_copies, _objective("MeanOfSteps"), 0.1, passes=2),
    "R-Drop, dropout 0.1": Arm(_copies, _objective("RDrop"), 0.1, passes=2),
    "mean of copies, p=0.1": Arm(_drop_copies, _objective("MeanOfSteps"), passes=3),
    "Intra-Distillation, p=0.1": Arm(_drop_copies, _objective("IntraDistillation"), passes=3),
    "mean, crop": Arm(_crops(1), _objective("MeanOfSteps"), passes=2),
    "compared, crop": Arm(_crops(1), _objective("PairwiseHinge"), passes=2),
    "compared, crop, support guessed": Arm(_crops(1, given=False), _objective("PairwiseHinge"), passes=2),
    "weighted mean, crop": Arm(_crops(1), AverageWeights, rate_of="compared, crop", passes=2),
    "half cropped": Arm(_crops(1), instead=0.5),
    "mean, crop + drop": Arm(_crops(1, 1), _objective("MeanOfSteps"), passes=3),
    "compared, crop + drop": Arm(_crops(1, 1), _objective("PairwiseHinge"), passes=3),
}

#: Those that crop.
CROPS = tuple(name for name in ARMS if "crop" in name)
