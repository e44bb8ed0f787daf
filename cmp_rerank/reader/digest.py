"""A digest of questions: whether a training goes on with the questions that it was started with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cmp_rerank.reader.records import Question


def questions_digest(questions: Iterable[Question]) -> str:
    """A digest of questions, their passages and answers.

    Args:
        questions: The questions; their order matters.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> questions = [Question("q", "Who?", ("Bees do.",)), Question("r", "Who?", ("Bees do.",))]
        >>> questions_digest(questions) == questions_digest(questions[:1])
        False
    """
    digest = hashlib.blake2b(digest_size=8)
    for question in questions:
        # The name of a class is no part of the data: settings that were written under the earlier one stay valid.
        content = repr(question).replace("GoldAnswer(text=", "Answer(text=")
        digest.update(content.encode("ascii", "backslashreplace") + b"\n")
    return digest.hexdigest()
