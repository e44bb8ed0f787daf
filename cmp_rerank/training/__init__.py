"""Training: a faster `CrossEncoderTrainer` for long and mixed-length input, and batches by token budget."""

from cmp_rerank.training.arguments import RerankerTrainingArguments
from cmp_rerank.training.sampler import LengthBatches
from cmp_rerank.training.trainer import RerankerTrainer

__all__ = ["LengthBatches", "RerankerTrainer", "RerankerTrainingArguments"]
