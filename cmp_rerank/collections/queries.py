"""A file of queries with what stands beside them: how much each counts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from cmp_rerank.collections.base import Split
from cmp_rerank.ir import Qrels, read_queries
from cmp_rerank.ir.json_text import parse_json
from cmp_rerank.ir.lines import PathLike, malformed, numbered_lines, stem_suffix
from cmp_rerank.ir.texts import ID_FIELDS


@dataclass(frozen=True)
class QueryFile:
    """Query texts by id, and weights by id where the file has them.

    Args:
        texts: Text by query id.
        weights: Weight by query id, of those that have one; empty where no query has.
    """

    texts: Mapping[str, str]
    weights: Mapping[str, float]

    @classmethod
    def read(cls, path: PathLike) -> QueryFile:
        """Read queries as :func:`cmp_rerank.ir.read_queries` does, and the field ``weight`` of JSON lines.

        Raises:
            ValueError: With file and line, for a line that cannot be read and a weight that is no number above 0.
        """
        texts = read_queries(path)
        weights: dict[str, float] = {}
        if stem_suffix(path) != ".tsv":
            for number, line in numbered_lines(path):
                if b'"weight"' in line:
                    record = parse_json(path, line, number)
                    if "weight" in record:
                        name = next(record[key] for key in ID_FIELDS if key in record)
                        weights[str(name)] = _weight(path, number, record["weight"])
        return cls(texts, weights)

    def split(self, qrels: Qrels) -> Split:
        """The judged queries, with their judgments and weights."""
        queries = {query: self.texts[query] for query in qrels if query in self.texts}
        weights = {query: self.weights.get(query, 1.0) for query in queries} if self.weights else None
        return Split(queries, qrels, weights)


def _weight(path: PathLike, number: int, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
        raise malformed(path, number, f"the weight of a query must be a number above 0; got {value!r}; correct it")
    return float(value)  # type: ignore[arg-type]
