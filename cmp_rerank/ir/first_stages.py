"""First stages by name: built, or opened where they were built before."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cmp_rerank.ir.arguments import Progress, check_count, check_run, kind
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.bm25 import ANSERINI, BM25
from cmp_rerank.ir.checkpoints import loading_checkpoint
from cmp_rerank.ir.dense import Dense
from cmp_rerank.ir.files import Run, read_run
from cmp_rerank.ir.id_list import IdList
from cmp_rerank.ir.index_folder import DamagedIndex, check_replaceable, is_index
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.ir.ranking import check_choice, rank
from cmp_rerank.ir.sparse import Sparse
from cmp_rerank.text.suggest import closest

logger = logging.getLogger(__name__)
KINDS = ("bm25", "anserini", "dense", "sparse")


class FirstStage(Protocol):
    """Whatever finds documents for queries: the ones of this package, or one of yours.

    Example:
        >>> class Newest:
        ...     def search(self, queries, depth=100):
        ...         return {query: {"d2": 2.0, "d1": 1.0} for query in queries}
        >>> stage: FirstStage = Newest()
        >>> stage.search({"q1": "who eats"})
        {'q1': {'d2': 2.0, 'd1': 1.0}}
    """

    def search(self, queries: Mapping[str, str], depth: int = 100) -> Run:
        """At most ``depth`` documents with their scores for each query, with an entry for every query."""


class GivenRun:
    """The run of any engine as a first stage.

    Args:
        run: scores by document id, by query id; or the path of a run file.

    Example:
        >>> stage = GivenRun({"q1": {"a": 1.0, "b": 2.0}})
        >>> stage.search({"q1": "a text", "q2": "another"}, depth=1)
        {'q1': {'b': 2.0}, 'q2': {}}
    """

    def __init__(self, run: Run | PathLike) -> None:
        self._run = read_run(run) if isinstance(run, str | os.PathLike) else run
        check_run("run", self._run)

    def search(self, queries: Mapping[str, str], depth: int = 100) -> Run:
        """The best ``depth`` documents that the run has for each query."""
        check_count("depth", depth)
        queries = as_texts("queries", queries)
        return {query: dict(rank(self._run.get(query, {}))[:depth]) for query in queries}


@dataclass(frozen=True)
class FirstStageOptions:
    """Which first stage, and with what arguments; for a configuration.

    Args:
        kind: "bm25"; "anserini", which is BM25 with Anserini's defaults; "dense"; "sparse"; or the path of a run.
        model: of "dense" and "sparse": a folder or a name on the hub.
        options: arguments of :class:`BM25`, :class:`Dense` or :class:`Sparse` by name, such as ``{"k1": 0.9}``.

    Raises:
        ValueError: there is no such first stage or argument, or a model is missing, or has no use.

    Example:
        >>> stage = FirstStageOptions("bm25", options={"k1": 0.9}).build({"d1": "a text", "d2": "another"})
        >>> list(stage.search({"q": "another"})["q"])
        ['d2']
    """

    kind: str = "bm25"
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS and not Path(self.kind).is_file():
            raise ValueError(
                f"a first stage is one of {', '.join(map(repr, KINDS))} or the path of a run; got {self.kind!r}"
                + _guess(self.kind, KINDS)
            )
        _check_options(self.kind, self.model, self.options)

    def build(
        self, corpus: Mapping[str, str] | None, folder: PathLike | None = None, progress: Progress | None = None
    ) -> FirstStage:
        """The first stage; see :func:`first_stage`."""
        return first_stage(self.kind, corpus, model=self.model, folder=folder, progress=progress, **self.options)


def first_stage(
    kind: str | PathLike | Run | FirstStage,
    corpus: Mapping[str, str] | None = None,
    *,
    model: Any = None,
    folder: PathLike | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> FirstStage:
    """A first stage by its name.

    Args:
        kind: "bm25"; "anserini", which is BM25 with Anserini's defaults; "dense"; "sparse"; a run, or the path of
            one; or any object with ``search(queries, depth)``, which is returned as it is.
        corpus: text by document id; may be None where ``folder`` has an index already.
        model: of "dense" and "sparse": the model, its folder, or its name on the hub.
        folder: where the index is; it is built there where there is none yet, and an interrupted dense one is gone on
            with. One that is damaged is built again, with a warning. None: the index is in memory.
        progress: called while the index is built.
        options: arguments of :class:`BM25`, :class:`Dense` or :class:`Sparse`, such as ``k1=0.9`` or ``index="ivf"``.

    Returns:
        The first stage.

    Raises:
        ImportError: the extra ``retrieval`` is not installed.
        ValueError: there is no such first stage or option; the index in the folder is of another kind, of other
            documents, or was built with other options than these (without a corpus only those given count); and what
            the first stage itself refuses.

    Example:
        >>> corpus = {"d1": "Pandas eat bamboo.", "d2": "Bees make honey."}
        >>> list(first_stage("bm25", corpus).search({"q": "who makes honey"}, depth=1)["q"])
        ['d2']
    """
    if callable(getattr(kind, "search", None)) and not isinstance(kind, type):
        _check_options("object", model, options)
        return kind  # type: ignore[return-value]
    if isinstance(kind, Mapping) or (isinstance(kind, str | os.PathLike) and kind not in KINDS):
        _check_options("run", model, options)
        if isinstance(kind, str):
            FirstStageOptions(kind)
        return GivenRun(kind)
    check_choice("a first stage", kind, KINDS)
    name = str(kind)
    _check_options(name, model, options)
    if name == "anserini":
        name, options = "bm25", {**ANSERINI, **options}
    corpus = as_texts("documents", corpus)
    if folder is not None and is_index(folder):
        try:
            opened = _open(name, folder, model, options)
        except DamagedIndex as error:
            if corpus is None:
                raise
            logger.warning("%s; this is done now", error)
            shutil.rmtree(folder)
        else:
            _check_same(opened, corpus, folder, options if corpus is None else {**_defaults(opened), **options})
            return opened
    if corpus is None:
        raise ValueError("a first stage needs documents, or a folder with its index; got neither; give the corpus")
    if name == "dense":
        return Dense(corpus, _loaded(name, model), progress=progress, folder=folder, **options)
    if folder is not None:
        check_replaceable(Path(folder))
    if name == "sparse":
        stage: BM25 | Sparse = Sparse(corpus, _loaded(name, model), progress=progress, **options)
    else:
        scratch = None if folder is None else Path(folder).parent
        stage = BM25(corpus, progress=progress, scratch=scratch, **options)
    if folder is None:
        return stage
    stage.save(folder)
    return _open(name, folder, model, options)


def _open(name: str, folder: PathLike, model: Any, options: Mapping[str, Any]) -> BM25 | Dense | Sparse:
    if name == "bm25":
        return BM25.open(folder)
    size = {key: value for key, value in options.items() if key == "batch_size"}
    return (Dense if name == "dense" else Sparse).open(folder, _loaded(name, model), **size)  # type: ignore[attr-defined]


def _loaded(name: str, model: Any) -> Any:
    """The model, loaded where it is given by its name."""
    if not isinstance(model, str | os.PathLike):
        return model
    import sentence_transformers

    kinds = {"dense": sentence_transformers.SentenceTransformer, "sparse": sentence_transformers.SparseEncoder}
    with loading_checkpoint(model):
        return kinds[name](str(model))


def _check_same(
    stage: BM25 | Dense | Sparse, corpus: Mapping[str, str] | None, folder: PathLike, options: Mapping[str, Any]
) -> None:
    """Refuse an index that is not the one that would be built. Texts that changed under their ids are not noticed."""
    for name, value in options.items():
        # None takes what the model was trained for, which the settings have in its place.
        if (name, value) != ("similarity", None) and stage.settings.get(name, value) != value:
            raise ValueError(
                f"{os.fspath(folder)}: the index was built with {name}={stage.settings[name]!r}; got {value!r}; name "
                f"another folder, delete this one, or set {name} as it was"
            )
    if corpus is not None and not (len(corpus) == len(stage) and stage.ids == IdList.of(corpus)):
        raise ValueError(
            f"{os.fspath(folder)}: the index is of {len(stage):,} documents; got {len(corpus):,} with other ids or "
            "in another order; name another folder, or delete this one"
        )


def _defaults(stage: BM25 | Dense | Sparse) -> dict[str, Any]:
    """What it would be built with where nothing is said."""
    parameters = inspect.signature(type(stage)).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _check_options(kind_: str, model: Any, options: Mapping[str, Any]) -> None:
    """Refuse arguments that the first stage does not have, and a model that is missing or has no use."""
    stage = {"bm25": BM25, "anserini": BM25, "dense": Dense, "sparse": Sparse}.get(kind_)
    own = {"self", "documents", "model", "folder", "scratch", "progress"}
    known = sorted(set(inspect.signature(stage).parameters) - own) if stage else []
    for name in options:
        if name not in known:
            names = f"its options are {', '.join(known)}" if known else "it has no options"
            raise ValueError(
                f"there is no option {name!r} of the first stage {kind_!r}; {names}{_guess(name, known)}"
            )
    if (stage in (Dense, Sparse)) != (model is not None):
        hint = "name a model" if model is None else "leave it out"
        raise ValueError(
            f"a model goes with the first stages 'dense' and 'sparse'; got {kind_!r} and {kind(model)}; {hint}"
        )


def _guess(name: str, known: Sequence[str]) -> str:
    """The name that was probably meant."""
    meant = closest(name, known)
    return "" if meant is None else f"; did you mean {meant!r}?"
