"""Export a cross-encoder by sentence-transformers, and score pairs with torch, the export and its int8 form in turns.

    python benchmarks/backends/score.py CHECKPOINT openvino --pairs pairs.jsonl --calibration texts.jsonl --out FOLDER

This runs in an environment that has the backend, and needs nothing of this package: ``make test-export`` makes one
for each. ``pairs.jsonl`` has a query and a passage on each line, ``texts.jsonl`` a ``text``. FOLDER gets the
export, and ``scores.json``: logits of each arm, its seconds of processor time for each batch, and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.backend import export_dynamic_quantized_onnx_model, export_static_quantized_openvino_model

BATCH = 32
#: Texts that activations are measured on, for the static quantisation of OpenVINO.
SAMPLES = 32
#: Of int8 kernels, for the dynamic quantisation of ONNX.
INSTRUCTIONS = "avx512_vnni"
#: Backend -> what makes it.
MAKERS = {"openvino": ("optimum-intel", "openvino", "nncf"), "onnx": ("optimum-onnx", "onnx", "onnxruntime")}
#: Backend -> the file of each arm.
FILES = {
    "openvino": {
        "float": "openvino/openvino_model.xml",
        "int8": "openvino/openvino_model_qint8_quantized.xml",
    },
    "onnx": {"float": "onnx/model.onnx", "int8": f"onnx/model_qint8_{INSTRUCTIONS}.onnx"},
}


def options(backend: str) -> dict[str, Any]:
    """One thread, and 32 bits where the backend would choose fewer."""
    if backend == "openvino":
        return {"ov_config": {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}}
    from onnxruntime import SessionOptions

    one = SessionOptions()
    one.intra_op_num_threads = one.inter_op_num_threads = 1
    return {"session_options": one, "provider": "CPUExecutionProvider"}


def quantise(backend: str, exported: CrossEncoder, folder: Path, calibration: Path) -> None:
    """Write the int8 form beside the export."""
    if backend == "onnx":
        export_dynamic_quantized_onnx_model(exported, INSTRUCTIONS, str(folder))
        return
    from optimum.intel import OVQuantizationConfig

    # The name of the dataset may be a folder of files; without one it is a dataset of the hub.
    export_static_quantized_openvino_model(
        exported,
        OVQuantizationConfig(num_samples=SAMPLES),
        str(folder),
        dataset_name=str(calibration.parent.resolve()),
        dataset_config_name="default",
        dataset_split="train",
        column_name="text",
    )


def main() -> None:
    """Export, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("backend", choices=FILES)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="alone in its folder")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    exported = CrossEncoder(
        str(given.checkpoint), backend=given.backend, model_kwargs=options(given.backend), device="cpu"
    )
    exported.save_pretrained(str(given.out))
    quantise(given.backend, exported, given.out, given.calibration)
    # Both are loaded: OpenVINO's quantiser changes the model that it is given.
    arms = {"torch": CrossEncoder(str(given.checkpoint), device="cpu")}
    for arm, name in FILES[given.backend].items():
        kwargs = {**options(given.backend), "file_name": name}
        arms[arm] = CrossEncoder(str(given.out), backend=given.backend, model_kwargs=kwargs, device="cpu")
    pairs = [tuple(json.loads(line)) for line in given.pairs.read_text(encoding="utf-8").splitlines()]
    scores: dict[str, list[float]] = {arm: [] for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for number, start in enumerate(range(0, len(pairs), BATCH)):
        batch = pairs[start : start + BATCH]
        for arm in list(arms)[:: 1 if number % 2 else -1]:
            # Of this process alone: others on the machine do not count.
            begin = time.process_time()
            found = arms[arm].predict(
                batch, batch_size=BATCH, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
            seconds[arm].append(time.process_time() - begin)
            scores[arm] += map(float, found)
    names = ("sentence-transformers", "transformers", "torch", "optimum", *MAKERS[given.backend])
    result = {
        "scores": scores,
        "seconds": seconds,
        "versions": {name: version(name) for name in names},
        "megabytes": {arm: round(_size(given.out / name) / 1e6, 1) for arm, name in FILES[given.backend].items()},
    }
    (given.out / "scores.json").write_text(json.dumps(result) + "\n")


def _size(file: Path) -> int:
    """Bytes of a model; OpenVINO keeps the weights in a file beside it."""
    return sum(each.stat().st_size for each in {file, file.with_suffix(".bin")} if each.exists())


if __name__ == "__main__":
    main()
