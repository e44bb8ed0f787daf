"""What a ranking loss is: texts and labels in, one number out, as sentence-transformers has it."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from sentence_transformers.util import batch_to_device, fullname
from torch import Tensor, nn

from cmp_rerank.ranking_losses.checks import check_ignore_label, check_model
from cmp_rerank.ranking_losses.labels import LabelKind
from cmp_rerank.ranking_losses.lists import read_lists
from cmp_rerank.text.checks import check_whole

__all__ = ["RankingLoss"]


class RankingLoss(nn.Module):
    """A loss over the documents of each query, in the contract of sentence-transformers.

    A subclass says what its labels mean (`kind`) and computes the loss of each list (`per_list`). The value of a
    batch is the mean over its lists. A list with nothing to learn from (no positive, or no two labels that differ)
    has a loss of 0 without a gradient, and counts in the mean. So the loss is a plain mean over queries, and
    `ComparativeLoss` compares each query's own loss.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        ignore_label: documents with this label are left out: neither scored nor compared. Use it for suspected false
            negatives, and NaN for documents that the teacher did not score. Default: none are.
        activation_fn: applied to the logits before the loss. Default: none.
        mini_batch_size: how many pairs one pass of the model holds; None: as many as there are queries; 0 or less:
            all. `ComparativeLoss` and `RerankerTrainer` choose for themselves.

    Attributes:
        reduction: "mean" over the lists of a batch, "sum", or "none" for the losses of single lists.

    Inputs:
        +----------------------------------------+--------------------------------+-------------------------------+
        | Inputs                                 | Labels                         | Number of Model Output Labels |
        +========================================+================================+===============================+
        | (query, [doc1, doc2, ..., docN])       | [label1, label2, ..., labelN]  | 1                             |
        +----------------------------------------+--------------------------------+-------------------------------+
        | (query, doc1, doc2, ..., docN)         | [label1, label2, ..., labelN]  | 1                             |
        +----------------------------------------+--------------------------------+-------------------------------+
        | (query, positive, negative1, ...)      | none, with `by_position`       | 1                             |
        +----------------------------------------+--------------------------------+-------------------------------+

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        A loss of your own is one function of scores, labels and mask:

        >>> from cmp_rerank.ranking_losses.labels import GRADES
        >>> class BestFirstLoss(RankingLoss):
        ...     kind = GRADES
        ...
        ...     def per_list(self, scores, labels, mask):
        ...         best = labels == labels.amax(dim=-1, keepdim=True)
        ...         return -(scores.masked_fill(~mask, -torch.inf).log_softmax(-1).masked_fill(~best, 0.0)).sum(-1)
    """

    #: What the labels mean.
    kind: ClassVar[LabelKind]
    #: The format of training data that it takes; see `cmp_rerank.mining`.
    data_format: ClassVar[str] = "lists"
    #: How many labels each document has.
    label_columns: ClassVar[int] = 1
    #: Whether the first document counts as the positive where there are no labels.
    by_position: ClassVar[bool] = False
    #: BibTeX of the source, for the model card.
    citation: ClassVar[str] = ""

    def __init__(
        self,
        model: nn.Module,
        *,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_model(type(self).__name__, model)
        check_ignore_label(ignore_label)
        if activation_fn is not None and not isinstance(activation_fn, nn.Module):
            raise ValueError(
                f"activation_fn must be None or a module such as torch.nn.Sigmoid(); got {activation_fn!r}"
            )
        if mini_batch_size is not None:
            check_whole("mini_batch_size", mini_batch_size, None)
        self.model = model
        self.ignore_label = ignore_label
        self.activation_fn = nn.Identity() if activation_fn is None else activation_fn
        self.mini_batch_size = mini_batch_size
        self.reduction = "mean"

    @abstractmethod
    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The loss of each list.

        Args:
            scores: of the documents, after the activation: float32 or float64, shape (lists, documents).
            labels: of the same shape, with a further dimension where there are several `label_columns`.
            mask: True where there is a document, False for padding: shape (lists, documents).

        Returns:
            Shape (lists,), with a graph.

        Raises:
            ValueError: if labels make no sense.
        """

    def forward(
        self,
        inputs: list[list[Any]],
        labels: Tensor | list[Tensor] | None = None,
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            inputs: queries and lists of documents; or queries and columns of documents, the positives first.
            labels: one for each document of each list. None where the first document is the positive.
            prompt: put before the texts by the model.
            task: handed to the model's preprocessing.

        Returns:
            A scalar; with ``reduction = "none"`` one number a query.

        Raises:
            ValueError: if the columns or labels do not fit, a list has fewer than two documents, or a label makes no
                sense.
        """
        lists = read_lists(
            type(self).__name__,
            inputs,
            labels,
            ignore_label=self.ignore_label,
            columns=self.label_columns,
            by_position=self.by_position,
        )
        scores = lists.padded(self._scores(lists.pairs, len(inputs[0]), prompt, task))
        losses = self.of_logits(scores, lists.labels.to(scores.device), lists.mask.to(scores.device))
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.mean()

    def of_logits(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The loss of each list for logits that are at hand: the activation, then `per_list`.

        Args:
            logits: of the model, shape (lists, documents).
            labels: see `per_list`.
            mask: see `per_list`.

        Returns:
            Shape (lists,), with a graph.
        """
        return self.per_list(self.activation_fn(logits), labels, mask)

    def _scores(self, pairs: list[tuple[str, str]], queries: int, prompt: str | None, task: str | None) -> Tensor:
        """The logits of the pairs: (pairs,), float32 or float64."""
        size = queries if self.mini_batch_size is None else self.mini_batch_size
        size = size if size > 0 else len(pairs)
        logits = []
        for start in range(0, len(pairs), size):
            features = self.model.preprocess(pairs[start : start + size], prompt=prompt, task=task)  # type: ignore
            logits.append(self.model(batch_to_device(features, self.model.device))["scores"].reshape(-1))  # type: ignore
        joined = torch.cat(logits)
        return joined if joined.dtype == torch.float64 else joined.float()

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this loss: the arguments that it was made with.

        Losses inside of this one are given as they are: the model card asks them in turn.
        """
        names = [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", "model")]
        values = {name: getattr(self, name) for name in names}
        plain = {n for n, v in values.items() if isinstance(v, nn.Module) and not hasattr(v, "get_config_dict")}
        return {name: fullname(value) if name in plain else value for name, value in values.items()}

    def extra_repr(self) -> str:
        """The options that are no modules, for ``repr``."""
        return ", ".join(
            f"{name}={value!r}"
            for name, value in self.get_config_dict().items()
            if not isinstance(getattr(self, name), nn.Module)
        )
