"""Training: faster and comparative trainers, and batches by token budget."""

from cmp_rerank.training.arguments import RerankerTrainingArguments
from cmp_rerank.training.checkpoints import TimedCheckpoints
from cmp_rerank.training.comparative import ComparativeTrainer
from cmp_rerank.training.sampler import LengthBatches
from cmp_rerank.training.trainer import RerankerTrainer

__all__ = ["ComparativeTrainer", "LengthBatches", "RerankerTrainer", "RerankerTrainingArguments", "TimedCheckpoints"]
