"""Objectives: what training makes of the task losses of an example's steps, one number per example.

The task losses have shape (batch, 1 + steps): the full model in column 0, then the steps from the mildest ablation to
the strongest. An `Objective` turns them into one loss per example. `PairwiseHinge` is the comparative loss of the
paper; `Listwise` and `HingeRegularized` are variants of it; `MeanOfSteps` is the control without a comparison.
"""

from cmp_rerank.objectives._checks import Baseline, Reduction
from cmp_rerank.objectives.base import FunctionObjective, Objective, Outputs, check_objective
from cmp_rerank.objectives.hinge import PairwiseHinge
from cmp_rerank.objectives.listwise import Listwise
from cmp_rerank.objectives.mean import MeanOfSteps
from cmp_rerank.objectives.regularized import HingeRegularized

__all__ = [
    "Baseline",
    "FunctionObjective",
    "HingeRegularized",
    "Listwise",
    "MeanOfSteps",
    "Objective",
    "Outputs",
    "PairwiseHinge",
    "Reduction",
    "check_objective",
]
