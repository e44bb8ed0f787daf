"""Folders of MS MARCO and TREC, ir_datasets, and datasets of the hub, in the layouts that are found in practice."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from optional_libraries import datasets

from cmp_rerank.collections import TextStore, files, load
from cmp_rerank.collections.sgml import sgml_documents, sgml_topics
from cmp_rerank.ir import write_top1000

CORPUS = {"10": "Pandas eat bamboo.", "11": "Bees make honey.", "12": "Rain fell."}
QUERIES = {"1": "what do pandas eat", "2": "what do bees make", "3": "did it rain"}


def tsv(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


@pytest.fixture
def marco(tmp_path: Path) -> Path:
    folder = tmp_path / "marco"
    tsv(folder / "collection.tsv", CORPUS.items())
    tsv(folder / "queries.train.tsv", [("1", QUERIES["1"])])
    tsv(folder / "qrels.train.tsv", [("1", 0, "10", 1)])
    tsv(folder / "queries.dev.small.tsv", [("2", QUERIES["2"]), ("3", QUERIES["3"])])
    tsv(folder / "qrels.dev.small.tsv", [("2", 0, "11", 1)])
    tsv(folder / "queries.eval.tsv", [("4", "nobody knows")])
    tsv(folder / "qidpidtriples.train.tsv", [("1", "10", "12"), ("1", "10", "11"), ("1", "10", "12")])
    write_top1000(folder / "top1000.dev.tsv", QUERIES, CORPUS, {"2": {"12": 2.0, "11": 1.0}})
    (folder / "runs").mkdir()
    tsv(folder / "runs" / "bm25.tsv", [("2", "11", 1), ("2", "10", 2)])
    return folder


def test_a_folder_of_ms_marco(marco: Path) -> None:
    collection = load(f"msmarco:{marco}")
    assert collection.splits == ("train", "dev.small", "eval")
    assert collection.corpus == CORPUS
    assert collection.queries("dev.small") == {"2": QUERIES["2"]}, "those that are judged"
    assert collection.qrels("dev.small") == {"2": {"11": 1}}
    assert collection.queries("eval") == {"4": "nobody knows"}
    assert collection.qrels("eval") == {}
    assert set(collection.runs) == {"bm25", "top1000.dev", "qidpidtriples.train"}
    assert collection.run("top1000.dev") == {"2": {"12": -1.0, "11": -2.0}}
    assert collection.run("bm25") == {"2": {"11": -1.0, "10": -2.0}}
    assert collection.run("qidpidtriples.train") == {"1": {"12": -1.0, "11": -2.0}}


def test_qrels_take_their_queries_from_all_files_where_none_has_their_name(marco: Path) -> None:
    tsv(marco / "2019qrels-pass.txt", [("2", 0, "11", 3), ("1", 0, "10", 2)])
    collection = load(f"msmarco:{marco}")
    assert collection.splits == ("train", "dev.small", "2019-pass", "eval")
    assert collection.queries("2019-pass") == {"2": QUERIES["2"], "1": QUERIES["1"]}


def test_candidates_alone_are_a_collection(marco: Path) -> None:
    for path in marco.iterdir():
        if path.is_file() and path.name not in ("top1000.dev.tsv", "qrels.dev.small.tsv"):
            path.unlink()
    collection = load(f"msmarco:{marco}")
    assert collection.corpus == {"12": CORPUS["12"], "11": CORPUS["11"]}
    assert collection.queries("dev.small") == {"2": QUERIES["2"]}
    assert collection.qrels("dev.small") == {"2": {"11": 1}}


def test_triples_of_texts_are_a_table(tmp_path: Path) -> None:
    tsv(tmp_path / "triples.train.small.tsv", [(QUERIES["1"], CORPUS["10"], CORPUS["12"])])
    collection = load(f"msmarco:{tmp_path}")
    assert collection.splits == ("train.small",)
    assert collection.qrels("train.small") == {"q1": {"d1": 1}}
    assert collection.run("negatives") == {"q1": {"d2": -1.0}}
    tsv(tmp_path / "triples.train.small.tsv", [(QUERIES["1"], CORPUS["10"])])
    with pytest.raises(ValueError, match=r"line 1: 2 fields in .*; a triple has 3"):
        load(f"msmarco:{tmp_path}")


def test_what_a_folder_of_ms_marco_needs(marco: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no collection\.tsv and no top1000 file in it; a folder in the layout"):
        load(f"msmarco:{tmp_path / 'empty'}")
    for path in [*marco.glob("queries*"), *marco.glob("top1000*")]:
        path.unlink()
    with pytest.raises(ValueError, match="no file of queries in it"):
        load(f"msmarco:{marco}")


def test_a_large_collection_is_a_store(marco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.open_texts, "__kwdefaults__", {**files.open_texts.__kwdefaults__, "large": 0})  # type: ignore[dict-item]
    collection = load(f"msmarco:{marco}", cache_dir=tmp_path / "cache")
    assert isinstance(collection.corpus, TextStore)
    assert collection.corpus == CORPUS
    assert collection.qrels("train") == {"1": {"10": 1}}
    assert collection.documents_of("train") == {"10": CORPUS["10"]}


# --- TREC ----------------------------------------------------------------------------------------------------

DOCUMENTS = b"""<DOC>
<DOCNO> FT911-3 </DOCNO>
<HEADLINE> Pandas &amp; co </HEADLINE>
<TEXT>
<P>Pandas eat
bamboo.</P>
</TEXT>
<TEXT>More.</TEXT>
</DOC>
<doc><docno>LA-1</docno>Caf\xe9 without text tags</doc>
"""
TOPICS = """<top>
<num> Number: 301
<title> International Organized Crime
<desc> Description:
What is it?
</top>

