"""The training arguments that `RerankerTrainer` has beyond those of sentence-transformers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

from cmp_rerank.engine import STRATEGIES
from cmp_rerank.text.checks import check_whole
from cmp_rerank.training.checkpoints import TimedCheckpoints


@dataclass
class RerankerTrainingArguments(CrossEncoderTrainingArguments):
    """Arguments of `RerankerTrainer`; those of `CrossEncoderTrainingArguments`, and:

    Args:
        tokens_per_batch: the size of a batch for one device, in tokens; ``per_device_train_batch_size`` is then not
            used. Default: batches of as many rows as that says.
        tokens_per_chunk: how many tokens, padding included, one forward pass may hold. Default: 4,096 on a CPU,
            65,536 elsewhere. This and the next two are for plain losses, and for each `ComparativeLoss` that does not
            set them itself.
        unpadded: whether the encoder's layers run without padding, where the model allows it.
        strategy: how the steps of a `ComparativeLoss` are run, see `cmp_rerank.engine.Scorer`. Default: "auto".
        length_bucketing: whether the rows of a batch have similar lengths. If not, they are drawn at random, as they
            are where ``batch_sampler`` is not the default one.
        save_minutes: a checkpoint is saved every so many minutes, the first after at most one, besides those of
            ``save_strategy``; see `TimedCheckpoints`. Default: none by time.
        token_cache: folder in which tokenised datasets are kept for other runs; not those that depend on a segmenter
            or scorer whose ``repr`` does not describe what it does, such as a function. Any number of trainings may
            use it at the same time. Default: temporary files.
        tokenise_workers: processes that tokenise while training runs, where the data is larger than a window; 0: the
            training process does, in pauses between steps. Default: 1 where processes are forked (Linux), else 0,
            since a script must be written for other ways to start one (``if __name__ == "__main__"``).

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> args = RerankerTrainingArguments("tuned", tokens_per_batch=4096, strategy="hybrid", report_to=[])
        >>> args.tokens_per_batch, args.strategy, args.length_bucketing
        (4096, 'hybrid', True)
    """

    tokens_per_batch: int | None = field(default=None, metadata={"help": "Tokens of a batch for one device."})
    tokens_per_chunk: int | None = field(default=None, metadata={"help": "Tokens of one forward pass."})
    unpadded: bool = field(default=False, metadata={"help": "Run the encoder's layers without padding."})
    strategy: str | None = field(default=None, metadata={"help": "How ablation steps are run."})
    length_bucketing: bool = field(default=True, metadata={"help": "Put rows of similar length into a batch."})
    save_minutes: float | None = field(default=None, metadata={"help": "Minutes between two checkpoints by time."})
    token_cache: str | None = field(default=None, metadata={"help": "Folder that keeps tokenised datasets."})
    tokenise_workers: int | None = field(default=None, metadata={"help": "Processes that tokenise ahead."})

    def __post_init__(self) -> None:
        """Check what was given."""
        #: `dataloader_drop_last` before sentence-transformers sets it, which it does in several processes.
        self.given_drop_last = self.dataloader_drop_last
        super().__post_init__()
        for name in ("tokens_per_batch", "tokens_per_chunk"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, check_whole(name, value))
        if self.tokenise_workers is not None:
            self.tokenise_workers = check_whole("tokenise_workers", self.tokenise_workers, 0)
        for name in ("unpadded", "length_bucketing"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; got {getattr(self, name)!r}.")
        if self.save_minutes is not None:
            TimedCheckpoints(self.save_minutes)
        if self.token_cache is not None:
            if not isinstance(self.token_cache, str | os.PathLike):
                raise ValueError(f"token_cache must be a folder or None; got {self.token_cache!r}.")
            self.token_cache = os.path.expanduser(self.token_cache)  # as output_dir is
        if self.strategy is not None and self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {STRATEGIES}; got {self.strategy!r}.")
        if self.tokens_per_batch is not None and not self.length_bucketing:
            raise ValueError("tokens_per_batch needs length_bucketing=True; got False.")
        if self.tokens_per_batch is not None and self.batch_sampler != BatchSamplers.BATCH_SAMPLER:
            raise ValueError(
                f"tokens_per_batch needs the default batch_sampler; got {self.batch_sampler!r}, whose batches have "
                "per_device_train_batch_size rows. Leave out one of the two."
            )
