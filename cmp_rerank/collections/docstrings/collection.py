"""The collection of the demo: queries, documents, judgements and splits; read from and written to BEIR folders."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmp_rerank.ir import read_corpus, read_qrels, read_queries, write_corpus, write_qrels, write_queries

# BEIR calls the validation split "dev".
_BEIR_NAME = {"validation": "dev"}
_SPLIT_NAME = {"dev": "validation"}


@dataclass(frozen=True, repr=False)
class DocstringCollection:
    """Queries, documents and judgements, with the queries divided into splits.

    Args:
        name: of the collection, for messages.
        queries: text by query id.
        documents: text by document id.
        qrels: relevance by document id, by query id.
        splits: query ids by the name of the split, in order.
        metadata: how it was made; must be writable as JSON.

    Raises:
        ValueError: a judgement or a split names an unknown query or document, or two splits share a query.

    Example:
        >>> collection = DocstringCollection("tiny", {"q": "who"}, {"d": "me"}, {"q": {"d": 1}}, {"test": ("q",)})
        >>> collection
        DocstringCollection('tiny': 1 documents, 1 queries; test 1)
        >>> collection.split("test")
        {'q': 'who'}
    """

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    splits: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for query, judged in self.qrels.items():
            if query not in self.queries:
                raise ValueError(f"{self.name}: judged query {query!r} is not among the {len(self.queries)} queries.")
            for document in judged:
                if document not in self.documents:
                    raise ValueError(
                        f"{self.name}: document {document!r}, judged for query {query!r}, is not among the "
                        f"{len(self.documents)} documents."
                    )
        owner: dict[str, str] = {}
        for split, members in self.splits.items():
            for query in members:
                if query not in self.queries:
                    raise ValueError(f"{self.name}: query {query!r} of split {split!r} is not among the queries.")
                if owner.setdefault(query, split) != split:
                    raise ValueError(f"{self.name}: query {query!r} is in the splits {owner[query]!r} and {split!r}.")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(members)}" for name, members in self.splits.items())
        counts = f"{len(self.documents)} documents, {len(self.queries)} queries"
        return f"DocstringCollection({self.name!r}: {counts}; {sizes})"

    def split(self, name: str) -> dict[str, str]:
        """The queries of one split, text by id, in the split's order.

        Raises:
            ValueError: there is no such split.
        """
        return {query: self.queries[query] for query in self._members(name)}

    def qrels_of(self, name: str) -> dict[str, dict[str, int]]:
        """The judgements of one split; the entry of a query without judgements is empty.

        Raises:
            ValueError: there is no such split.
        """
        return {query: dict(self.qrels.get(query, {})) for query in self._members(name)}

    def documents_of(self, name: str) -> dict[str, str]:
        """The documents that are relevant for a query of one split, text by id, in the collection's order.

        Sample training candidates from these, so that no text of another split is seen in training.

        Raises:
            ValueError: there is no such split.
        """
        members = (self.qrels.get(query, {}).items() for query in self._members(name))
        wanted = {document for judged in members for document, grade in judged if grade > 0}
        return {document: text for document, text in self.documents.items() if document in wanted}

    def _members(self, name: str) -> tuple[str, ...]:
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}; it has {', '.join(map(repr, self.splits))}.")
        return self.splits[name]

    def write_beir(self, folder: str | os.PathLike[str]) -> Path:
        """Write a BEIR folder: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``, and ``metadata.json``.

        The folder appears whole or not at all.

        Raises:
            ValueError: ``folder`` exists already.
        """
        folder = Path(folder)
        if folder.exists():
            raise ValueError(f"{folder} exists already: name a new folder or remove it first.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            write_corpus(partial / "corpus.jsonl", self.documents)
            write_queries(partial / "queries.jsonl", self.queries)
            (partial / "qrels").mkdir()
            for split in self.splits:
                write_qrels(partial / "qrels" / f"{_BEIR_NAME.get(split, split)}.tsv", self.qrels_of(split))
            about = {"name": self.name, **self.metadata}
            (partial / "metadata.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            partial.chmod(0o755)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    @classmethod
    def read_beir(cls, folder: str | os.PathLike[str]) -> DocstringCollection:
        """Read a BEIR folder. The title of a document, where it has one, is put before its text.

        Splits are the files of ``qrels/``; ``dev`` becomes ``validation``. A query without a judgement in any file
        belongs to no split.

        Raises:
            ValueError: a file is missing, a line cannot be parsed (with file and line), an id is duplicated, a query
                is in two splits.
        """
        folder = Path(folder)
        documents = read_corpus(folder / "corpus.jsonl")
        queries = read_queries(folder / "queries.jsonl")
        order = ("train", "dev", "test")
        paths = sorted(
            (folder / "qrels").glob("*.tsv"),
            key=lambda path: (order.index(path.stem) if path.stem in order else len(order), path.stem),
        )
        if not paths:
            raise ValueError(f"{folder / 'qrels'} holds no .tsv file: a BEIR folder has one for each split.")
        qrels: dict[str, dict[str, int]] = {}
        splits: dict[str, tuple[str, ...]] = {}
        for path in paths:
            judged = read_qrels(path, empty="allow")
            qrels.update(judged)
            splits[_SPLIT_NAME.get(path.stem, path.stem)] = tuple(judged)
        about = folder / "metadata.json"
        metadata = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
        name = metadata.pop("name", folder.name)
        return cls(name, queries, documents, qrels, splits, metadata)
