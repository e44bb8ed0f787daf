"""Predictions in the formats of the official SQuAD and HotpotQA scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.reading import read_json
from cmp_rerank.reader.checks import check_predictions


def write_squad(path: PathLike, predictions: Mapping[str, str]) -> None:
    """Write predictions in the format of the official SQuAD scripts.

    Args:
        path: Where to write.
        predictions: Question id -> answer; "" for no answer.

    Raises:
        ValueError: A prediction is not a text, or the folder does not exist. Then no file is written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_squad(f"{folder}/predictions.json", {"q1": "bees"})
        ...     read_predictions(f"{folder}/predictions.json")
        {'q1': 'bees'}
    """
    check_predictions(predictions)
    _write(path, dict(predictions))


def write_no_answer(path: PathLike, probabilities: Mapping[str, float]) -> None:
    """Write the no-answer probabilities of SQuAD 2.0 (``--na-prob-file`` of its official script).

    Args:
        path: Where to write.
        probabilities: Question id -> probability that there is no answer.

    Raises:
        ValueError: A value is no probability, or the folder does not exist. Then no file is written.
    """
    for name, value in probabilities.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= value <= 1.0:
            raise ValueError(f"question {name!r}: a probability must be from 0 to 1; got {value!r:.80}")
    _write(path, {name: float(value) for name, value in probabilities.items()})


def write_hotpotqa(
    path: PathLike,
    predictions: Mapping[str, str],
    support: Mapping[str, Sequence[tuple[str, int]]] | None = None,
) -> None:
    """Write predictions in the format of the official HotpotQA script.

    Args:
        path: Where to write.
        predictions: Question id -> answer.
        support: Question id -> predicted supporting facts (title, sentence); readers here predict none.

    Raises:
        ValueError: A prediction is not a text, or the folder does not exist. Then no file is written.
    """
    facts = {name: [list(fact) for fact in several] for name, several in (support or {}).items()}
    check_predictions(predictions)
    _write(path, {"answer": dict(predictions), "sp": facts})


def read_predictions(path: PathLike) -> dict[str, str]:
    """Read predictions in the format of SQuAD or of HotpotQA.

    Args:
        path: The file.

    Returns:
        Question id -> answer; "" for no answer.

    Raises:
        ValueError: With the file, for anything else.
    """
    content = read_json(path, halves=True)
    if isinstance(content, dict) and isinstance(content.get("answer"), dict):
        content = content["answer"]
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(
            f"{os.fspath(path)} must be one JSON object of question ids and texts; got {json.dumps(content)[:80]}"
        )
    return content


def one_line(content: Any) -> str:
    """JSON in one line that can be written as UTF-8. A lone surrogate, such as half an emoji, becomes an escape.

    Example:
        >>> one_line({"text": "Bären \\ud83d"})
        '{"text": "Bären \\\\ud83d"}'
    """
    line = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _write(path: PathLike, content: Any) -> None:
    with replacing(path) as file:
        file.write(one_line(content) + "\n")
