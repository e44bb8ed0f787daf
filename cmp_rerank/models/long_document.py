"""Documents longer than the model's window: scored passage by passage, in training and at inference.

A passage of a document is a view of it, as a step of an ablation is: a selection of its tokens. So a document is
tokenised once, whole, and its passages are never tokenised again. The passage models FirstP, MaxP and SumP are
those of Dai and Callan (SIGIR 2019, arXiv 1905.09217).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, TypeVar

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor
from tqdm.autonotebook import trange

from cmp_rerank.ablations import Example, View
from cmp_rerank.ablations.base import PASSAGE, QUERY
from cmp_rerank.engine import Around, Row, RowBatch
from cmp_rerank.engine.memory import Budget
from cmp_rerank.engine.rows import Chunking, in_order, singles
from cmp_rerank.hooks.sites import default_probe
from cmp_rerank.ir.arguments import kind
from cmp_rerank.models.aggregation import (
    AvgP,
    Combine,
    FirstP,
    MaxP,
    SumP,
    TopKAvgP,
    aggregation,
    described,
    restored,
)
from cmp_rerank.models.base import adapter_of
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.encoding import Encoded, PairLayout, encode
from cmp_rerank.models.long_document_settings import read_settings, write_settings
from cmp_rerank.models.passages import ScoredDocuments, ScoredPassage, best_first, characters
from cmp_rerank.text.checks import check_whole
from cmp_rerank.text.segmenters import windows

__all__ = [
    "AvgP",
    "Combine",
    "Coverage",
    "FirstP",
    "LongDocumentAdapter",
    "LongDocumentReranker",
    "MaxP",
    "SumP",
    "TopKAvgP",
]

_PART = "part_of_pair"
_DOCUMENTS_AT_ONCE = 2048
#: (rows, columns) of the tokens of a batch of passages -> what must be around its forward pass
AroundPassages = Callable[[Tensor, Tensor], AbstractContextManager[None]]
Own = TypeVar("Own")


@dataclass
class Coverage:
    """How long the documents were, and what a model that cuts them to its window would not have read.

    Attributes:
        documents: how many documents were scored; one counts as often as it is scored.
        long: how many of them do not fit into the window.
        tokens: how many tokens they have.
        lost: how many of those are beyond the window.
        passages: how many passages were scored.
    """

    documents: int = 0
    long: int = 0
    tokens: int = 0
    lost: int = 0
    passages: int = 0

    def add(self, tokens: int, lost: int, passages: int) -> None:
        """Count a document."""
        self.documents += 1
        self.long += lost > 0
        self.tokens += tokens
        self.lost += lost
        self.passages += passages

    def __str__(self) -> str:
        share = self.lost / max(self.tokens, 1)
        return (
            f"{self.long} of {self.documents} documents exceed the window: truncation would have lost {self.lost} of "
            f"{self.tokens} tokens ({share:.1%}); scored as {self.passages} passages"
        )


class LongDocumentReranker(CrossEncoder):
    """A cross-encoder for documents of any length, around one whose window is limited.

    It is a CrossEncoder with the same ``predict`` and ``rank``, and can be the model of any loss of the
    CrossEncoderTrainer, of `ComparativeLoss` too: a document that does not fit into the window is scored in
    strided passages, in training with gradients through all that count. It shares the weights of the model that it is
    made from; training one trains the other, and ``save_pretrained`` writes an ordinary checkpoint of that model,
    which loads without this package (as a model that truncates: wrap it again).

    A document that fits is one passage. So a model with a long window (ModernBERT: 8,192 tokens) runs natively, and
    ``passage_tokens`` is the one option by which the two ways are compared.

    ``save_pretrained`` also writes the settings, where others ignore them. A folder or a name on the hub in
    place of a model loads the checkpoint with these settings; arguments that are given count instead.

    Args:
        model: the cross-encoder that scores passages, or a checkpoint of one.
        combine: how scores of passages (logits) become that of the document: "max" (the default), "first", "sum",
            "avg", "topk", the objects `MaxP`, `FirstP`, `SumP`, `AvgP`, `TopKAvgP`, or a callable ``(scores, real) ->
            scores`` as they are.
        passage_tokens: how many tokens of the document a passage has at most; None: as many as the window has room
            for beside the query.
        stride: how many tokens there are from the start of one passage to that of the next; None: half of what a
            passage has, as in Dai and Callan.
        max_passages: how many passages of a document are scored at most, the first ones; None: all.
        tokens_per_chunk: how many tokens, padding included, one forward pass of a training step may hold. Default:
            4,096 on a CPU (512 without gradients), 65,536 elsewhere. In ``predict``, ``batch_size`` counts passages.
        device: where a checkpoint is loaded, such as "cpu"; None: a GPU where there is one.
        max_length: the window of a checkpoint that is loaded, in tokens; None: as it says.

    Raises:
        ValueError: if an argument is out of its range, or the model is not a CrossEncoder.

    Example:
        ::

            reranker = LongDocumentReranker(CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2"), MaxP())
            reranker.rank("how do bees make honey", documents)
            print(reranker.coverage)
    """

    def __init__(
        self,
        model: CrossEncoder | str | os.PathLike[str],
        combine: str | Combine | None = None,
        *,
        passage_tokens: int | None = None,
        stride: int | None = None,
        max_passages: int | None = None,
        tokens_per_chunk: int | None = None,
        device: str | None = None,
        max_length: int | None = None,
    ) -> None:
        load: dict[str, Any] = {
            name: value for name, value in (("device", device), ("max_length", max_length)) if value is not None
        }
        if isinstance(model, str | os.PathLike):
            saved = saved_arguments(read_settings(model), combine, passage_tokens, stride, max_passages)
            combine, passage_tokens, stride, max_passages = saved.values()
            model = CrossEncoder(os.fspath(model), **load)
        elif load:
            raise ValueError(f"{' and '.join(load)} go with a name or a folder; got a model, which has its own.")
        if not isinstance(model, CrossEncoder) or isinstance(model, LongDocumentReranker):
            raise ValueError(f"model must be a CrossEncoder that scores passages; got {kind(model)}.")
        combine = aggregation(MaxP() if combine is None else combine)
        for name, value in (
            ("passage_tokens", passage_tokens),
            ("stride", stride),
            ("max_passages", max_passages),
            ("tokens_per_chunk", tokens_per_chunk),
        ):
            if value is not None:
                check_whole(name, value)
        if stride is not None and passage_tokens is not None and stride > passage_tokens:
            raise ValueError(
                f"stride={stride} is longer than passage_tokens={passage_tokens}: some tokens would never be read."
            )
        super().__init__(
            modules=OrderedDict(model.named_children()),
            device=str(model.device),
            prompts=model.prompts,
            default_prompt_name=model.default_prompt_name,
            activation_fn=model.activation_fn,
            trust_remote_code=model.trust_remote_code,
        )
        self.train(model.training)
        self._passage_model = (model,)  # in a tuple: its modules are ours already
        self.combine = combine
        self.passage_tokens = passage_tokens
        self.stride = stride
        self.max_passages = max_passages
        self.tokens_per_chunk = tokens_per_chunk
        # Each with the thread that it is for: another one that calls the model meanwhile is left alone. They are
        # lists, as what is local to threads cannot be copied with the model.
        self._around: list[tuple[int, AroundPassages]] = []
        self._told: list[tuple[int, list[list[ScoredPassage]]]] = []
        #: How long the documents were that have been scored so far; assign ``Coverage()`` to reset the counts.
        self.coverage = Coverage()

    @classmethod
    def _load_with_module_classes(
        cls, model_name_or_path: str, module_classes: Mapping[str, type[torch.nn.Module]], **kwargs: Any
    ) -> CrossEncoder:
        """The model that scores passages, of a checkpoint: it has the same weights, by the same names.

        Trainers of sentence-transformers ask for it, and take its weights only, when they resume or load the best
        checkpoint. How scores are combined stays as it is in the model that is trained, a callable of its own too.
        """
        return CrossEncoder._load_with_module_classes(model_name_or_path, module_classes, **kwargs)

    @property
    def passage_model(self) -> CrossEncoder:
        """The cross-encoder that scores passages."""
        return self._passage_model[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON has it."""
        return {
            "combine": described(self.combine),
            "passage_tokens": self.passage_tokens,
            "stride": self.stride,
            "max_passages": self.max_passages,
        }

    @wraps(CrossEncoder.save)
    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write an ordinary checkpoint with the settings; ``save_pretrained`` and ``push_to_hub`` do it by this."""
        super().save(path, *args, **kwargs)
        write_settings(path, self.settings)

    @wraps(CrossEncoder.predict)
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Score documents; see ``CrossEncoder.predict``. What is no pair of texts is refused by its place."""
        inputs = args[0] if args else kwargs.get("inputs", kwargs.get("sentences", []))
        _checked([inputs] if self.is_singular_input(inputs) else inputs)
        return super().predict(*args, **kwargs)

    @wraps(CrossEncoder.rank)
    def rank(
        self, query: str, documents: Sequence[str], *args: Any, return_passages: bool = False, **kwargs: Any
    ) -> Any:
        """Rank documents for a query; see ``CrossEncoder.rank``.

        With ``return_passages``, each result also has ``passages``: (start, end, score) of each passage that was
        scored, best first. The characters ``document[start:end]`` are what the model has read.
        """
        _check_documents(documents)
        if not return_passages:
            return super().rank(query, documents, *args, **kwargs)
        with self._telling() as told:
            results = super().rank(query, documents, *args, **kwargs)
        if not hasattr(CrossEncoder, "_inference"):  # see there: which document is in which batch is not known
            prompt = kwargs.get("prompt") or self.prompts.get(kwargs.get("prompt_name") or "")
            told = self.score_documents([(query, document) for document in documents], prompt=prompt).passages
        if len(told) != len(documents):
            raise ValueError("passages are told by one process; got several devices. Give one device, or none.")
        return [result | {"passages": best_first(told[result["corpus_id"]])} for result in results]

    def score_documents(
        self, pairs: Sequence[tuple[str, str]], *, tokens_per_batch: int | None = None, prompt: str | None = None
    ) -> ScoredDocuments:
        """Score documents, and tell their passages: which one won, where it is, and the score of each.

        Args:
            pairs: (query, document) texts.
            tokens_per_batch: how many tokens, padding included, one pass holds. Default: 512 on a CPU, 65,536
                elsewhere.
            prompt: put before the pairs; default: that of the model, as in ``predict``.

        Returns:
            Logits of the documents, and the passages of each, in their order.

        Example:
            ::

                scores, (passages,) = reranker.score_documents([(query, document)])
                best = max(passages, key=lambda passage: passage.score)
                print(document[best.start : best.end])
        """
        chunking = Chunking(singles, Budget.without_gradients(tokens_per_batch, self.device), self.device)
        prompt = prompt or self.prompts.get(self.default_prompt_name or "")
        self.eval()
        with torch.inference_mode(), self._telling() as told:
            scores = [
                self._score_inputs(pairs[start : start + _DOCUMENTS_AT_ONCE], prompt, {}, chunking)
                for start in range(0, len(pairs), _DOCUMENTS_AT_ONCE)
            ]
        together = torch.cat(scores) if scores else torch.empty(0, self.num_labels, device=self.device)
        return ScoredDocuments(together, told)

    def encode_whole(self, pairs: Sequence[tuple[str, str]], **preprocess: Any) -> Encoded:
        """Tokenise pairs without truncation."""
        encoded = encode(self.passage_model, pairs, locate=True, truncation=False, **preprocess)
        for features, layout in zip(encoded.features, encoded.layouts, strict=True):
            features[_PART] = layout.part
        return encoded

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise (query, document) pairs, whole, as a padded batch.

        Anything else than pairs of texts is left to the model that scores passages (the model card asks for
        lengths of single texts).
        """
        if not all(_is_pair(pair) for pair in inputs) or not inputs:
            return self.passage_model.preprocess(inputs, prompt=prompt, **kwargs)
        examples = _as_examples(self._encoded(_checked(inputs), prompt, kwargs))
        return _ADAPTER.collate(self, [(example, example.full()) for example in examples]).features

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Score whole documents, as `preprocess` gives them, passage by passage.

        Returns:
            The features with ``scores`` of shape (documents, labels).
        """
        if _PART not in input:
            return super().forward(input, **kwargs)  # type: ignore[no-any-return]
        per_token = {
            name: value.cpu().numpy()
            for name, value in input.items()
            if isinstance(value, Tensor) and value.shape == input["input_ids"].shape
        }
        real = per_token.pop("attention_mask").astype(bool)
        shared = {name: value for name, value in input.items() if name not in (*per_token, "attention_mask")}
        examples = [
            Example(
                {name: value[row][mask] for name, value in per_token.items()},
                np.full(int(mask.sum()), -1),
                shared=shared,
            )
            for row, mask in enumerate(real)
        ]
        limits = Budget if torch.is_grad_enabled() else partial(Budget.without_gradients, device=self.device)
        chunking = Chunking(singles, limits(self.tokens_per_chunk), self.device)
        begins = torch.from_numpy(real.argmax(axis=1))  # where the padding on the left ends
        scores = self._score(examples, chunking, begins, **kwargs)
        return input | {"scores": scores}

    @contextmanager
    def around_passages(self, around: AroundPassages) -> Iterator[None]:
        """Say what must be around the forward pass of each batch of passages, inside of what was said before.

        That goes for calls of the model by this thread.

        Args:
            around: called with the row of each passage (passages,) and the column of each of its tokens (passages,
                tokens), in the batch of documents that `forward` is given.
        """
        mine = (threading.get_ident(), around)
        self._around.append(mine)
        try:
            yield
        finally:
            self._around.remove(mine)

    def _inference(
        self,
        inputs: list[Any],
        *,
        prompt: str | None,
        batch_size: int,
        show_progress_bar: bool,
        activation_fn: Callable[[Tensor], Tensor] | None,
        apply_softmax: bool | None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Score pairs; unlike the plain model's, batches hold passages of all documents, in order of length.

        `predict` of sentence-transformers 6.2 calls this. Earlier ones call `preprocess` and `forward` on batches of
        documents, which gives the same scores, with more padding.
        """
        device = self._resolve_inference_device(device)
        self.eval()
        results = []
        with torch.inference_mode():
            for start in trange(0, len(inputs), _DOCUMENTS_AT_ONCE, desc="Documents", disable=not show_progress_bar):

                def batches(rows: Sequence[Row]) -> list[list[int]]:
                    order = [i for (i,) in singles(rows)]
                    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]

                part = inputs[start : start + _DOCUMENTS_AT_ONCE]
                results.append(self._score_inputs(part, prompt, kwargs, batches))
            if not results:
                return torch.tensor([], device=device)
            scores = torch.cat(results)
            if torch.finfo(scores.dtype).bits < 32:
                scores = scores.float()  # fewer ties
            if activation_fn is not None:
                scores = activation_fn(scores)
            if self.num_labels == 1:
                scores = scores.squeeze(-1)
            if apply_softmax and scores.ndim > 1:
                scores = torch.softmax(scores, dim=1)
        return scores

    def _score_inputs(
        self,
        inputs: Sequence[Any],
        prompt: str | None,
        kwargs: dict[str, Any],
        batches: Callable[[Sequence[Row]], list[list[int]]],
    ) -> Tensor:
        """Scores of documents, (documents, labels), from their texts."""
        pairs = _checked(inputs)
        encoded = self._encoded(pairs, prompt, kwargs)
        tell = (pairs, encoded.layouts) if _own(self._told) else None
        return self._score(_as_examples(encoded), batches, tell=tell)

    @contextmanager
    def _telling(self) -> Iterator[list[list[ScoredPassage]]]:
        """Passages of the documents that are scored inside, in their order."""
        told: list[list[ScoredPassage]] = []
        mine = (threading.get_ident(), told)
        self._told.append(mine)
        try:
            yield told
        finally:
            self._told[:] = [each for each in self._told if each is not mine]

    def _encoded(self, pairs: Sequence[tuple[str, str]], prompt: str | None, kwargs: dict[str, Any]) -> Encoded:
        return self.encode_whole(pairs, **(kwargs | ({"prompt": prompt} if prompt else {})))

    def _score(
        self,
        examples: Sequence[Example],
        batches: Callable[[Sequence[Row]], list[list[int]]],
        begins: Tensor | None = None,
        tell: tuple[Sequence[tuple[str, str]], Sequence[PairLayout]] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Scores of documents, (documents, labels), by way of those of their passages."""
        cuts = [self._passages(example.features[_PART]) for example in examples]
        views = [[view for view, _ in passages] for passages in cuts]
        bare = [
            Example({k: v for k, v in example.features.items() if k != _PART}, example.segment, shared=example.shared)
            for example in examples
        ]
        rows = [(example, view) for example, passages in zip(bare, views, strict=True) for view in passages]
        owners = torch.tensor([number for number, passages in enumerate(views) for _ in passages])
        order, parts = [], []
        for batch in batches(rows):
            passages = _PASSAGES.collate(self.passage_model, [rows[i] for i in batch])
            with ExitStack() as stack:
                if begins is not None:
                    owner, tokens = owners[batch], passages.positions
                    columns = tokens + begins[owner, None].to(tokens.device)
                    for around in _own(self._around):
                        stack.enter_context(around(owner.to(tokens.device), columns))
                scored = super().forward(passages.features, **kwargs)["scores"]
            parts.append(scored.reshape(len(batch), -1))
            order += batch
        flat = in_order(parts, order)  # (passages of all documents, labels)
        if tell is not None:
            values, told = iter(flat[:, 0].tolist()), _own(self._told)[-1]
            for (_, document), layout, own in zip(*tell, cuts, strict=True):
                told.append(
                    [ScoredPassage(*characters(document, layout.offsets, *tokens), next(values)) for _, tokens in own]
                )
        counts = torch.tensor([len(passages) for passages in views], device=flat.device)
        real = torch.arange(int(counts.max()), device=flat.device) < counts[:, None]  # (documents, most passages)
        scores = flat.new_zeros(*real.shape, flat.shape[1]).masked_scatter(real[..., None], flat)
        combined: Tensor = self.combine(scores, real)
        return combined

    def _passages(self, part: np.ndarray) -> list[tuple[View, tuple[int, int]]]:
        """The passages of a document: selections of the pair's tokens, and which tokens of the document they are.

        Args:
            part: (T,) what each token belongs to, as `PairLayout` has it.
        """
        document = np.flatnonzero(part == PASSAGE)
        query = np.flatnonzero(part == QUERY)
        limit = self.max_seq_length or len(part)
        room = limit - (len(part) - len(document))
        # A long query leaves the document at least half of what special tokens leave, and loses its end for that.
        least = min(len(document), max((room + len(query)) // 2, 1))
        dropped = query[len(query) - max(min(least - room, len(query)), 0) :]
        room += len(dropped)
        if room < least:
            raise ValueError(
                f"The window of {limit} tokens has no room for the document: prompt and special tokens take "
                f"{limit - room} of them. Raise max_seq_length, or shorten the prompt."
            )
        size = min(self.passage_tokens or room, max(room, 1))
        stride = min(self.stride or -(-size // 2), size)
        parts = [(0, len(document))] if len(document) <= size else windows(len(document), size, stride)
        parts = parts[: 1 if isinstance(self.combine, FirstP) else self.max_passages]
        self.coverage.add(len(document), max(len(document) - room, 0), len(parts))
        fixed = np.setdiff1d(np.flatnonzero(part != PASSAGE), dropped, assume_unique=True)
        return [
            (View(np.sort(np.concatenate([fixed, document[first:last]]))), (first, last)) for first, last in parts
        ]


def saved_arguments(
    settings: Mapping[str, Any],
    combine: str | Combine | None = None,
    passage_tokens: int | None = None,
    stride: int | None = None,
    max_passages: int | None = None,
) -> dict[str, Any]:
    """Arguments of a LongDocumentReranker: those that are given, and for the others those of a checkpoint.

    Args:
        settings: what the checkpoint keeps, as `read_settings` gives it.
        combine: as for `LongDocumentReranker`, and so are the following ones.
        passage_tokens: as there.
        stride: as there.
        max_passages: as there.

    Raises:
        ValueError: the checkpoint combines passages by a function, which no file can hold, and none is given.

    Example:
        >>> saved_arguments({"combine": {"name": "sum"}, "passage_tokens": 64, "stride": 32}, max_passages=4)
        {'combine': SumP(), 'passage_tokens': 64, 'stride': 32, 'max_passages': 4}
    """
    if combine is None and "combine" in settings:
        combine = restored(settings["combine"])
    if passage_tokens is None and stride is None:  # a stride alone may be longer than the saved passages
        passage_tokens, stride = settings.get("passage_tokens"), settings.get("stride")
    max_passages = settings.get("max_passages") if max_passages is None else max_passages
    return {"combine": combine, "passage_tokens": passage_tokens, "stride": stride, "max_passages": max_passages}


class LongDocumentAdapter(CrossEncoderAdapter):
    """Long documents: whole pairs in, one row of labels for each, with several passes of the layers between."""

    one_pass = False

    def encode(self, inner: Any, pairs: Sequence[tuple[str, str]], **options: Any) -> Encoded:
        """Whole documents; the model divides them into passages itself."""
        for name in ("truncation", "locate", "layouts"):  # whole, and where the document stands is always asked
            options.pop(name, None)
        encoded: Encoded = inner.encode_whole(pairs, **options)
        return encoded

    def during(self, inner: Any, batch: RowBatch, around: Around) -> AbstractContextManager[Any]:
        """The model says of each batch of passages which tokens of which rows they are."""

        def passages(rows: Tensor, columns: Tensor) -> AbstractContextManager[Any]:
            part = replace(
                batch,
                seeds=batch.seeds[rows],
                positions=batch.positions[rows[:, None], columns],
                levels=[batch.levels[int(row)] for row in rows],
            )
            return around(part)

        manager: AbstractContextManager[Any] = inner.around_passages(passages)
        return manager

    def probe(self, inner: Any, run: Callable[[], Any]) -> Callable[[], Any]:
        """Documents run the layers once for each batch of passages; two short texts run them once."""
        return default_probe(inner.passage_model)


_ADAPTER, _PASSAGES = LongDocumentAdapter(), CrossEncoderAdapter()


@adapter_of.register
def _(model: LongDocumentReranker) -> LongDocumentAdapter:
    return _ADAPTER


def _own(listed: Sequence[tuple[int, Own]]) -> list[Own]:
    """What is for this thread."""
    mine = threading.get_ident()
    return [each for thread, each in listed if thread == mine]


def _is_pair(value: Any) -> bool:
    listed = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)
    return listed and len(value) == 2 and all(isinstance(text, str) for text in value)


def _checked(inputs: Sequence[Any]) -> list[tuple[str, str]]:
    pairs = []
    for number, pair in enumerate(inputs):
        if not _is_pair(pair):
            raise ValueError(
                f"Input {number} must be a pair of texts (query, document); got {kind(pair)}. {_as_pairs(pair)}"
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _as_examples(encoded: Encoded) -> list[Example]:
    return [
        Example(features, np.full(len(features[_PART]), -1), shared=encoded.shared) for features in encoded.features
    ]


def _as_pairs(value: Any) -> str:
    """What to do with an input that is no pair; predict takes everything that is no list for a single one."""
    if hasattr(value, "column_names"):
        return 'Make pairs of the columns: list(zip(data["query"], data["document"])).'
    if isinstance(value, Iterator):
        return "Make a list of it: predict(list(pairs))."
    return "Give a list of pairs: [(query, document), ...]."


def _check_documents(documents: Any) -> None:
    several = hasattr(documents, "__len__") and hasattr(documents, "__getitem__")
    if several and not isinstance(documents, (str, Mapping)) and not hasattr(documents, "column_names"):
        return
    hint = "Make a list of it: list(documents)."
    if isinstance(documents, str):
        hint = "For a single document write [document]."
    elif isinstance(documents, Mapping):
        hint = "Give its texts: list(documents.values())."
    elif hasattr(documents, "column_names"):
        hint = 'Give a column of it: data["document"].'
    raise ValueError(f"documents must be a list of texts; got {kind(documents)}. {hint}")
