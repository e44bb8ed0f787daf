"""A tuned reranker exported to OpenVINO and ONNX, in 32 bits and int8: speed on one thread, and quality lost.

    make .venv-export/.installed .venv-export-onnx/.installed
    python benchmarks/export.py [--folder FOLDER] [--data ../shared/data/scifact]

Both exports are those of sentence-transformers, each in the environment that ``make test-export`` makes. The
reranker is all-MiniLM-L6-v2 with a new head, tuned by `RerankerTrainer` on SciFact with pairs of at most 48 tokens.
It reorders the ten best of BM25 for the first test queries; scores are logits. Torch, the export and its int8 form
score each batch of 32 in turns, on one thread; what counts is the median of the batches' ratios of processor time,
so that others on the machine matter little. What is in the folder is not made again. Results go to
``benchmarks/results/export.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from cmp_rerank.evaluation import compare
from cmp_rerank.ir import BM25, read_corpus, read_qrels, read_queries, read_run, write_run

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "export.json"
DATA = ROOT.parent / "shared" / "data" / "scifact"
SCORE = ROOT / "benchmarks" / "backends" / "score.py"
#: Backend -> the interpreter that has it.
PYTHONS = {
    "openvino": ROOT / ".venv-export" / "bin" / "python",
    "onnx": ROOT / ".venv-export-onnx" / "bin" / "python",
}
TOKENS, DEPTH, TRAINING, STEPS, SEED = 48, 10, 200, 48, 0
MEASURES = "nDCG@10 RR@10"


def prepare(data: Path, folder: Path, queries: int) -> None:
    """Train, and write the checkpoint, the candidates of the test queries, and texts to calibrate on."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    from cmp_rerank import CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
    from cmp_rerank.demo.encoder import pretrained_encoder
    from cmp_rerank.mining import mine

    folder.mkdir(parents=True, exist_ok=True)
    corpus, texts = read_corpus(data / "corpus.jsonl"), read_queries(data / "queries.jsonl")
    train, test = read_qrels(data / "qrels" / "train.tsv"), read_qrels(data / "qrels" / "test.tsv")
    train = {query: train[query] for query in sorted(train)[:TRAINING]}
    asked = {query: texts[query] for query in sorted(test)[:queries]}
    bm25 = BM25(corpus)
    found = bm25.search({query: texts[query] for query in train}, 1)
    write_run(folder / "bm25.run", bm25.search(asked, DEPTH), tag="bm25")
    candidates = read_run(folder / "bm25.run")
    pairs = [(texts[query], corpus[document]) for query, run in candidates.items() for document in run]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    (folder / "calibration").mkdir(exist_ok=True)
    seen = [f"{texts[query]} [SEP] {corpus[document]}" for query, run in found.items() for document in run]
    (folder / "calibration" / "train.jsonl").write_text("".join(f"{json.dumps({'text': each})}\n" for each in seen))

    torch.manual_seed(SEED)
    mined = mine(texts, corpus, train, negatives=2, test_queries=asked, seed=SEED)
    model = CrossEncoder(pretrained_encoder(), num_labels=1, max_length=TOKENS, device="cpu")
    arguments = RerankerTrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=2e-4,
        warmup_steps=4,
        seed=SEED,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=4,
        use_cpu=True,
    )
    loss = ComparativeLoss(model, ListNetLoss(model), CmpDrop(), seed=SEED)
    RerankerTrainer(model=model, args=arguments, train_dataset=mined.dataset, loss=loss).train()
    model.save_pretrained(str(folder / "checkpoint"))


def systems(folder: Path, scores: dict[str, list[float]]) -> dict[str, dict[str, dict[str, float]]]:
    """The run of each arm: the candidates of BM25, by its scores."""
    candidates = read_run(folder / "bm25.run")
    runs = {}
    for arm, found in scores.items():
        values = iter(found)
        runs[arm] = {query: {document: next(values) for document in run} for query, run in candidates.items()}
        assert next(values, None) is None
    return runs


def measured(folder: Path, backend: str, qrels: Any) -> dict[str, Any]:
    """What the table says of a backend."""
    found = json.loads((folder / backend / "scores.json").read_text())
    runs = systems(folder, found["scores"])
    for arm, run in runs.items():
        write_run(folder / f"{backend}-{arm}.run", run, tag=arm)
    qrels = {query: qrels[query] for query in runs["torch"]}
    comparison = compare(runs, qrels, MEASURES, baseline="torch", seed=SEED)
    torch_scores, torch_seconds = found["scores"]["torch"], found["seconds"]["torch"]
    arms = {}
    for arm in ("float", "int8"):
        ratios = [one / base for one, base in zip(found["seconds"][arm], torch_seconds, strict=True)]
        contrasts = {measure: comparison.contrast(arm, measure) for measure in comparison.measures}
        arms[arm] = {
            "seconds relative to torch": {
                "median": statistics.median(ratios),
                "quartiles": statistics.quantiles(ratios, n=4)[::2],
            },
            "largest difference of scores": max(
                abs(one - base) for one, base in zip(found["scores"][arm], torch_scores, strict=True)
            ),
            "megabytes": found["megabytes"][arm],
            **{
                measure: {
                    "mean": comparison.mean(arm, measure).mean,
                    **{name: getattr(contrast, name) for name in ("difference", "low", "high", "t_p", "verdict")},
                }
                for measure, contrast in contrasts.items()
            },
        }
    return {
        "torch": {measure: comparison.mean("torch", measure).mean for measure in comparison.measures},
        "batches": len(torch_seconds),
        **arms,
        "versions": found["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the checkpoint, the exports and the runs; else none is kept")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--queries", type=int, default=100, help="of the test split")
    for name, python in PYTHONS.items():
        parser.add_argument(f"--{name}", type=Path, default=python, help="the interpreter that has it")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is missing: give a BEIR folder with --data.")
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.folder or Path(temporary))


def run(options: argparse.Namespace, folder: Path) -> None:
    if not (folder / "checkpoint").exists():
        prepare(options.data, folder, options.queries)
    qrels = read_qrels(options.data / "qrels" / "test.tsv")
    backends: dict[str, Any] = {}
    for backend in PYTHONS:
        if not (folder / backend / "scores.json").exists():
            subprocess.run(
                [
                    getattr(options, backend), SCORE, folder / "checkpoint", backend,
                    "--pairs", folder / "pairs.jsonl", "--calibration", folder / "calibration" / "train.jsonl",
                    "--out", folder / backend,
                ],
                check=True,
            )  # fmt: skip
        backends[backend] = measured(folder, backend, qrels)
        print(json.dumps(backends[backend], indent=1), flush=True)
    names = ("cmp-rerank", "sentence-transformers", "transformers", "torch")
    result = {
        "what": f"all-MiniLM-L6-v2 with a new head, {STEPS} steps on SciFact; batches of 32 pairs of at most "
        f"{TOKENS} tokens; the {DEPTH} best of BM25 for {options.queries} test queries",
        "backends": backends,
        "seed": SEED,
        "command": f"python benchmarks/export.py --queries {options.queries}",
        "clock": "processor time of the process, one thread, arms in turns",
        "trained with": {name: version(name) for name in names},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
    }
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
