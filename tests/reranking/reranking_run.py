"""What the tests of reranking run in processes of their own: reranks a run file, and may be killed.

python reranking_run.py CHECKPOINT FOLDER OUTPUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from sentence_transformers import CrossEncoder

from cmp_rerank.ir import read_corpus, read_queries
from cmp_rerank.reranking import rerank_run

if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpoint, folder, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    written = rerank_run(
        CrossEncoder(checkpoint, device="cpu"),
        read_queries(folder / "queries.jsonl"),
        read_corpus(folder / "corpus.jsonl"),
        folder / "first.trec",
        depth=5,
        out=output,
        pairs_per_group=12,
        tokens_per_batch=200,
    )
    print("written" if written else "waiting", flush=True)
