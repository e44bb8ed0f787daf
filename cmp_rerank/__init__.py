"""Fine-tune rerankers and readers with comparative loss, and measure whether it helped."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `_HOME` says the same, and a test compares them
    from cmp_rerank.ablations import (
        Ablation,
        CmpCrop,
        CmpDrop,
        Example,
        FeedbackCounts,
        FixedCounts,
        Fractions,
        IndependentCopies,
        Plan,
        RandomCounts,
        ScheduledAblation,
        View,
        alternate,
    )
    from cmp_rerank.evaluation.compare import compare
    from cmp_rerank.evaluation.evaluate import evaluate
    from cmp_rerank.evaluation.evaluator import RunEvaluator
    from cmp_rerank.losses import ComparativeLoss
    from cmp_rerank.models.long_document import AvgP, FirstP, LongDocumentReranker, MaxP, SumP, TopKAvgP
    from cmp_rerank.objectives import (
        CosineSchedule,
        HingeRegularized,
        IntraDistillation,
        LinearSchedule,
        Listwise,
        MeanOfSteps,
        Objective,
        Outputs,
        PairwiseHinge,
        RDrop,
        ScheduledObjective,
        TrainingProgress,
        WeightedByLoss,
        WeightedByViolation,
    )
    from cmp_rerank.reader import Reader, make_windows
    from cmp_rerank.text.segmenters import GivenSegments, Paragraphs, Sentences, TokenWindows, WordWindows
    from cmp_rerank.text.support import GivenSupport, LexicalSupport
    from cmp_rerank.training import ComparativeTrainer, RerankerTrainer, RerankerTrainingArguments

    __version__: str

__all__ = [
    "Ablation",
    "AvgP",
    "CmpCrop",
    "CmpDrop",
    "ComparativeLoss",
    "ComparativeTrainer",
    "CosineSchedule",
    "Example",
    "FeedbackCounts",
    "FirstP",
    "FixedCounts",
    "Fractions",
    "GivenSegments",
    "GivenSupport",
    "HingeRegularized",
    "IndependentCopies",
    "IntraDistillation",
    "LexicalSupport",
    "LinearSchedule",
    "Listwise",
    "LongDocumentReranker",
    "MaxP",
    "MeanOfSteps",
    "Objective",
    "Outputs",
    "PairwiseHinge",
    "Paragraphs",
    "Plan",
    "RDrop",
    "RandomCounts",
    "Reader",
    "RerankerTrainer",
    "RerankerTrainingArguments",
    "RunEvaluator",
    "ScheduledAblation",
    "ScheduledObjective",
    "Sentences",
    "SumP",
    "TokenWindows",
    "TopKAvgP",
    "TrainingProgress",
    "View",
    "WeightedByLoss",
    "WeightedByViolation",
    "WordWindows",
    "alternate",
    "compare",
    "evaluate",
    "make_windows",
]

# Where each public name lives. Imported on first use: what needs no model starts without torch.
_HOME = {
    "Ablation": "cmp_rerank.ablations",
    "AvgP": "cmp_rerank.models.long_document",
    "CmpCrop": "cmp_rerank.ablations",
    "CmpDrop": "cmp_rerank.ablations",
    "ComparativeLoss": "cmp_rerank.losses",
    "ComparativeTrainer": "cmp_rerank.training",
    "CosineSchedule": "cmp_rerank.objectives",
    "Example": "cmp_rerank.ablations",
    "FeedbackCounts": "cmp_rerank.ablations",
    "FirstP": "cmp_rerank.models.long_document",
    "FixedCounts": "cmp_rerank.ablations",
    "Fractions": "cmp_rerank.ablations",
    "GivenSegments": "cmp_rerank.text.segmenters",
    "GivenSupport": "cmp_rerank.text.support",
    "HingeRegularized": "cmp_rerank.objectives",
    "IndependentCopies": "cmp_rerank.ablations",
    "IntraDistillation": "cmp_rerank.objectives",
    "LexicalSupport": "cmp_rerank.text.support",
    "LinearSchedule": "cmp_rerank.objectives",
    "Listwise": "cmp_rerank.objectives",
    "LongDocumentReranker": "cmp_rerank.models.long_document",
    "MaxP": "cmp_rerank.models.long_document",
    "MeanOfSteps": "cmp_rerank.objectives",
    "Objective": "cmp_rerank.objectives",
    "Outputs": "cmp_rerank.objectives",
    "PairwiseHinge": "cmp_rerank.objectives",
    "Paragraphs": "cmp_rerank.text.segmenters",
    "Plan": "cmp_rerank.ablations",
    "RDrop": "cmp_rerank.objectives",
    "RandomCounts": "cmp_rerank.ablations",
    "Reader": "cmp_rerank.reader",
    "RerankerTrainer": "cmp_rerank.training",
    "RerankerTrainingArguments": "cmp_rerank.training",
    "RunEvaluator": "cmp_rerank.evaluation.evaluator",
    "ScheduledAblation": "cmp_rerank.ablations",
    "ScheduledObjective": "cmp_rerank.objectives",
    "Sentences": "cmp_rerank.text.segmenters",
    "SumP": "cmp_rerank.models.long_document",
    "TokenWindows": "cmp_rerank.text.segmenters",
    "TopKAvgP": "cmp_rerank.models.long_document",
    "TrainingProgress": "cmp_rerank.objectives",
    "View": "cmp_rerank.ablations",
    "WeightedByLoss": "cmp_rerank.objectives",
    "WeightedByViolation": "cmp_rerank.objectives",
    "WordWindows": "cmp_rerank.text.segmenters",
    "alternate": "cmp_rerank.ablations",
    "compare": "cmp_rerank.evaluation.compare",
    "evaluate": "cmp_rerank.evaluation.evaluate",
    "make_windows": "cmp_rerank.reader",
}


if not TYPE_CHECKING:  # hidden from type checkers: they should report a name that does not exist

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "__version__":
            value: Any = import_module("cmp_rerank.version").package_version()
        elif name in _HOME:
            value = getattr(import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value  # found there from now on
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
