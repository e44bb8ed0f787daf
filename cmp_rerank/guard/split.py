"""A split of a collection as the guard takes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.ir import Qrels, Run, read_run
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.reranking.checks import candidates_of, check_inputs


@dataclass(frozen=True)
class ReadSplit:
    """A split that is read and checked.

    Attributes:
        queries: Query id -> text.
        judged: The judgments.
        first_stage: Candidates of the judged queries, in the order of the query ids.
    """

    queries: Mapping[str, str]
    judged: Judgments
    first_stage: Run


@dataclass(frozen=True)
class Split:
    """Queries with judgments and the candidates of a first stage.

    Attributes:
        queries: Query id -> text.
        qrels: Query id -> document id -> grade, or the path of a qrels file. These queries are the denominator.
        first_stage: Query id -> document id -> score, or the path of a run file.
    """

    queries: Mapping[str, str]
    qrels: Qrels | str | os.PathLike[str]
    first_stage: Run | str | os.PathLike[str]

    def read(self, corpus: Mapping[str, str]) -> ReadSplit:
        """The split, whatever form it has; the order of queries in it does not matter.

        Args:
            corpus: Document id -> text.

        Returns:
            Judgments and candidates.

        Raises:
            ValueError: An argument of another shape, or no relevant document or no candidate for any judged query.

        Example:
            >>> Split({"q": "bees"}, {"q": {"d": 1}}, {"p": {"d": 0.5}}).read({"d": "honey"})
            Traceback (most recent call last):
            ...
            ValueError: the first stage has no candidate for any judged query; got 1 in the run ...
        """
        run = read_run(self.first_stage) if isinstance(self.first_stage, str | os.PathLike) else self.first_stage
        queries, corpus = as_texts("queries", self.queries), as_texts("corpus", corpus)
        check_inputs(queries, corpus, run, None)
        judged = Judgments(self.qrels)
        if not (judged.grades > 0).any():
            raise ValueError(
                "no judged query has a relevant document, so that all rankings are worth the same; got "
                f"{len(judged.queries):,} with grades of 0 and below; check the judgments"
            )
        return ReadSplit(queries, judged, dict(sorted(candidates_of(run, judged.queries).items())))
