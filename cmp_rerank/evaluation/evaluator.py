"""An evaluator for sentence-transformers' trainers: the whole ranking is evaluated, and a worse model is reported."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch.distributed
from sentence_transformers.base.evaluation import BaseEvaluator

from cmp_rerank.evaluation.compare import compare_evaluations
from cmp_rerank.evaluation.comparison import Contrast
from cmp_rerank.evaluation.evaluate import QrelsLike, evaluate
from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.measures import Measure, parse_measures
from cmp_rerank.evaluation.reranking import rerank
from cmp_rerank.evaluation.result import Evaluation
from cmp_rerank.ir import Progress, Run, rank
from cmp_rerank.ir.arguments import check_count, check_number
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.lines import check_name
from cmp_rerank.reranking.checks import PairScorer, candidates_of, check_inputs, text_of
from cmp_rerank.reranking.result import Counts

logger = logging.getLogger(__name__)


class RunEvaluator(BaseEvaluator):
    """Rerank a first stage with the model and evaluate the result, over all judged queries.

    Baseline and reranked run have the same queries, the same ranking rule and the same denominator; a
    relevant document that the first stage did not find stays not found. Use it as the ``evaluator`` of a
    CrossEncoderTrainer; ``metric_for_best_model=f"eval_{evaluator.primary_metric}"`` together with
    ``load_best_model_at_end=True`` chooses the best checkpoint.

    After each call the evaluator warns (with :mod:`logging`) when the model is significantly worse, in the
    primary measure, than the first stage, or than the model it started from: the one of the first call
    before any training step (``eval_on_start=True``, or call the evaluator yourself before training).

    In a distributed job the trainer calls it on the main process; where every process must take part in the
    forward pass (FSDP), it runs on all of them, and only the main one writes and warns.

    Args:
        queries: Query id -> text.
        corpus: Document id -> text, of the candidates at least.
        qrels: Query id -> document id -> grade. These queries are the denominator.
        run: The first stage: query id -> document id -> score.
        k: How many candidates of each query are reranked; None reranks all.
        measures: Measures to compute, as :func:`cmp_rerank.evaluation.evaluate` takes them; own ones, too.
        primary: Name of the measure that chooses checkpoints and is tested; None takes the first.
        name: Prefix of the metrics, and part of the file names.
        alpha: Level of significance of the warnings.
        batch_size: Passed to ``predict``.
        show_progress_bar: Whether to show a bar with the pairs that are done.
        report: Opens a context for each call; its function is called with the number of pairs that are done and the
            number of all.
        predict_options: More options for ``predict``.
        write_csv: Write a line of means, and the values per query as JSON lines, for each call with an
            ``output_path``.

    Attributes:
        first_stage: Evaluation of the first stage.
        start: Evaluation of the model before training, or None when it was not called then.
        last: Evaluation of the last call, with its values per query.
        last_run: The reranked run of the last call.
        history: (epoch, steps, means) of each call.

    Raises:
        ValueError: No candidate of a judged query, a text is missing, an unknown measure, an argument of another
            shape.

    Example:
        >>> class Length:
        ...     def predict(self, pairs):
        ...         return [len(text) for _, text in pairs]
        >>> evaluator = RunEvaluator(
        ...     {"q": "pandas"}, {"d1": "bamboo", "d2": "honey"}, {"q": {"d1": 1}}, {"q": {"d2": 2.0, "d1": 1.0}},
        ...     measures="RR", name="dev")
        >>> evaluator(Length())
        {'dev_RR': 1.0, 'dev_base_RR': 0.5}
        >>> evaluator.primary_metric
        'dev_RR'
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        qrels: QrelsLike,
        run: Run,
        *,
        k: int | None = 100,
        measures: str | Measure | Iterable[Any] = ("nDCG@10", "MSMARCO-MRR@10"),
        primary: str | None = None,
        name: str = "",
        alpha: float = 0.05,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        report: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
        predict_options: Mapping[str, Any] | None = None,
        write_csv: bool = True,
    ) -> None:
        super().__init__()
        self.measures = parse_measures(measures)
        names = [measure.name for measure in self.measures]
        self.primary = names[0] if primary is None else primary
        if self.primary not in names:
            self.primary = parse_measures([primary])[0].name
        if self.primary not in names:
            raise ValueError(
                f"the primary measure must be one of the measures: {', '.join(names)}; got {self.primary!r}; add it "
                "to the measures, or choose one of them"
            )
        if isinstance(run, Judgments):
            raise ValueError("qrels and run seem to be swapped; got Judgments as the run; qrels come first here")
        queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
        check_inputs(queries, corpus, run, k)
        check_number("alpha", alpha, 0, 1)
        check_count("batch_size", batch_size)
        self.judged = qrels if isinstance(qrels, Judgments) else Judgments(qrels)
        self.candidates = candidates_of(run, self.judged.queries)
        self.k = k
        # Only the texts that are needed, so that a large corpus is not kept alive by the evaluator.
        self.queries, self.corpus = {}, {}
        for query, scores in self.candidates.items():
            self.queries[query] = text_of("query", queries, query)
            for doc, _ in rank(scores)[:k]:
                self.corpus[doc] = text_of("document", corpus, doc)
        self.alpha, self.batch_size, self.show_progress_bar = alpha, batch_size, show_progress_bar
        self.report = report
        self.predict_options = dict(predict_options or {})
        self.write_csv = write_csv
        if name:
            check_name("the name of an evaluator", name)
        self.name = name
        self.primary_metric = f"{name}_{self.primary}" if name else self.primary
        self.first_stage = evaluate(self.candidates, self.judged, self.measures)
        self.start: Evaluation | None = None
        self.last: Evaluation | None = None
        self.last_run: dict[str, dict[str, float]] | None = None
        self.history: list[tuple[float, int, dict[str, float]]] = []
        stem = f"RunEvaluator{'_' + name if name else ''}"
        self.csv_file = f"{stem}_results.csv"
        self.per_query_file = f"{stem}_per_query.jsonl"

    def __call__(
        self, model: PairScorer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Rerank with the model and evaluate.

        Args:
            model: The model, or anything with ``predict(pairs)``.
            output_path: Folder for the CSV and the values per query; None writes nothing.
            epoch: Epoch of the evaluation, -1 outside of training.
            steps: Step of the evaluation, -1 outside of training.

        Returns:
            Each measure, and ``base_`` each measure of the first stage, with the name in front.
        """
        counts = Counts()
        with self.report() as progress:
            self.last_run = rerank(
                model,
                self.queries,
                self.corpus,
                self.candidates,
                k=self.k,
                batch_size=self.batch_size,
                show_progress_bar=self.show_progress_bar,
                progress=progress,
                predict_options=self.predict_options,
                counts=counts,
            )
        if counts.cut and not self.history:  # the texts are the same each time
            logger.warning("%s", counts)
        result = self.last = evaluate(self.last_run, self.judged, self.measures)
        means = result.means
        self.history.append((epoch, steps, means))
        if _is_main_process():
            self._report(result, epoch, steps)
            if output_path is not None and self.write_csv:
                self._write(Path(output_path), result, epoch, steps)
        if len(self.history) == 1 and steps in (-1, 0):
            self.start = result
        base = {f"base_{name}": value for name, value in self.first_stage.means.items()}
        metrics = self.prefix_name_to_metrics({**means, **base}, self.name)
        if hasattr(model, "model_card_data"):
            own = self.prefix_name_to_metrics(means, self.name)
            self.store_metrics_in_model_card_data(model, own, epoch, steps)  # type: ignore[arg-type]
        return metrics

    def contrasts(self) -> list[Contrast]:
        """The last model against the first stage, and against the model it started from, in all measures.

        Returns:
            One entry for each other run and measure; the systems are "first stage", "start" and "model".
        """
        names = [measure.name for measure in self.measures]
        return [c for base in self._bases() for c in self._against(base, names)]

    def _bases(self) -> dict[str, Evaluation]:
        bases = {"first stage": self.first_stage}
        if self.start is not None and self.start is not self.last:
            bases["start"] = self.start
        return bases

    def _against(self, base: str, names: list[str]) -> tuple[Contrast, ...]:
        if self.last is None:
            raise ValueError("there is no evaluation to compare yet; call the evaluator with a model first")
        systems = {base: self._bases()[base], "model": self.last}
        return compare_evaluations(systems, names, baseline=base, alpha=self.alpha, resamples=1000).contrasts

    def _report(self, result: Evaluation, epoch: float, steps: int) -> None:
        where = "" if epoch in (-1, None) else f" at epoch {epoch:.2f}, step {steps}"
        label = f"{self.name}: " if self.name else ""
        for measure, value in result.means.items():
            base = self.first_stage[measure]
            logger.info("%s%s %.4f -> %.4f (first stage -> model%s)", label, measure, base, value, where)
        for system, other in self._bases().items():
            (contrast,) = self._against(system, [self.primary])
            if contrast.verdict == "worse":
                what = "the first stage" if system == "first stage" else "the model that training started from"
                logger.warning(
                    "%sthe model%s is significantly worse than %s: %s %.4f against %.4f (difference %+.4f, 95%% "
                    "interval %+.4f to %+.4f, p = %.3g; %d queries worse, %d better)",
                    *(label, where, what, self.primary, result[self.primary], other[self.primary]),
                    *(contrast.difference, contrast.low, contrast.high, contrast.t_p, contrast.losses, contrast.wins),
                )

    def _write(self, folder: Path, result: Evaluation, epoch: float, steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.csv_file
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["epoch", "steps", *result.measures])
            writer.writerow([epoch, steps, *result.means.values()])
        with (folder / self.per_query_file).open("a", encoding="utf-8") as file:
            json.dump({"epoch": epoch, "steps": steps, "values": result.per_query}, file, ensure_ascii=False)
            file.write("\n")

    def get_config_dict(self) -> dict[str, Any]:
        """What belongs in the model card: number of candidates, measures, numbers of queries and candidates."""
        return {
            "k": self.k,
            "measures": [measure.name for measure in self.measures],
            "primary": self.primary,
            "judged_queries": len(self.judged.queries),
            "queries_with_candidates": len(self.candidates),
        }


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
