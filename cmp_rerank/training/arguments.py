"""The training arguments that `RerankerTrainer` has beyond those of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass, field

from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments


@dataclass
class RerankerTrainingArguments(CrossEncoderTrainingArguments):
    """Arguments of `RerankerTrainer`; those of `CrossEncoderTrainingArguments`, and:

    Args:
        tokens_per_batch: the size of a batch for one device, in tokens; ``per_device_train_batch_size`` is then not
            used. Default: batches of as many rows as that says.
        tokens_per_chunk: how many tokens, padding included, one forward pass of a plain loss may hold; a
            `ComparativeLoss` has its own. Default: 4,096 on a CPU, 65,536 elsewhere.
        unpadded: whether the encoder's layers run without padding for a plain loss, where the model allows it; a
            `ComparativeLoss` has its own.
        length_bucketing: whether the rows of a batch have similar lengths. They are drawn at random otherwise, and
            where ``batch_sampler`` is not the default one.
        token_cache: folder in which tokenised datasets are kept for other runs; not those that depend on a segmenter
            or scorer whose ``repr`` does not tell what it does. Default: temporary files.

    Raises:
        ValueError: if an argument is out of its range.
    """

    tokens_per_batch: int | None = field(default=None, metadata={"help": "Tokens of a batch for one device."})
    tokens_per_chunk: int | None = field(default=None, metadata={"help": "Tokens of one forward pass."})
    unpadded: bool = field(default=False, metadata={"help": "Run the encoder's layers without padding."})
    length_bucketing: bool = field(default=True, metadata={"help": "Put rows of similar length into a batch."})
    token_cache: str | None = field(default=None, metadata={"help": "Folder that keeps tokenised datasets."})

    def __post_init__(self) -> None:
        """Check what was given."""
        super().__post_init__()
        for name in ("tokens_per_batch", "tokens_per_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.tokens_per_batch is not None and not self.length_bucketing:
            raise ValueError("tokens_per_batch needs length_bucketing=True, got False.")
