"""Hours of mixed commands and thousands of training steps in one process: nothing may pile up.

    python tests/faults/soak.py                                     # two hours, 10,000 steps
    python tests/faults/soak.py --minutes 3 --steps 300 --out /tmp/soak.json

Rounds follow each other until time is over and all steps are done. Each goes on with one long training from its last
checkpoint, runs every command in this process, and one of them as a process of its own. After each round, when
garbage is collected, things are counted: memory, threads, descriptors, temporary files, processes, hooks, log
handlers, and the models and tensors that are alive. All counts by time go to ``benchmarks/results/soak.json``; the
exit status is 1 where something grows.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("", "cli", "pipeline"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch.nn.modules import module as modules_of_torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from typer.testing import CliRunner
from usages import USAGES, Usage, make_world

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.cli.main import app

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
#: The demo takes minutes; what it does, `train` does.
USED = [usage for usages in USAGES.values() for usage in usages if usage.command != "demo"]
#: Rounds that load modules and fill caches: what is there after them may stay.
WARM = 3
#: How much the median memory of the last quarter of the rounds may be above that of the first quarter.
GROWTH = 0.05
#: What must not be more after any round than after the warm ones.
FIXED = ("threads", "descriptors", "temporary files", "processes", "hooks", "log handlers", "models", "tensors")


class Until(TrainerCallback):
    """Ends a training after a step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look whether the step is done."""
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


def train(checkpoint: Path, folder: Path, until: int, total: int) -> None:
    """Go on with a training of so many steps from its last checkpoint, up to a step."""
    begun = folder.exists()
    model = CrossEncoder(str(checkpoint), device="cpu")
    rows = {"query": QUERIES * 2, "passage": [*PASSAGES, *OTHERS], "label": [1.0] * 4 + [0.0] * 4}
    arguments = RerankerTrainingArguments(
        str(folder), max_steps=total, per_device_train_batch_size=4, save_steps=100, save_total_limit=2, report_to=[],
        logging_steps=100, use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, unpadded=True,
    )  # fmt: skip
    loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop()])
    trainer = RerankerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows), loss=loss, callbacks=[Until(until)]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(resume_from_checkpoint=begun)
    if trainer.state.global_step != until:
        raise RuntimeError(f"{until} steps must be done; got {trainer.state.global_step}")


def command(usage: Usage, world: Mapping[str, Path], folder: Path) -> None:
    """Run a command in this process."""
    found = CliRunner().invoke(app, usage.call(world, folder / usage.out))
    if found.exit_code:
        raise RuntimeError(f"{usage.command} must end well; got {found.exit_code}: {found.output}")


def process(usage: Usage, world: Mapping[str, Path], folder: Path) -> None:
    """Run a command as a process of its own."""
    call = [sys.executable, "-m", "cmp_rerank", *usage.call(world, folder / usage.out)]
    found = subprocess.run(call, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{usage.command} must end well; got {found.returncode}: {found.stderr}")


def counts(temporary: Path) -> dict[str, int]:
    """What there is now, when garbage is collected. Memory is in kilobytes, without what the allocator holds free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    alive = [kind for each in gc.get_objects() if isinstance(kind := type(each), type)]
    hooks = [name for name in vars(modules_of_torch) if name.startswith("_global_") and name.endswith("_hooks")]
    loggers = [
        logging.root,
        *(each for each in logging.root.manager.loggerDict.values() if hasattr(each, "handlers")),
    ]
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {
        "memory": pages * resource.getpagesize() // 1024,
        "memory of processes, at most": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        "threads": len(os.listdir("/proc/self/task")),
        "python threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "temporary files": len(list(temporary.rglob("*"))),
        "processes": len(children.read_text().split()) if children.exists() else 0,
        "hooks": sum(len(vars(modules_of_torch)[name]) for name in hooks) + len(ALL_ATTENTION_FUNCTIONS),
        "log handlers": sum(len(each.handlers) for each in loggers),
        "models": sum(issubclass(kind, torch.nn.Module) for kind in alive),
        "tensors": sum(issubclass(kind, torch.Tensor) for kind in alive),
        "objects": len(alive),
    }


def grown(rounds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What is more than it may be, by name; nothing where there are too few rounds to tell.

    Example:
        >>> flat = [{"memory": 100, **dict.fromkeys(FIXED, 2)} for _ in range(20)]
        >>> grown(flat)
        {}
        >>> grown([*flat, {**flat[0], "threads": 3}])
        {'threads': 'from 2 to 3'}
        >>> grown([{**each, "memory": 100 + i} for i, each in enumerate(flat)])
        {'memory': 'from 105 to 117'}
    """
    warm, later = rounds[:WARM], rounds[WARM:]
    if len(later) < 4:
        return {}
    found = {}
    for name in FIXED:
        before, after = max(each[name] for each in warm), max(each[name] for each in later)
        if after > before:
            found[name] = f"from {before} to {after}"
    part = len(later) // 4
    first, last = (
        statistics.median(each["memory"] for each in some) for some in (later[:part], later[len(later) - part :])
    )
    if last > first * (1 + GROWTH):
        found["memory"] = f"from {first:.0f} to {last:.0f}"
    return found


def soak(minutes: float, steps: int, piece: int, out: Path) -> dict[str, str]:
    """Rounds until time is over and all steps are done; what has grown, which is written with all counts.

    Args:
        minutes: At least so long.
        steps: At least so many steps of training.
        piece: Steps of a round.
        out: Where to write, after each round.
    """
    begin = time.monotonic()
    rounds: list[dict[str, Any]] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        world, temporary = make_world(Path(name, "world")), Path(name, "temporary")
        temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        while time.monotonic() - begin < 60 * minutes or done < steps:
            number = len(rounds)
            folder = Path(name, "out")
            folder.mkdir()
            if done % steps == 0:  # another training, from the start
                shutil.rmtree(Path(name, "training"), ignore_errors=True)
            done += piece
            train(world["model"], Path(name, "training"), done % steps or steps, steps)
            for place, usage in enumerate(USED):
                (folder / str(place)).mkdir()
                command(usage, world, folder / str(place))
            alone = USED[number % len(USED)]
            (folder / "alone").mkdir()
            process(alone, world, folder / "alone")
            shutil.rmtree(folder)
            rounds.append(
                {"minutes": round((time.monotonic() - begin) / 60, 2), "steps": done, "process": alone.command}
                | counts(temporary)
            )
            result = {
                "command": f"python tests/faults/soak.py --minutes {minutes:g} --steps {steps} --piece {piece}",
                "python": platform.python_version(),
                "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
                "threads": torch.get_num_threads(),
                "commands of a round": [usage.command for usage in USED],
                "warm rounds": WARM,
                "grown": grown(rounds),
                "rounds": rounds,
            }
            partial = out.with_suffix(".unfinished")
            partial.write_text(json.dumps(result, indent=1) + "\n")
            partial.replace(out)
            print({name: rounds[-1][name] for name in ("minutes", "steps", "memory", "tensors")}, flush=True)
    return grown(rounds)


def main() -> int:
    """0 where nothing grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="at least so long")
    parser.add_argument("--steps", type=int, default=10_000, help="at least so many steps of training")
    parser.add_argument("--piece", type=int, default=100, help="steps of a round; divides --steps")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the result")
    options = parser.parse_args()
    if options.steps % options.piece:
        parser.error(f"--piece must divide --steps; got {options.piece} and {options.steps}")
    torch.set_num_threads(1)
    found = soak(options.minutes, options.steps, options.piece, options.out)
    for name, how in found.items():
        print(f"{name} grows {how}")
    print(f"written to {options.out}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
