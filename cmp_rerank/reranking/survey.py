"""A look at all of a run before the first pair is scored: how much there is to do, and whether texts are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cmp_rerank.ir.files import check_id
from cmp_rerank.reranking.groups import Group


class Survey(NamedTuple):
    """How much there is to do.

    Attributes:
        groups: Groups of the whole run.
        pairs: Pairs of one shard.
        digest: Of the ids and scores of the whole run.
    """

    groups: int
    pairs: int
    digest: str


def survey(
    groups: Iterable[Group],
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    shard: int = 0,
    shards: int = 1,
    *,
    columns: bool = False,
) -> Survey:
    """Count groups and pairs, and make sure that each has its text: not after hours of scoring, but before.

    Args:
        groups: All groups of the run.
        queries: Query id -> text.
        corpus: Document id -> text.
        shard: The shard whose pairs are counted.
        shards: How many there are.
        columns: Whether ids must fit into a file of columns.

    Raises:
        ValueError: Texts are missing; with their number and three examples. Or an id does not fit.
    """
    number, pairs, digest = 0, 0, hashlib.blake2b(digest_size=8)
    lost = {"query": dict[str, None](), "document": dict[str, None]()}
    asked = {"query": 0, "document": 0}
    for group in groups:
        number += 1
        digest.update(group.digest([]).encode())
        pairs += len(group.candidates) if group.number % shards == shard else 0
        for what, texts, ids in (
            ("query", queries, group.ranked),
            ("document", corpus, {doc for _, doc in group.candidates}),
        ):
            asked[what] += len(ids)
            for name in ids:
                if name not in texts:
                    lost[what][name] = None
        if columns:
            for query, scores in group.ranked.items():
                check_id("query id", query)
                for doc in scores:
                    check_id("document id", doc)
    for what, names in lost.items():
        if names:
            shown = ", ".join(map(repr, sorted(names)[:3]))
            raise ValueError(
                f"every {what} of the run needs a text; there is no text for {what} {shown}"
                f"{' and others' if len(names) > 3 else ''} ({len(names)} of {asked[what]}); add them, take them out "
                "of the run, or match the ids"
            )
    return Survey(number, pairs, digest.hexdigest())
