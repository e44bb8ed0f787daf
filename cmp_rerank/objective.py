"""The functions behind the objectives: task losses of a model and of its ablations in, one number per example out.

For one example let ``l(0)`` be the task loss of the full model, and ``l(1), ..., l(c)`` its losses while more
and more of it, or of its input, is ablated. A model that makes good use of what it has does no worse than any
of its ablations, the *comparison principle*: ``l(0) <= l(1) <= ... <= l(c)``.

`comparative_loss` makes a training objective of that order, and `comparative_weights` is its gradient in
closed form. `hinge_regularized_loss` and `listwise_comparative_loss` are variants. The divergences of
Intra-Distillation and R-Drop want passes to agree where this wants them ordered.

The functions live in `cmp_rerank.objectives`, next to the objects that a loss or a trainer takes.

Conventions:

- ``losses`` has shape ``(batch, 1 + steps)``: the full model in column 0, then the steps from the mildest
  ablation to the strongest. More leading dimensions are allowed: ``(..., 1 + steps)`` gives ``(...)``.
- Half precision (bfloat16, float16) is computed, and returned, in float32; float64 stays float64.
- Tensors of another kind or rank, empty ones, and NaN or infinity in them are a ValueError.
"""

from cmp_rerank.objectives._checks import (
    BASELINES,
    REDUCTIONS,
    Baseline,
    Reduction,
    check_baseline,
    check_reduction,
)
from cmp_rerank.objectives.base import beaten, violations
from cmp_rerank.objectives.divergences import (
    adaptive_alpha,
    intra_distillation_divergence,
    intra_distillation_variance,
    r_drop_divergence,
)
from cmp_rerank.objectives.hinge import comparative_loss, comparative_weights
from cmp_rerank.objectives.listwise import listwise_comparative_loss
from cmp_rerank.objectives.regularized import hinge_regularized_loss

__all__ = [
    "BASELINES",
    "REDUCTIONS",
    "Baseline",
    "Reduction",
    "adaptive_alpha",
    "beaten",
    "check_baseline",
    "check_reduction",
    "comparative_loss",
    "comparative_weights",
    "hinge_regularized_loss",
    "intra_distillation_divergence",
    "intra_distillation_variance",
    "listwise_comparative_loss",
    "r_drop_divergence",
    "violations",
]
