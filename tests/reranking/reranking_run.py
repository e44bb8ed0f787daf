"""What test_rerank_run.py runs in processes of their own, which fork from one that has imported everything.

python reranking_run.py CHECKPOINT FOLDER

Reranks FOLDER/first.trec whole, by two processes, and by one that is killed after its first groups and started again.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from sentence_transformers import CrossEncoder

from cmp_rerank.ir import read_corpus, read_queries
from cmp_rerank.reranking import rerank_run


def start(checkpoint: str, folder: Path, name: str, kill: int | None = None, **environment: str) -> int:
    """Rerank in a new process; its exit status is 0 if it has written the output, and 1 if others are to do that.

    With ``kill``, it is killed when so many pairs are done.
    """
    process = os.fork()
    if process:
        return process
    os.environ.update(environment)
    torch.set_num_threads(1)

    def progress(done: int, _: int) -> None:
        if kill is not None and done >= kill:
            os.kill(os.getpid(), signal.SIGKILL)

    written = rerank_run(
        CrossEncoder(checkpoint, device="cpu"),
        read_queries(folder / "queries.jsonl"),
        read_corpus(folder / "corpus.jsonl"),
        folder / "first.trec",
        depth=5,
        out=folder / name,
        pairs_per_group=12,
        tokens_per_batch=200,
        progress=progress,
    )
    os._exit(0 if written else 1)


def status(process: int) -> int:
    """The exit status of a process, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    checkpoint, folder = sys.argv[1], Path(sys.argv[2])
    killed = status(start(checkpoint, folder, "killed.trec", kill=20))
    groups = (folder / "killed.trec.part-0-of-1").read_bytes().count(b"\n") - 1
    found = {"killed": killed, "groups": groups}
    found["resumed"] = status(start(checkpoint, folder, "killed.trec"))
    found["whole"] = status(start(checkpoint, folder, "whole.trec"))
    shards = [start(checkpoint, folder, "two.trec", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    found["shards"] = sum(status(process) for process in shards)
    print(found)