<top>
<num>302</num>
<title>Topic: Poliomyelitis and Post-Polio</title>
</top>
"""


def test_sgml(tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_bytes(DOCUMENTS)
    assert list(sgml_documents(tmp_path / "docs.txt")) == [
        (1, "FT911-3", "Pandas & co Pandas eat bamboo. More."),
        (10, "LA-1", "Café without text tags"),
    ]
    assert next(sgml_documents(tmp_path / "docs.txt", title=False))[2] == "Pandas eat bamboo. More."
    (tmp_path / "topics.txt").write_text(TOPICS)
    assert list(sgml_topics(tmp_path / "topics.txt")) == [
        (1, "301", "International Organized Crime"),
        (8, "302", "Poliomyelitis and Post-Polio"),
    ]
    (tmp_path / "topics.xml").write_text(
        '<topics><topic number="1">\n<query>coronavirus origin</query>\n</topic></topics>'
    )
    assert list(sgml_topics(tmp_path / "topics.xml")) == [(1, "1", "coronavirus origin")]
    for content, message in (
        ("<DOC>\n<TEXT>x</TEXT>\n</DOC>", "line 1: a document needs an id; got <DOC> without <DOCNO>"),
        ("\n<DOC>\n<DOCNO>1</DOCNO>\n", "line 2: <DOC> without </DOC>; is the file whole"),
    ):
        (tmp_path / "docs.txt").write_text(content)
        with pytest.raises(ValueError, match=message):
            list(sgml_documents(tmp_path / "docs.txt"))
    (tmp_path / "topics.txt").write_text("<top>\n<num> 1\n</top>")
    with pytest.raises(ValueError, match="line 1: a topic needs a number and a title"):
        list(sgml_topics(tmp_path / "topics.txt"))


def test_documents_and_topics_of_one_line_of_sgml(tmp_path: Path) -> None:
    (tmp_path / "docs").write_text(
        "<DOC><DOCNO>A</DOCNO><TEXT>alpha</TEXT></DOC> <doc ><DOCNO>B</DOCNO><TEXT>beta</TEXT></doc>\n<DOC>\n"
        "<DOCNO>C</DOCNO>\n\n<TEXT>gamma</TEXT>\n</DOC><DOC>\n<DOCNO>D</DOCNO>\n<TEXT>delta\n</TEXT></DOC>between\n"
        "<DOC><DOCNO>E</DOCNO>\nepsilon</DOC><DOC><DOCNO>F</DOCNO></DOC>\n<DOC-ID>none</DOC-ID>"
    )
    assert list(sgml_documents(tmp_path / "docs")) == [
        (1, "A", "alpha"),
        (1, "B", "beta"),
        (2, "C", "gamma"),
        (6, "D", "delta"),
        (10, "E", "epsilon"),
        (11, "F", ""),
    ]
    (tmp_path / "topics").write_text(
        '<topics><topic number="1"><query>one</query></topic><topic\nnumber="2"><query>two</query></topic>'
        '<topic number="3">\n<query>three</query></topic></topics>'
    )
    assert list(sgml_topics(tmp_path / "topics")) == [(1, "1", "one"), (1, "2", "two"), (2, "3", "three")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<DOC>\n<DOCNO>A</DOCNO>\nx\n<DOC>\n<DOCNO>B</DOCNO>\n</DOC>",
         "line 1: <DOC> without </DOC> before the next one, in line 4"),
        ("<DOC><DOCNO>A</DOCNO></DOC>\n<DOCNO>B</DOCNO>\n</DOC>", "line 3: </DOC> without <DOC>"),
        ("<DOC><DOCNO>A</DOCNO></DOC><DOC>\n", "line 1: <DOC> without </DOC>; is the file whole"),
        ("<DOC><DOCNO>A</DOCNO></DOC>\n<DOC></DOC>", "line 2: a document needs an id"),
    ],
)  # fmt: skip
def test_no_document_of_sgml_is_lost_without_a_word(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "docs").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(sgml_documents(tmp_path / "docs"))


@pytest.mark.parametrize(
    "document", ["<HL>Pandas</HL>\nThey eat.", "<HL>Pandas</HL><TEXT>They eat.</TEXT>",
                 "<TEXT>\n<TITLE>Pandas</TITLE>\nThey eat.</TEXT>"],
)  # fmt: skip
def test_a_title_of_sgml_is_read_once(tmp_path: Path, document: str) -> None:
    (tmp_path / "docs").write_text(f"<DOC><DOCNO>1</DOCNO>{document}</DOC>")
    assert list(sgml_documents(tmp_path / "docs")) == [(1, "1", "Pandas They eat.")]
    assert list(sgml_documents(tmp_path / "docs", title=False)) == [(1, "1", "They eat.")]


def test_a_classic_folder_of_trec(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ft.txt").write_bytes(DOCUMENTS)
    (tmp_path / "docs" / "more.jsonl").write_text('{"id": "J1", "contents": "Bees make honey."}\n')
    (tmp_path / "topics.301-302.txt").write_text(TOPICS)
    (tmp_path / "qrels.robust.txt").write_text("301 0 FT911-3 1\n302 0 J1 2\n302 0 LA-1 0\n")
    (tmp_path / "bm25.run").write_text("301 Q0 LA-1 1 2.5 x\n")
    collection = load(f"trec:{tmp_path}")
    assert collection.splits == ("robust",)
    assert list(collection.corpus) == ["FT911-3", "LA-1", "J1"]
    assert collection.queries("robust")["301"] == "International Organized Crime"
    assert collection.qrels("robust") == {"301": {"FT911-3": 1}, "302": {"J1": 2, "LA-1": 0}}
    assert collection.run("bm25") == {"301": {"LA-1": 2.5}}


def test_a_modern_folder_of_trec(tmp_path: Path) -> None:
    tsv(tmp_path / "collection.tsv", CORPUS.items())
    tsv(tmp_path / "msmarco-test2019-queries.tsv", QUERIES.items())
    tsv(tmp_path / "qrels.txt", [("1", 0, "10", 3)])
    collection = load(f"trec:{tmp_path}")
    assert collection.splits == ("test",)
    assert collection.queries("test") == {"1": QUERIES["1"]}


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("collection.tsv", "no texts of documents in it"),
        ("topics.tsv", "no topics in it"),
        ("qrels.txt", "no qrels in it"),
    ],
)
def test_what_a_folder_of_trec_needs(tmp_path: Path, gone: str, message: str) -> None:
    tsv(tmp_path / "collection.tsv", CORPUS.items())
    tsv(tmp_path / "topics.tsv", QUERIES.items())
    tsv(tmp_path / "qrels.txt", [("1", 0, "10", 3)])
    (tmp_path / gone).unlink()
    with pytest.raises(ValueError, match=message):
        load(f"trec:{tmp_path}")


@pytest.mark.parametrize("name", ["cranfield", "time", "scifact"])
def test_real_collections(shared_data: Path, name: str) -> None:
    one, two = load(f"beir:{shared_data / name}"), load(f"trec:{shared_data / name}")
    assert one.splits == two.splits
    assert one.qrels("test") == two.qrels("test")
    assert one.queries("test") == two.queries("test")
    assert one.corpus == two.corpus


# --- ir_datasets ---------------------------------------------------------------------------------------------


def test_an_object_of_ir_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    tsv(tmp_path / "docs.tsv", CORPUS.items())
    tsv(tmp_path / "queries.tsv", QUERIES.items())
    tsv(tmp_path / "qrels.txt", [("1", 0, "10", 3), ("2", 0, "11", 1)])
    paths = [str(tmp_path / name) for name in ("docs.tsv", "queries.tsv", "qrels.txt")]
    collection = load(ir_datasets.create_dataset(*paths))
    assert dict(collection.corpus) == CORPUS
    assert collection.splits == ("test",)
    assert collection.queries("test") == QUERIES
    assert collection.qrels("test") == {"1": {"10": 3}, "2": {"11": 1}}
    assert collection.documents_of("test") == {"10": CORPUS["10"], "11": CORPUS["11"]}
    with pytest.raises(ValueError, match=r"a collection needs docs, queries and qrels; got .* without qrels"):
        load(ir_datasets.create_dataset(*paths[:2]))


class Judged:
    """What ir_datasets has, made up: scored documents and pairs of documents."""

    def __init__(self, name: str) -> None:
        self.name = name

    def dataset_id(self) -> str:
        return self.name

    def has_qrels(self) -> bool:
        return True

    def docs_iter(self) -> Any:
        return iter([ir_datasets.formats.GenericDoc("d", "text")])

    def queries_iter(self) -> Any:
        return iter([ir_datasets.formats.GenericQuery("q", "who")])

    def qrels_iter(self) -> Any:
        grades = (0, 1, 0)  # as where a topic has three aspects
        return iter([ir_datasets.formats.GenericQrel("q", "d", grade) for grade in grades])

    def scoreddocs_iter(self) -> Any:
        return iter([ir_datasets.formats.GenericScoredDoc("q", "d", 0.5)])

    def docpairs_iter(self) -> Any:
        return iter([ir_datasets.formats.GenericDocPair("q", "d", other) for other in ("e", "f", "e")])

    def docs_count(self) -> None:
        """Not known."""

    def docs_store(self) -> Any:
        return self

    def get_many(self, names: list[str]) -> Any:
        return {document.doc_id: document for document in self.docs_iter() if document.doc_id in names}


def test_runs_and_the_name_of_the_split_come_from_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_datasets, "load", Judged)
    collection = load("ir_datasets:msmarco-passage/dev/small")
    assert collection.name == "msmarco-passage/dev/small"
    assert collection.splits == ("dev",)
    assert collection.qrels("dev") == {"q": {"d": 1}}
    assert collection.run("scoreddocs") == {"q": {"d": 0.5}}
    assert collection.run("docpairs") == {"q": {"e": -1.0, "f": -2.0}}


def test_a_parent_of_ir_datasets_has_its_children_as_splits() -> None:
    """Nothing is downloaded to know that."""
    assert load("ir_datasets:beir/scifact").splits == ("train", "test")
    with pytest.raises(ValueError, match=r"must be one of \d+; got 'beir/scifat'; the nearest are 'beir/scifact'"):
        load("ir_datasets:beir/scifat")


def test_without_ir_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name == "ir_datasets":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"need the extra 'retrieval': pip install 'cmp-rerank\[retrieval\]'"):
        load("ir_datasets:vaswani")


# --- the hub and datasets ------------------------------------------------------------------------------------


def retrieval() -> dict[str, Any]:
    return {
        "corpus": datasets.Dataset.from_dict(
            {"_id": list(CORPUS), "title": ["T", "", ""], "text": list(CORPUS.values())}
        ),
        "queries": datasets.Dataset.from_dict({"_id": list(QUERIES), "text": list(QUERIES.values())}),
        # Integers, as in BEIR's datasets of qrels on the hub.
        "qrels": datasets.Dataset.from_dict({"query-id": [1, 2], "corpus-id": [10, 11], "score": [1.0, 2.0]}),
    }


def check_retrieval(source: Any) -> None:
    collection = load(source)
    assert collection.splits == ("test",)
    assert collection.qrels("test") == {"1": {"10": 1}, "2": {"11": 2}}
    assert collection.queries("test") == {"1": QUERIES["1"], "2": QUERIES["2"]}
    assert dict(collection.corpus) == {**CORPUS, "10": "T " + CORPUS["10"]}
    assert load(source, titles=False).corpus["10"] == CORPUS["10"]


def test_datasets_in_the_layout_of_beir(tmp_path: Path) -> None:
    check_retrieval(datasets.DatasetDict(retrieval()))
    datasets.DatasetDict(retrieval()).save_to_disk(tmp_path / "whole")
    check_retrieval(f"hf:{tmp_path / 'whole'}")
    for name, part in retrieval().items():
        (datasets.DatasetDict({"test": part}) if name == "qrels" else part).save_to_disk(tmp_path / "parts" / name)
    check_retrieval(f"hf:{tmp_path / 'parts'}")


def test_a_folder_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    folder.mkdir()
    configurations = []
    for name, part in retrieval().items():
        part.to_parquet(folder / f"{name}.parquet")
        file = f"{name}.parquet"
        where = "default" if name == "qrels" else name
        configurations.append(f"- config_name: {where}\n  data_files:\n  - split: test\n    path: {file}\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configurations)}---\n")
    check_retrieval(f"hf:{folder}")


def test_datasets_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pairs = datasets.Dataset.from_dict(
        {
            "anchor": [QUERIES["1"]],
            "positive": [CORPUS["10"]],
            "negative_1": [CORPUS["11"]],
            "negative_2": [CORPUS["12"]],
        }
    )
    (tmp_path / "data").mkdir()
    pairs.to_parquet(tmp_path / "data" / "train.parquet")
    for source in (pairs, datasets.DatasetDict({"train": pairs}), f"hf:{tmp_path / 'data'}"):
        collection = load(source)
        assert collection.splits == ("train",)
        assert collection.qrels("train") == {"q1": {"d1": 1}}
        assert collection.run("negatives") == {"q1": {"d2": -1.0, "d3": -2.0}}


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        ([0.7, 1.9, 1.0], "row 1 of the qrels, query '1', document '10': a grade must be an integer; got 0.7"),
        ([1.0, 2.0, 1.0], r"row 3 of the qrels: document '11' is judged twice for query '2' \(2 and 1\)"),
        (["1", "2", "high"], "row 3 of the qrels, query '2', document '11': a grade must be an integer; got b'high'"),
        ([1, None, 1], "row 2 of the qrels, query '2', document '11': a grade must be an integer; got None"),
    ],
)
def test_grades_of_datasets_are_those_of_files(grades: list[Any], message: str) -> None:
    def loaded(scores: list[Any]) -> Any:
        qrels = {"query-id": [1, 2, 2], "corpus-id": [10, 11, 11], "score": scores}
        return load(datasets.DatasetDict({**retrieval(), "qrels": datasets.Dataset.from_dict(qrels)}))

    with pytest.raises(ValueError, match=f"^dataset: {message}"):
        loaded(grades).qrels("test")
    for same in ([1, 0, 0], [1.0, 0.0, 0.0], ["1", "0", "0"]):
        assert loaded(same).qrels("test") == {"1": {"10": 1}, "2": {"11": 0}}


def test_datasets_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset, train, row 1: a table needs a column 'query'"):
        load(datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"]}))
    parts = retrieval()
    with pytest.raises(ValueError, match="dataset: a collection needs qrels; got 'corpus', 'queries'"):
        load(datasets.DatasetDict({name: parts[name] for name in ("corpus", "queries")}))
    parts["qrels"] = datasets.Dataset.from_dict({"q": ["1"], "d": ["10"]})
    with pytest.raises(ValueError, match="qrels need the columns 'query-id' and 'corpus-id'; got q, d"):
        load(datasets.DatasetDict(parts)).qrels("test")
    with pytest.raises(ValueError, match=r"hf:.*no dataset of this name in a folder, in the cache or on the hub"):
        load(f"hf:{tmp_path / 'no'}")
