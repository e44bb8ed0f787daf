"""Learning from a teacher: from its scores, from its scores and grades together, or from its order alone."""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from sentence_transformers.cross_encoder.losses import RankNetLoss
from torch import Tensor, nn

from cmp_rerank.ranking_losses.base import RankingLoss
from cmp_rerank.ranking_losses.checks import (
    check_choice,
    check_ignore_label,
    check_model,
    check_positive,
    checked_lists,
)
from cmp_rerank.ranking_losses.labels import RANKS, TEACHER_SCORES
from cmp_rerank.ranking_losses.lists import read_lists
from cmp_rerank.ranking_losses.softmax import ListwiseSoftmaxLoss

__all__ = ["ListwiseKLLoss", "SupervisedDistillationLoss", "TeacherOrderLoss", "labels_of_ranks", "listwise_kl"]

OrderLabels = Literal["order", "reciprocal"]
ORDER_LABELS = ("order", "reciprocal")


def listwise_kl(scores: Tensor, labels: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """Give the divergence of the model's distribution over a list from the teacher's.

    With the teacher's scores t and the temperature T::

        p = softmax(t / T),  q = softmax(s / T),  L = T^2 sum over i of p(i) (log p(i) - log q(i))

    The factor keeps the size of the gradients; as T grows, L tends to half the variance of s - t within the list. It
    is never negative, and 0 where the scores differ from the teacher's by a constant.

    Args:
        scores: of the model, shape (..., documents).
        labels: the teacher's scores (logits), any finite numbers, the shape of the scores.
        mask: True where there is a document; None: everywhere.
        temperature: T > 0, in the unit of the scores.

    Returns:
        One loss a list, shape (...).

    Raises:
        ValueError: if an argument makes no sense; the message says what was got.

    Source: RocketQAv2, Ren et al. 2021, arXiv 2110.07367; the temperature is from Hinton et al. 2015,
    arXiv 1503.02531.

    Example:
        p = (3/4, 1/4) and q = (1/2, 1/2): (3/4) log(3/2) + (1/4) log(1/2).

        >>> listwise_kl(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.1308])
    """
    check_positive("temperature", temperature)
    scores, labels, mask = checked_lists(scores, labels, mask, TEACHER_SCORES)
    log_p, log_q = (
        (values / temperature).masked_fill(~mask, torch.finfo(scores.dtype).min).log_softmax(dim=-1)
        for values in (labels, scores)
    )
    return temperature**2 * (log_p.exp() * (log_p - log_q).masked_fill(~mask, 0.0)).sum(dim=-1)


def labels_of_ranks(ranks: Tensor, labels: OrderLabels = "order") -> Tensor:
    """Give labels, the higher the better, for the ranks that a teacher gave the documents of one list.

    Args:
        ranks: 1 and more, 1 is the best; equal ranks are ties. Shape (documents,).
        labels: "order": how many documents of the list the teacher ranks below. "reciprocal": 1 / rank, which says
            more of the top, for losses that read labels as grades.

    Returns:
        float32, shape (documents,).

    Raises:
        ValueError: if the ranks make no sense; the message says what was got.

    Example:
        >>> labels_of_ranks(torch.tensor([2, 10, 5, 5]))
        tensor([3., 0., 1., 1.])
        >>> labels_of_ranks(torch.tensor([2, 10, 5, 5]), "reciprocal")
        tensor([0.5000, 0.1000, 0.2000, 0.2000])
    """
    check_choice("labels", labels, ORDER_LABELS)
    RANKS.check(ranks, torch.ones_like(ranks, dtype=torch.bool))
    if labels == "reciprocal":
        return 1 / ranks.float()
    return (ranks[None, :] > ranks[:, None]).sum(dim=1).float()


class ListwiseKLLoss(RankingLoss):
    """Listwise distillation from a teacher's scores: `listwise_kl`.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        temperature: of both distributions, > 0.
        ignore_label: see `RankingLoss`; NaN leaves out what the teacher did not score.
        activation_fn: see `RankingLoss`.
        mini_batch_size: see `RankingLoss`.

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Example:
        ::

            loss = ListwiseKLLoss(model, temperature=2.0)
    """

    kind = TEACHER_SCORES
    citation: ClassVar[str] = """
@inproceedings{ren2021rocketqav2,
    title={RocketQAv2: A Joint Training Method for Dense Passage Retrieval and Passage Re-ranking},
    author={Ren, Ruiyang and Qu, Yingqi and Liu, Jing and Zhao, Wayne Xin and She, Qiaoqiao and Wu, Hua and Wang, Haifeng and Wen, Ji-Rong},
    booktitle={Proceedings of the 2021 Conference on Empirical Methods in Natural Language Processing},
    year={2021},
    eprint={2110.07367},
    archivePrefix={arXiv}
}
"""  # noqa: E501

    def __init__(
        self,
        model: nn.Module,
        temperature: float = 1.0,
        *,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_positive("temperature", temperature)
        self.temperature = temperature

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `listwise_kl`."""
        return listwise_kl(scores, labels, mask, temperature=self.temperature)


class SupervisedDistillationLoss(RankingLoss):
    """A supervised loss and a distillation loss on the same scores: distilled + weight * supervised.

    Each document has two labels: its relevance grade and the teacher's score, ``[[1, 9.2], [0, 3.1], ...]``. It is
    scored once.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        supervised: the loss on the grades, any `RankingLoss`. Default: `ListwiseSoftmaxLoss`.
        distilled: the loss on the teacher's scores, any `RankingLoss`. Default: `ListwiseKLLoss`.
        weight: of the supervised loss, > 0.
        ignore_label: see `RankingLoss`; one of the two labels is enough. Those of the two losses are not looked at.
        activation_fn: applied before the activations of the two losses. Default: none.
        mini_batch_size: see `RankingLoss`.

    Inputs:
        +----------------------------------------+--------------------------------+-------------------------------+
        | Inputs                                 | Labels                         | Number of Model Output Labels |
        +========================================+================================+===============================+
        | (query, [doc1, doc2, ..., docN])       | [[grade1, score1], ...]        | 1                             |
        +----------------------------------------+--------------------------------+-------------------------------+

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Source: the sum of both is the loss of the reranker in RocketQAv2, arXiv 2110.07367.

    Example:
        ::

            loss = SupervisedDistillationLoss(model, supervised=LocalizedContrastiveLoss(model), weight=0.5)
    """

    kind = TEACHER_SCORES
    label_columns = 2
    citation = ListwiseKLLoss.citation

    def __init__(
        self,
        model: nn.Module,
        supervised: RankingLoss | None = None,
        distilled: RankingLoss | None = None,
        weight: float = 1.0,
        *,
        ignore_label: float | None = None,
        activation_fn: nn.Module | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model, ignore_label=ignore_label, activation_fn=activation_fn, mini_batch_size=mini_batch_size
        )
        check_positive("weight", weight)
        self.supervised = ListwiseSoftmaxLoss(model) if supervised is None else supervised
        self.distilled = ListwiseKLLoss(model) if distilled is None else distilled
        self.weight = weight
        for name in ("supervised", "distilled"):
            loss = getattr(self, name)
            if not isinstance(loss, RankingLoss) or loss.label_columns != 1:
                raise ValueError(
                    f"{name} must be a loss of one label, such as ListwiseSoftmaxLoss(model); got {_shown(loss)}"
                )
            if loss.model is not model:
                raise ValueError(f"{name} was built on another model: build it on the one to be trained")

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The weighted sum of both; labels have shape (lists, documents, 2)."""
        grades, teacher = labels.unbind(dim=-1)
        return self.distilled.of_logits(scores, teacher, mask) + self.weight * self.supervised.of_logits(
            scores, grades, mask
        )


class TeacherOrderLoss(nn.Module):
    """Any listwise loss on a teacher's order, without scores: the labels are ranks, 1 is the best.

    It turns ranks into labels, `labels_of_ranks`, and hands them to the loss. Rank-DistiLLM takes `RankNetLoss` (the
    default) or `ADRMSELoss` of sentence-transformers, on the order of a language model. They look at the order alone.
    For losses that read labels as grades, such as `LambdaLoss`, use ``labels="reciprocal"``: with "order" their gains
    would double from place to place. Labels that are higher for better documents already, such as 1 / rank, need none
    of this: give them to the loss itself.

    Args:
        model: the CrossEncoder to be trained, with one output label.
        loss: a loss of lists with one label a document, built on the same model. Default: `RankNetLoss`.
        labels: "order" or "reciprocal"; see `labels_of_ranks`.
        ignore_label: documents with this rank are left out; NaN leaves out what the teacher did not rank.

    Inputs:
        +----------------------------------------+--------------------------------+-------------------------------+
        | Inputs                                 | Labels                         | Number of Model Output Labels |
        +========================================+================================+===============================+
        | (query, [doc1, doc2, ..., docN])       | [rank1, rank2, ..., rankN]     | 1                             |
        +----------------------------------------+--------------------------------+-------------------------------+

    Raises:
        ValueError: if an argument is out of its range; the message says what was got.

    Source: Rank-DistiLLM, Schlatt et al. 2025, arXiv 2405.07920.

    Example:
        ::

            loss = TeacherOrderLoss(model, ADRMSELoss(model))
    """

    kind = RANKS
    data_format: ClassVar[str] = "lists"
    label_columns = 1
    by_position = False
    citation: ClassVar[str] = """
@inproceedings{schlatt2025rankdistillm,
    title={Rank-DistiLLM: Closing the Effectiveness Gap Between Cross-Encoders and LLMs for Passage Re-ranking},
    author={Schlatt, Ferdinand and Fröbe, Maik and Scells, Harrisen and Zhuang, Shengyao and Koopman, Bevan and Zuccon, Guido and Stein, Benno and Potthast, Martin and Hagen, Matthias},
    booktitle={Advances in Information Retrieval (ECIR 2025)},
    year={2025},
    doi={10.1007/978-3-031-88714-7_31},
}
"""  # noqa: E501

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None = None,
        labels: OrderLabels = "order",
        *,
        ignore_label: float | None = None,
    ) -> None:
        super().__init__()
        check_model(type(self).__name__, model)
        check_ignore_label(ignore_label)
        check_choice("labels", labels, ORDER_LABELS)
        loss = RankNetLoss(model) if loss is None else loss
        if not isinstance(loss, nn.Module) or getattr(loss, "label_columns", 1) != 1:
            raise ValueError(f"loss must be a loss of lists such as RankNetLoss(model); got {_shown(loss)}")
        if getattr(loss, "model", None) is not model:
            raise ValueError(f"{type(loss).__name__} was built on another model: build it on the one to be trained")
        self.model = model
        self.loss = loss
        self.labels: OrderLabels = labels
        self.ignore_label = ignore_label

    def forward(
        self,
        inputs: list[list[Any]],
        labels: list[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            inputs: queries and lists of documents.
            labels: for each query the ranks of its documents, 1 is the best.
            prompt: handed to the loss.
            task: handed to the loss.

        Returns:
            What the loss returns.

        Raises:
            ValueError: if the columns or ranks do not fit, or a list has fewer than two documents.
        """
        lists = read_lists(type(self).__name__, inputs, labels, ignore_label=self.ignore_label, by_position=False)
        RANKS.check(lists.labels, lists.mask)
        texts = iter(text for _, text in lists.pairs)
        docs = [list(islice(texts, count)) for count in lists.mask.sum(dim=1).tolist()]
        order = [
            labels_of_ranks(ranks[there], self.labels).to(self.model.device)
            for ranks, there in zip(lists.labels, lists.mask, strict=True)
        ]
        return self.loss([inputs[0], docs], order, prompt=prompt, task=task)  # type: ignore[no-any-return]

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this loss. It asks the loss inside in turn."""
        return {"loss": self.loss, "labels": self.labels, "ignore_label": self.ignore_label}


def _shown(loss: object) -> str:
    return f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
