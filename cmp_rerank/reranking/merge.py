"""From the journals of all shards to one run file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from cmp_rerank.ir.files import write_ranked
from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.settings import differences
from cmp_rerank.reranking.journal import conclusion, groups_of
from cmp_rerank.reranking.result import Scored

logger = logging.getLogger(__name__)


def journal_path(out: PathLike, shard: int, shards: int) -> Path:
    """The journal of a shard: beside the output, named after it.

    >>> str(journal_path("runs/tuned.trec", 0, 2))
    'runs/tuned.trec.part-0-of-2'
    """
    return Path(f"{out}.part-{shard}-of-{shards}")


def merge(out: PathLike, shards: int, tag: str, passages: PathLike | None = None) -> bool:
    """Write the output if the journals of all shards are complete, and take the journals away.

    Those of other settings, another model or another run are of an earlier reranking: they count as not complete.
    Every process calls this when its shard is complete; the last one finds that all are. One process merges at a
    time, and one that comes later finds no journals any more.

    Args:
        out: The run file to write.
        shards: How many shards there are.
        tag: The last column of a TREC run.
        passages: Where passages go, as JSON lines; None: nowhere.

    Returns:
        Whether the output is written, by this process or another one.
    """
    parts = [journal_path(out, shard, shards) for shard in range(shards)]
    with FileLock(f"{out}.lock"):
        if not any(part.exists() for part in parts):
            return Path(out).exists()  # another process has merged them
        if not _belong_together(parts):
            return False
        if passages is not None:
            with replacing(passages) as file:
                for scored in in_order(parts):
                    file.writelines(passage_lines(scored))
        write_ranked(out, (each for scored in in_order(parts) for each in scored.run.items()), tag)
        for part in parts:
            part.unlink()
            Path(f"{part}.lock").unlink(missing_ok=True)
    Path(f"{out}.lock").unlink(missing_ok=True)
    return True


def _belong_together(parts: list[Path]) -> bool:
    """Whether all shards are complete, and of one reranking."""
    ends = [conclusion(part) for part in parts]
    first = ends[0]
    for part, end in zip(parts, ends, strict=True):
        if first is None or end is None:
            return False
        if found := [f"{name} is {new!r}, not {old!r}" for name, old, new in differences(first, end)]:
            logger.warning(
                "%s is of another reranking than %s (%s), so that nothing is merged; start the older one over "
                "(resume=False, --restart)",
                part,
                parts[0].name,
                "; ".join(found),
            )
            return False
    return True


def in_order(parts: list[Path]) -> Iterator[Scored]:
    """The groups of all journals, in the order of the run: shards have taken them in turns."""
    readers = [groups_of(part) for part in parts]
    while True:
        for reader in readers:
            scored = next(reader, None)
            if scored is None:
                return
            yield scored


def passage_lines(scored: Scored) -> Iterator[str]:
    """A line for each scored document, best first: its score, and its passages in their order."""
    for query, scores in scored.run.items():
        told = scored.passages.get(query, {})
        for doc, score in scores.items():
            if doc in told:
                listed = [{"start": start, "end": end, "score": value} for start, end, value in told[doc]]
                record = {"query": query, "document": doc, "score": score, "passages": listed}
                yield json.dumps(record, ensure_ascii=False) + "\n"
