"""Information retrieval: the one ranking rule, files of runs, qrels and texts, first stages, fusion.

A run is query id -> document id -> score, qrels are query id -> document id -> grade; plain dictionaries.
"""

from cmp_rerank.ir.arguments import Progress
from cmp_rerank.ir.blocks import Block, blocks_of
from cmp_rerank.ir.bm25 import ANSERINI, BM25
from cmp_rerank.ir.dense import Dense
from cmp_rerank.ir.files import Qrels, Run, read_qrels, read_run, write_qrels, write_run
from cmp_rerank.ir.first_stages import FirstStage, FirstStageOptions, GivenRun, first_stage
from cmp_rerank.ir.fusion import combine, fuse
from cmp_rerank.ir.ranking import rank, rank_rows
from cmp_rerank.ir.reading import UngroupedError, stream_run
from cmp_rerank.ir.sparse import Sparse
from cmp_rerank.ir.texts import (
    Samples,
    read_corpus,
    read_queries,
    read_samples,
    read_top1000,
    write_corpus,
    write_queries,
    write_samples,
    write_top1000,
)

__all__ = [
    "ANSERINI",
    "BM25",
    "Block",
    "Dense",
    "FirstStage",
    "FirstStageOptions",
    "GivenRun",
    "Progress",
    "Qrels",
    "Run",
    "Samples",
    "Sparse",
    "UngroupedError",
    "blocks_of",
    "combine",
    "first_stage",
    "fuse",
    "rank",
    "rank_rows",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_samples",
    "read_top1000",
    "stream_run",
    "write_corpus",
    "write_qrels",
    "write_queries",
    "write_run",
    "write_samples",
    "write_top1000",
]
