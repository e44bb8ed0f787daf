"""PyTerrier: a reranker as transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmp_rerank.integrations.candidates import CandidateReranker, needs

try:
    import pyterrier as pt
except ImportError as error:
    raise needs("pyterrier", "PyTerrier") from error

if TYPE_CHECKING:
    import pandas as pd


class PyTerrierReranker(pt.Transformer):  # type: ignore[misc]
    """Scores the documents of a first stage anew.

    It takes the columns qid, query, docno and the one of the text, and where the guard joins scores, score. Such a
    column is what ``pt.text.get_text`` adds.

    Args:
        model: A checkpoint or a model, see :class:`~cmp_rerank.integrations.candidates.CandidateReranker`.
        text_field: The column of the text.
        mix: Whether scores are joined with those of the first stage, where the guard has chosen so.
        device: Where a checkpoint is loaded; None: a GPU where there is one.

    Example:
        ::

            pipeline = bm25 % 100 >> pt.text.get_text(index, "text") >> PyTerrierReranker("my-run/guard/model")
            pt.Experiment([bm25, pipeline], topics, qrels, ["nDCG@10"], baseline=0)
    """

    def __init__(self, model: Any, text_field: str = "text", *, mix: bool = True, device: str | None = None) -> None:
        super().__init__()
        self.text_field = text_field
        self.reranker = CandidateReranker(model, mix=mix, device=device)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The same rows with new scores and ranks."""
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field])
        parts = [inp.iloc[:0].assign(score=[])]
        for (_, query), rows in inp.groupby(["qid", "query"], sort=False):
            given = rows["score"].tolist() if "score" in rows else None
            ranked = self.reranker.rank(query, rows[self.text_field].tolist(), given)
            places, scores = zip(*ranked, strict=True)
            parts.append(rows.iloc[list(places)].assign(score=list(scores)))
        import pandas as pd

        joined = pd.concat(parts[1:] or parts, ignore_index=True)
        ranked_frame: pd.DataFrame = pt.model.add_ranks(joined.drop(columns="rank", errors="ignore"))
        return ranked_frame
