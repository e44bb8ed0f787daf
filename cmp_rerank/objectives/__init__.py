"""Objectives: what training makes of the task losses of an example's steps, one number per example.

The task losses have shape (batch, 1 + steps): the full model in column 0, then the steps from the mildest ablation to
the strongest. An `Objective` turns them into one loss per example. `PairwiseHinge` is the comparative loss of the
paper; `Listwise` and `HingeRegularized` are variants of it; `MeanOfSteps` is the control without a comparison.
`RDrop` and `IntraDistillation` want passes to agree. `ScheduledObjective`, `WeightedByLoss` and `WeightedByViolation`
go around any of them.
"""

from cmp_rerank.objectives._checks import Baseline, Reduction
from cmp_rerank.objectives.agreement import IntraDistillation, RDrop
from cmp_rerank.objectives.base import FunctionObjective, Objective, Outputs, check_objective
from cmp_rerank.objectives.hinge import PairwiseHinge
from cmp_rerank.objectives.listwise import Listwise
from cmp_rerank.objectives.mean import MeanOfSteps
from cmp_rerank.objectives.progress import CosineSchedule, LinearSchedule, Schedule, TrainingProgress
from cmp_rerank.objectives.regularized import HingeRegularized
from cmp_rerank.objectives.reweighting import WeightedByLoss, WeightedByViolation
from cmp_rerank.objectives.scheduled import ScheduledObjective

__all__ = [
    "Baseline",
    "CosineSchedule",
    "FunctionObjective",
    "HingeRegularized",
    "IntraDistillation",
    "LinearSchedule",
    "Listwise",
    "MeanOfSteps",
    "Objective",
    "Outputs",
    "PairwiseHinge",
    "RDrop",
    "Reduction",
    "Schedule",
    "ScheduledObjective",
    "TrainingProgress",
    "WeightedByLoss",
    "WeightedByViolation",
    "check_objective",
]
