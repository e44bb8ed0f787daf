"""Pairs as the model's own preprocessing makes them, and where in them the passage stands.

A plain pair is located by the tokenizer's sequence numbers. Where the preprocessing renders the pair into one text (a
chat template), the passage is found in that text, and the tokens by their offsets in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from cmp_rerank.ablations.base import FIXED, PASSAGE

#: Features that say nothing of a token, or that a model makes itself: positions are counted from 0 in every row, so
#: that they stay in the range, and without the gaps, that the model has seen in pretraining.
_NOT_FEATURES = ("attention_mask", "offset_mapping", "special_tokens_mask", "position_ids", "length")
_MARKER = "\u27ea passage \u27eb"


@dataclass(frozen=True)
class PairLayout:
    """Where the texts of a pair stand among its tokens.

    Attributes:
        part: (T,) what each token belongs to: `FIXED` (special tokens, templates), `QUERY` or `PASSAGE`.
        offsets: (tokens of the passage, 2) the characters of the passage that each of its tokens stands for.
        truncated: whether the window has cut any token of the pair.
    """

    part: np.ndarray
    offsets: np.ndarray
    truncated: bool


@dataclass(frozen=True)
class Encoded:
    """A batch of pairs, tokenised and unpadded.

    Attributes:
        features: for each pair its per-token features, name -> (T,).
        shared: features that are not per token.
        layouts: for each pair where its texts stand.
    """

    features: list[dict[str, np.ndarray]]
    shared: dict[str, Any]
    layouts: list[PairLayout]


def encode(
    model: CrossEncoder,
    pairs: Sequence[tuple[str, str]],
    *,
    locate: bool = True,
    layouts: bool = True,
    truncation: bool = True,
    **preprocess: Any,
) -> Encoded:
    """Preprocess pairs as the model does, unpadded.

    Args:
        model: the cross-encoder.
        pairs: (query, passage) texts.
        locate: whether it must be known where the passage stands; if not, it may be given up.
        layouts: whether it is asked at all; if not, layouts are empty, and say only whether something was cut.
        truncation: whether to cut to the model's window, as the model does.
        **preprocess: passed on to ``model.preprocess`` (``prompt``, ``task``, ``processing_kwargs``).

    Raises:
        ValueError: if it must be located, but cannot be; or a text has half of a character (a lone surrogate), which
            tokenizers cannot read.
    """
    kwargs = _without_padding(preprocess.pop("processing_kwargs", None) or {}, truncation)
    try:
        encoded = model.preprocess([tuple(pair) for pair in pairs], processing_kwargs=kwargs, **preprocess)
    except TypeError as error:  # what tokenizers say of such a text, without saying where
        _check_characters(pairs, error)
        raise
    lengths = [len(ids) for ids in encoded["input_ids"]]
    features: list[dict[str, np.ndarray]] = [{} for _ in pairs]
    shared = {}
    for name, value in encoded.items():
        if name in _NOT_FEATURES:
            continue
        rows = isinstance(value, list) and len(value) == len(lengths)
        if rows and all(hasattr(row, "__len__") and len(row) == n for row, n in zip(value, lengths, strict=True)):
            for row, own in zip(value, features, strict=True):
                own[name] = np.asarray(row)
        else:
            shared[name] = value
    if not getattr(model.tokenizer, "is_fast", False):
        if locate:
            raise ValueError(
                "Only a fast tokenizer says which tokens belong to the passage; got "
                f"{type(model.tokenizer).__name__}. Use CmpDrop alone."
            )
        return Encoded(features, shared, [_unknown(n) for n in lengths])
    if not layouts:
        cut = [bool(encoding.overflowing) for encoding in encoded.encodings or []]
        return Encoded(features, shared, [_unknown(0, each) for each in cut or [False] * len(lengths)])
    if encoded.get("modality", "text") == "message":
        try:
            found = _in_templates(model, pairs, features, **preprocess)
        except ValueError:
            if locate:
                raise
            found = [_unknown(n) for n in lengths]
    else:
        found = [_in_pair(encoding) for encoding in encoded.encodings]
    return Encoded(features, shared, found)


def _check_characters(pairs: Sequence[tuple[str, str]], error: TypeError) -> None:
    """Name the text that has half of a character, if there is one."""
    for number, pair in enumerate(pairs):
        for what, text in zip(("query", "passage"), pair, strict=True):
            try:
                text.encode()
            except UnicodeEncodeError as found:
                raise ValueError(
                    f"The {what} of pair {number} has half of a character, {text[found.start]!r}, at place "
                    f"{found.start} (query: {pair[0][:80]!r}). Remove it, or read the texts as UTF-8."
                ) from error


def _without_padding(given: dict[str, Any], truncation: bool) -> dict[str, Any]:
    text = {**given.get("text", {}), "padding": False}
    if not truncation:
        text |= {"truncation": False, "verbose": False}  # no warning: the window is kept to elsewhere
    return given | {"text": text, "common": given.get("common", {}) | {"return_tensors": None}}


def _unknown(length: int, truncated: bool = False) -> PairLayout:
    return PairLayout(np.full(length, FIXED, dtype=np.int64), np.empty((0, 2), dtype=np.int64), truncated)


def _in_pair(encoding: Any) -> PairLayout:
    part = np.array([FIXED if i is None else i + 1 for i in encoding.sequence_ids], dtype=np.int64)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return PairLayout(part, offsets[part == PASSAGE], bool(encoding.overflowing))


def _in_templates(
    model: CrossEncoder,
    pairs: Sequence[tuple[str, str]],
    features: Sequence[dict[str, np.ndarray]],
    prompt: str | None = None,
    task: str | None = None,
    **_: Any,
) -> list[PairLayout]:
    transformer: Any = model[0]
    own = dict(transformer.processing_kwargs.get("chat_template", {})) | ({"task": task} if task else {})
    for name in ("restore_suffix", "padding", "truncation", "max_length", "return_tensors"):
        own.pop(name, None)

    def render(query: str, passage: str) -> str:
        messages = transformer.input_formatter.pair_to_messages((query, passage))
        if prompt:
            (messages,) = transformer.input_formatter.prepend_prompt_to_messages([messages], prompt)
        return str(transformer.processor.apply_chat_template(messages, tokenize=False, **own))

    before: dict[str, str] = {}
    layouts = []
    for (query, passage), feature in zip(pairs, features, strict=True):
        if query not in before:
            around = render(query, _MARKER).split(_MARKER)
            if len(around) != 2:
                raise ValueError(
                    f"The chat template of the model shows a passage {len(around) - 1} times as it is: which "
                    "of its tokens a crop may take is unknown. Use CmpDrop alone, or another template."
                )
            before[query] = around[0]
        rendered = render(query, passage)
        start = len(before[query])
        lead = 0
        if not rendered.startswith(passage, start):  # a template may trim its messages
            lead = len(passage) - len(passage.lstrip())
        shown = passage[lead:] if rendered.startswith(passage[lead:], start) else passage.strip()
        if not rendered.startswith(before[query] + shown):
            raise ValueError(
                "The chat template of the model changes the text of the passage: which of its tokens belong to "
                "which segment is unknown. Use CmpDrop alone, or a template that shows the text as it is."
            )
        layouts.append(_in_text(model, rendered, (start, start + len(shown)), lead, feature["input_ids"]))
    return layouts


def _in_text(model: CrossEncoder, text: str, span: tuple[int, int], lead: int, ids: np.ndarray) -> PairLayout:
    """Locate a passage at ``span`` of a rendered text, which leaves out its first ``lead`` characters."""
    whole = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    every = np.asarray(whole["input_ids"])
    offsets = np.asarray(whole["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    cut = len(ids) < len(every)
    # Truncation takes the end of the rendered text; the template's own last tokens are put back over what is left.
    tail = int((offsets[:, 0] >= span[1]).sum())
    if tail > len(ids) or not np.array_equal(ids[len(ids) - tail :], every[len(every) - tail :]):
        tail = 0
    head = len(ids) - tail
    same = ids[:head] == every[:head] if head <= len(every) else np.zeros(1, dtype=bool)
    agree = head if same.all() else int(same.argmin())
    if agree < head and not tail:
        raise ValueError("The model's preprocessing does not give the tokens of its rendered chat template.")
    # More may be put back than the template's end: what is neither the head nor the tail is never cropped.
    put_back = np.full((head - agree, 2), -1)
    offsets = np.concatenate([offsets[:agree], put_back, offsets[len(offsets) - tail :]])
    # A token may begin with the white space before its word, though that belongs to the template.
    start, end = offsets[:, 0].copy(), offsets[:, 1]
    for i in np.flatnonzero((start < span[0]) & (end > span[0])):
        if not text[start[i] : span[0]].strip():
            start[i] = span[0]
    inside = (start >= span[0]) & (end <= span[1]) & (end > start)
    part = np.where(inside, PASSAGE, FIXED)
    shift = lead - span[0]
    return PairLayout(part, np.stack([start, end], axis=1)[inside] + shift, cut)
