"""Predictions in the formats of the official SQuAD and HotpotQA scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.reading import read_json


def write_squad(path: PathLike, predictions: Mapping[str, str]) -> None:
    """Write predictions as the official SQuAD scripts take them: id -> text, "" for no answer.

    Raises:
        ValueError: A prediction is not a text, or the folder does not exist. Then no file is written.
    """
    _write(path, _checked(predictions))


def write_no_answer(path: PathLike, probabilities: Mapping[str, float]) -> None:
    """Write SQuAD 2.0's ``na_probs``: id -> probability that there is no answer.

    Raises:
        ValueError: A value is no probability, or the folder does not exist. Then no file is written.
    """
    for name, value in probabilities.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"question {name!r}: {value!r} is no probability")
    _write(path, {name: float(value) for name, value in probabilities.items()})


def write_hotpotqa(
    path: PathLike,
    predictions: Mapping[str, str],
    support: Mapping[str, Sequence[tuple[str, int]]] | None = None,
) -> None:
    """Write predictions as the official HotpotQA script takes them.

    Args:
        path: Where to write.
        predictions: Question id -> answer.
        support: Question id -> predicted supporting facts (title, sentence); readers here predict none.

    Raises:
        ValueError: A prediction is not a text, or the folder does not exist. Then no file is written.
    """
    facts = {name: [list(fact) for fact in several] for name, several in (support or {}).items()}
    _write(path, {"answer": _checked(predictions), "sp": facts})


def read_predictions(path: PathLike) -> dict[str, str]:
    """Read predictions in either format.

    Raises:
        ValueError: With the file, for anything else.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("answer"), dict):
        content = content["answer"]
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"{os.fspath(path)}: predictions are one JSON object, id -> text")
    return content


def one_line(content: Any) -> str:
    """JSON that can be written as UTF-8: of a character that was cut in two, such as half an emoji, an escape.

    Example:
        >>> one_line({"text": "Bären \\ud83d"})
        '{"text": "Bären \\\\ud83d"}'
    """
    line = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _checked(predictions: Mapping[str, str]) -> dict[str, str]:
    for name, prediction in predictions.items():
        if not isinstance(prediction, str):
            raise ValueError(f"question {name!r}: a prediction is a text, got {prediction!r:.80}")
    return dict(predictions)


def _write(path: PathLike, content: Any) -> None:
    with replacing(path) as file:
        file.write(one_line(content) + "\n")
