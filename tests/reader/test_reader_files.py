"""Questions from files and tables: what is found, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from optional_libraries import datasets

from cmp_rerank.reader.files import read_questions, read_table
from cmp_rerank.reader.locate import find_answers
from cmp_rerank.reader.measures import check_gold
from cmp_rerank.reader.records import GoldAnswer, Question
from cmp_rerank.reader.retrieved import from_run

CONTEXT = "Honey is made by bees. Bears like it."


def squad(*qas: dict[str, Any], context: Any = CONTEXT, **more: Any) -> dict[str, Any]:
    return {"data": [{"title": "Honey", "paragraphs": [{"context": context, "qas": list(qas)}]}], **more}


def qa(name: str = "q1", text: Any = "bees", start: Any = 17, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "Who?", "answers": [{"text": text, "answer_start": start}], **more}


def hotpot(**changes: Any) -> dict[str, Any]:
    return {
        "_id": "h1",
        "question": "Who likes what bees make?",
        "answer": "bears",
        "supporting_facts": [["Bees", 1], ["Bears", 0]],
        "context": [
            ["Bees", ["Bees fly.", " Bees make honey.", " Not bears."]],
            ["Rain", ["It rains on bears."]],
            ["Bears", ["Bears like honey; forbears do not, bears do.", " They are big."]],
        ],
    } | changes


def write(folder: Path, content: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_squad_1(tmp_path: Path) -> None:
    path = write(tmp_path, squad(qa(), qa("q2", "Bears ", 20), version="1.1"))
    questions = read_questions(path)
    assert questions.format == "squad"
    assert questions[0].passages == (CONTEXT,)
    assert questions[0].titles == ("Honey",)
    assert questions[0].answers == (GoldAnswer("bees", 0, 17),)
    assert questions[1].answers == (GoldAnswer("Bears", 0, 23),)  # moved by 3
    assert questions.counts["offsets repaired"] == 1
    assert questions.notes() == ["offsets repaired: 1"]
    assert list(read_questions(path, "squad")) == list(questions)


def test_squad_2(tmp_path: Path) -> None:
    impossible = {"id": "q2", "question": "Why?", "is_impossible": True, "answers": [], "plausible_answers": []}
    questions = read_questions(write(tmp_path, squad(qa(is_impossible=False), impossible, version="v2.0")))
    assert questions.format == "squad2"
    assert [question.kind for question in questions] == ["span", "none"]
    assert questions.counts["without an answer"] == 1


def test_squad_without_is_impossible(tmp_path: Path) -> None:
    """An empty list of answers is no answer, as transformers' scripts take it; without a list it is not known."""
    unknown = {"id": "q3", "question": "Why?"}
    said = {"id": "q4", "question": "Why?", "answers": [], "is_impossible": False}
    empty = {"id": "q2", "question": "Why?", "answers": []}
    questions = read_questions(write(tmp_path, squad(qa(), empty, unknown)))
    assert [question.kind for question in questions] == ["span", "none", "span"]
    assert questions.format == "squad"
    assert questions.counts["without an answer"] == 1
    check_gold(questions[:2])
    with pytest.raises(ValueError, match="question 'q3' has no gold answer"):
        check_gold(questions)
    assert [question.kind for question in read_questions(write(tmp_path, squad(said)))] == ["span"]


def test_squad_with_numbers_as_ids_and_nothing_as_title(tmp_path: Path) -> None:
    content = squad(qa(name=5, is_impossible=None))
    content["data"][0]["title"] = None
    (question,) = questions = read_questions(write(tmp_path, content))
    assert (question.id, question.titles, question.kind, questions.format) == ("5", (), "span", "squad")


def test_packed_and_plain_files_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file.json.gz"
    path.write_bytes(gzip.compress(json.dumps(squad(qa())).encode()))
    assert list(read_questions(path)) == list(read_questions(write(tmp_path, squad(qa()))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (squad(qa(text="wasps")), "file.json: question 'q1': the answer 'wasps' must be at 17"),
        (squad(qa(start="17")), "file.json, question 'q1': 'answer_start' must be int; got '17'"),
        (squad(qa(start=True)), "'answer_start' must be int; got True"),
        (squad(qa(text=None)), "file.json, question 'q1': 'text' must be str; got None"),
        (squad(qa(answers=[None])), "question 'q1': a record must be an object with 'text'; got None"),
        (squad(qa() | {"answers": ["bees"]}), "question 'q1': a record must be an object with 'text'; got 'bees'"),
        (squad(qa(is_impossible=1)), "question 'q1': 'is_impossible' must be bool; got 1"),
        (squad(qa(name=True)), "question 0: 'id' must be str or int; got True"),
        (squad(qa(name=5), qa(name="5")), "question '5': ids of questions must differ; got '5' twice"),
        (squad(None), r"paragraph 0, question 0: a record must be an object with 'id'; got None"),
        ({"data": [None]}, "article 0: a record must be an object with 'title'; got None"),
        (
            {"data": [{"title": "T", "paragraphs": [5]}]},
            "paragraph 0: a record must be an object with 'context'; got 5",
        ),
        (squad(qa(), qa()), "file.json, question 'q1': ids of questions must differ; got 'q1' twice"),
        (squad({"question": "Who?"}), r"article 0 \('Honey'\), paragraph 0, question 0: 'id' is missing.*'question'"),
        (squad({"id": "q1"}), "question 'q1': 'question' is missing"),
        (squad(qa(), context=" "), "question 'q1'"),
        (squad(qa(), context=None), "paragraph 0: 'context' must be str; got None"),
        ({"data": [{"title": "T"}]}, "article 0: 'paragraphs' is missing"),
        ({"data": []}, "file.json must hold questions; got none"),
        ({"date": []}, "file.json must be SQuAD"),
        ([1, 2], "file.json must be SQuAD"),
        ("{", "file.json, line 1: not JSON"),
    ],
)
def test_wrong_squad(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path, content))


def test_hotpotqa(tmp_path: Path) -> None:
    (question,) = questions = read_questions(write(tmp_path, [hotpot()]))
    assert questions.format == "hotpotqa"
    assert question.passages[0] == "Bees fly. Bees make honey. Not bears."
    assert question.titles == ("Bees", "Rain", "Bears")
    spans = [question.passages[i][start:end] for i, start, end in question.support or ()]
    assert spans == [" Bees make honey.", "Bears like honey; forbears do not, bears do."]
    # In the supporting sentences, as whole words; not in the third sentence of "Bees", nor in "Rain".
    assert question.answers == (GoldAnswer("bears", 2, 35),)
    assert question.texts == ("bears",)
    assert list(read_questions(tmp_path / "file.json", "hotpotqa")) == [question]


def test_hotpotqa_outside_of_the_support(tmp_path: Path) -> None:
    facts = [["Bees", 0], ["Bees", 9], ["Wasps", 0]]
    (question,) = questions = read_questions(write(tmp_path, [hotpot(supporting_facts=facts)]))
    assert question.answers == (GoldAnswer("bears", 0, 31),)  # in the paragraph that holds a fact
    assert questions.counts["support not found"] == 2
    nowhere = read_questions(write(tmp_path, [hotpot(answer="wasps")]))
    assert (nowhere[0].kind, nowhere[0].answers, nowhere[0].texts) == ("span", (), ("wasps",))
    assert nowhere.notes() == ["answers not found: 1"]


def test_hotpotqa_yes_and_no(tmp_path: Path) -> None:
    questions = read_questions(write(tmp_path, [hotpot(answer="yes"), hotpot(_id="h2", answer="no")]))
    assert [(question.kind, question.answers, question.texts) for question in questions] == [
        ("yes", (), ("yes",)),
        ("no", (), ("no",)),
    ]
    assert len(questions[0].support or ()) == 2


def test_hotpotqa_as_columns(tmp_path: Path) -> None:
    entry = hotpot()
    row = {
        "id": entry["_id"],
        "question": entry["question"],
        "answer": entry["answer"],
        "supporting_facts": {"title": ["Bees", "Bears"], "sent_id": [1, 0]},
        "context": {
            "title": [title for title, _ in entry["context"]],
            "sentences": [sentences for _, sentences in entry["context"]],
        },
    }
    assert list(read_table([row])) == list(read_questions(write(tmp_path, [entry])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": [["Bees", "text"]]}, r"file.json, question 'h1': a paragraph must be \[title"),
        ({"context": ["Bees"]}, "question 'h1': 'context' must be a list of"),
        ({"context": [["Bees", []]], "supporting_facts": []}, "file.json: question 'h1': the context is empty"),
        ({"answer": 7}, "question 'h1': 'answer' must be str; got 7"),
        ({"supporting_facts": [["Bees", "1"]]}, r"question 'h1': a supporting fact must be .* got \['Bees', '1'\]"),
        (
            {"supporting_facts": {"title": ["Bees"], "sent_id": []}},
            "'supporting_facts' must be of one length; got 1 of 'title' and 0 of 'sent_id'",
        ),
        ({"_id": None}, "record 0: '_id' must be str or int; got None"),
        ({"context": [["Bees", [None]]]}, r"question 'h1': a paragraph must be \[title"),
        ({"context": None}, "question 'h1': 'context' must be list or dict; got None"),
        ({"context": {"title": ["Bees"], "sentences": None}}, "question 'h1': 'sentences' must be list; got None"),
    ],
)
def test_wrong_hotpotqa(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path, [hotpot(**changes)]))


@pytest.mark.parametrize("odd", [5, None, "h2", ["h2"]])
def test_wrong_hotpotqa_record(tmp_path: Path, odd: Any) -> None:
    with pytest.raises(ValueError, match=r"record 1: a record must be an object with 'id'; got"):
        read_questions(write(tmp_path, [hotpot(), odd]))


def test_hotpotqa_without_answers_and_support(tmp_path: Path) -> None:
    (question,) = read_questions(write(tmp_path, [hotpot(_id=7, answer=None, supporting_facts=None)]))
    assert (question.id, question.texts, question.support, question.kind) == ("7", (), None, "span")


def test_tables(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "1", "context": CONTEXT, "answers": {"text": ["bees"], "answer_start": [17]}},
        {"id": "2", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
        {"id": "3", "passages": ["Rain.", CONTEXT], "answers": [{"text": "it", "answer_start": 34, "passage": 1}]},
        {"id": "4", "passages": ["Bees do.", CONTEXT], "answers": ["bees", "wasps"], "support": [[1, 0, 22]]},
        {"id": "5", "context": CONTEXT},
        {"id": "6", "context": CONTEXT, "answers": "wasps"},
        # Misleading answers of questions without one.
        {"id": "7", "context": CONTEXT, "answers": {"text": ["bees"], "answer_start": [17]}, "is_impossible": True},
        {"id": "8", "context": CONTEXT, "answers": ["bees"], "is_impossible": True},
        {"id": "9", "context": CONTEXT, "answers": ["", " "]},
        {"id": "10", "context": CONTEXT, "answers": {"text": [""], "answer_start": [0]}},
        {"id": "11", "context": CONTEXT, "answers": [], "is_impossible": False},
        {"id": "12", "context": CONTEXT, "answers": ["bees"], "kind": "none"},
    ]
    rows = [{"question": "Who?", **row} for row in rows]
    questions = read_table(rows)
    kinds = ["span", "none", "span", "span", "span", "span", "none", "none", "none", "none", "span", "none"]
    assert [question.kind for question in questions] == kinds
    assert [(question.answers, question.texts) for question in questions[6:11]] == [((), ())] * 5
    # Said to be of kind none, with a gold answer: these passages do not hold it, as with retrieved ones.
    assert (questions[11].answers, questions[11].texts) == ((), ("bees",))
    assert questions[0].answers == (GoldAnswer("bees", 0, 17),)
    assert questions[2].answers == (GoldAnswer("it", 1, 34),)
    assert questions[3].answers == (GoldAnswer("bees", 1, 17),)  # whole words in this case come first
    assert questions[3].texts == ("bees", "wasps")
    assert questions[3].support == ((1, 0, 22),)
    assert questions[4].texts == ()
    assert questions[5].texts == ("wasps",)
    assert dict(questions.counts) == {"offsets repaired": 0, "without an answer": 6, "answers not found": 1}
    path = write(tmp_path, "\n".join(json.dumps(row) for row in rows), "file.jsonl")
    assert list(read_questions(path)) == list(questions)
    assert list(read_questions(write(tmp_path, rows))) == list(questions)


@pytest.mark.parametrize(("name", "between"), [("file.csv", ","), ("file.tsv", "\t"), ("file.csv.gz", ",")])
def test_a_table_of_text_cells(tmp_path: Path, name: str, between: str) -> None:
    path = tmp_path / name
    rows = [
        ["id", "question", "context", "answers"],
        ["7", "Who?", CONTEXT, "bees"],
        ["8", "When, then?", "Rain.", ""],
    ]
    with (gzip.open if name.endswith(".gz") else open)(path, "wt", newline="") as file:
        csv.writer(file, delimiter=between).writerows(rows)
    first, second = read_questions(path)
    assert (first.id, first.answers) == ("7", (GoldAnswer("bees", 0, 17),))
    assert (second.question, second.kind) == ("When, then?", "none")
    with pytest.raises(ValueError, match="squad must be a JSON file; got a table"):
        read_questions(path, "squad")


def test_none_is_missing_in_tables() -> None:
    """As `datasets` fills a column that some records lack."""
    columns = ("passages", "titles", "title", "support", "kind", "is_impossible", "answers")
    row = {"id": "1", "question": "Who?", "context": CONTEXT}
    for answers in (["bees"], {"text": ["bees"], "answer_start": [17]}, [{"text": "bees", "answer_start": 17}]):
        plain = row | {"answers": answers}
        filled = dict.fromkeys(columns) | plain
        if not isinstance(answers, list):
            filled["answers"] = answers | {"passage": None}
        elif isinstance(answers[0], dict):
            filled["answers"] = [answers[0] | {"passage": None}]
        assert list(read_table([filled])) == list(read_table([plain]))
    (several,) = read_table([dict.fromkeys(columns) | row | {"context": None, "passages": ["Rain.", "Bees."]}])
    assert several.passages == ("Rain.", "Bees.")
    (texts,) = read_table([row | {"answers": {"text": ["bees"], "answer_start": None}}])
    assert texts.answers == (GoldAnswer("bees", 0, 17),)


def test_tables_of_datasets(tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "question": "Who?", "context": CONTEXT, "title": "Honey", "answers": answers}
        for i, answers in enumerate([{"text": ["bees"], "answer_start": [17]}, {"text": [], "answer_start": []}])
    ]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "file.parquet")
    table.save_to_disk(tmp_path / "table")
    for found in (read_table(table), read_questions(tmp_path / "file.parquet"), read_questions(tmp_path / "table")):
        assert list(found) == list(read_table(rows))
    with pytest.raises(ValueError, match="squad must be a JSON file; got a table"):
        read_questions(tmp_path / "table", "squad")
    with pytest.raises(ValueError, match="'xml'"):
        read_questions(tmp_path / "table", "xml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "table, record 0: 'id' must be str or int; got None"),
        ({"context": ""}, "question '1': the context is empty"),
        ({"id": True}, "table, record 0: 'id' must be str or int; got True"),
        ({"passages": ["a", 1]}, r"record 0 \(id '1'\): 'passages' must be a list of texts; got 1 in it"),
        ({"context": ["a", None]}, r"record 0 \(id '1'\): 'context' must be a list of texts; got None in it"),
        ({"titles": [None]}, "'titles' must be a list of texts; got None in it"),
        ({"titles": "Honey"}, "'titles' must be list or tuple; got 'Honey'"),
        ({"answers": {"text": [None]}}, "'text' must be a list of texts; got None in it"),
        ({"answers": {"text": [1947], "answer_start": [0]}}, "'text' must be a list of texts; got 1947 in it"),
        ({"answers": {"text": None}}, "'text' must be list or tuple; got None"),
        ({"answers": {"text": ["bees"], "answer_start": [None]}}, "'answer_start' must be int; got None"),
        ({"answers": {"text": ["bees"], "answer_start": 17}}, "'answer_start' must be list or tuple; got 17"),
        ({"answers": {"text": ["bees"], "answer_start": [17], "passage": 0}}, "'passage' must be list or tuple"),
        ({"answers": [1947]}, "a record must be an object with 'text'; got 1947"),
        ({"answers": ["bees", None]}, "a record must be an object with 'text'; got 'bees'"),
        ({"answers": [{"text": None, "answer_start": 0}]}, "'text' must be str; got None"),
        ({"is_impossible": "no"}, "'is_impossible' must be bool; got 'no'"),
        ({"is_impossible": True, "kind": "span"}, "a question without an answer must be of kind 'none'; got 'span'"),
        ({"kind": 5}, "'kind' must be str; got 5"),
        ({"support": [[0, 1.9, 5.5]]}, "'support' must be a list"),
        ({"answers": {"text": ["bees"], "answer_start": []}}, "got 1 texts, 0 starts and 1 passages"),
        ({"answers": 7}, "'answers' must be texts or records"),
        ({"answers": [{"text": "bees"}]}, "'answer_start' is missing"),
        ({"answers": [{"text": "bees", "answer_start": 0}]}, "must be at 0"),
        ({"support": [1, 2]}, "'support' must be a list"),
        ({"support": 3}, "'support' must be list or tuple; got 3"),
        ({"support": [[0, 5, 999]]}, "question '1': support from 5 to 999"),
        ({"kind": "maybe"}, "question '1': kind must be"),
    ],
)
def test_wrong_tables(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table([{"id": "1", "question": "Who?", "context": CONTEXT} | changes])


def test_whole_words_come_before_any_case_and_parts() -> None:
    passages = ["in 1947", "in 47 and 4 and 4"]
    assert find_answers(["4"], passages) == (GoldAnswer("4", 1, 10), GoldAnswer("4", 1, 16))
    assert find_answers(["7"], passages) == (GoldAnswer("7", 0, 6), GoldAnswer("7", 1, 4))  # only within words
    assert find_answers(["New York", "New York City"], ["New York City"]) == (GoldAnswer("New York City", 0, 0),)
    assert find_answers(["C++ (a"], ["c++ (a language)"]) == (GoldAnswer("c++ (a", 0, 0),)
    assert find_answers([" "], passages) == ()


def test_the_support_comes_first() -> None:
    passages = ("We like bears. Forbears too.", "Bears sleep.", "Sixbears.")
    # In the sentence, although in another case; then in its passage; only then elsewhere.
    assert find_answers(["Bears"], passages, [(0, 0, 14)]) == (GoldAnswer("bears", 0, 8),)
    assert find_answers(["Bears"], passages, [(0, 15, 28)]) == (GoldAnswer("bears", 0, 8),)
    assert find_answers(["Bears"], passages, [(2, 0, 9)]) == (GoldAnswer("Bears", 1, 0),)
    assert find_answers(["bears"], passages, [(2, 0, 9)]) == (GoldAnswer("bears", 2, 3),)
    assert find_answers(["bears"], passages, [(0, 15, 28)]) == (GoldAnswer("bears", 0, 18),)
    # Where words are not told apart by spaces.
    assert find_answers(["北京"], ("我在北京住。", "他问:北京。"), [(0, 0, 6)]) == (GoldAnswer("北京", 0, 2),)
    assert find_answers(["Bears"], passages) == (GoldAnswer("Bears", 1, 0),)


def test_a_letter_and_its_mark_are_not_cut_apart() -> None:
    assert find_answers(["cafe"], ["cafe\u0301 is closed", "cafe"]) == (GoldAnswer("cafe", 1, 0),)
    assert find_answers(["cafe\u0301"], ["cafe", "a cafe\u0301 is"]) == (GoldAnswer("cafe\u0301", 1, 2),)
    assert find_answers(["bear"], ["e\u0301bear", "bear"]) == (GoldAnswer("bear", 1, 0),)
    assert find_answers(["cafe"], ["cafe\u0301"]) == (GoldAnswer("cafe", 0, 0),)  # as a part of a word


def test_from_run() -> None:
    queries = {"q1": "Who?", "q2": "What?", "q3": "Why?"}
    corpus = {"d1": "Rain.", "d2": "Bees do.", "d3": "Bears like bees."}
    run = {"q1": {"d1": 0.5, "d2": 0.4, "d3": 0.9}, "q2": {"d1": 1.0}}
    questions = from_run(queries, run, corpus, k=2, answers={"q1": ["bees"], "q2": ["bees"]})
    assert [question.id for question in questions] == ["q1", "q2"]
    assert questions[0].titles == ("d3", "d1")
    assert questions[0].answers == (GoldAnswer("bees", 0, 11),)
    assert (questions[1].kind, questions[1].texts) == ("none", ("bees",))
    assert questions.notes() == ["queries without passages: 1", "answers not found: 1"]
    again = from_run(queries, run, corpus, k=2, gold=questions)
    assert again[0].answers == questions[0].answers
    said = [
        Question("q1", "Are they?", ("-",), kind="yes"), Question("q2", "Is it?", ("-",), kind="no"),
    ]  # fmt: skip
    yes, no = from_run(queries, run, {**corpus, "d1": "No rain, yes."}, k=2, gold=said)
    assert [(q.kind, q.answers, q.texts) for q in (yes, no)] == [("yes", (), ("yes",)), ("no", (), ("no",))]
    with pytest.raises(ValueError, match=r"needs a text; got none for 2 of 3 \('d3', 'd2'\)"):
        from_run(queries, run, {"d1": "Rain."})
    with pytest.raises(ValueError, match="k must be a whole number, 1 or more; got 0"):
        from_run(queries, run, corpus, k=0)
    with pytest.raises(ValueError, match="no id in common; got 1 queries"):
        from_run({"q9": "Who?"}, run, corpus)


def test_a_query_whose_passages_are_empty_is_left_out() -> None:
    queries = {"q1": "Who?", "q2": "What?", "q3": "Why?", "q4": "When?"}
    corpus = {"d1": "Bees do.", "d2": "", "d3": " \n"}
    run = {"q1": {"d1": 1.0, "d2": 2.0}, "q2": {"d2": 1.0, "d3": 2.0}, "q3": {"d1": 1.0, "d2": 2.0}}
    questions = from_run(queries, run, corpus, answers={"q2": ["bees"]})
    assert {question.id: question.titles for question in questions} == {"q1": ("d2", "d1"), "q3": ("d2", "d1")}
    assert questions.notes() == ["queries without passages: 1", "queries whose passages are empty: 1"]
    with pytest.raises(ValueError, match="documents to be read need text; got 2 that are all empty"):
        from_run({"q2": "What?"}, run, corpus)


def test_real_files(shared_data: Path) -> None:
    train = read_questions(shared_data / "squad" / "train.json")
    assert len(train) == 11_877
    assert train.counts["offsets repaired"] == 0
    assert all(question.passages[0][a.start : a.end] == a.text for question in train for a in question.answers)
    dev = read_questions(shared_data / "hotpotqa" / "dev.json")
    assert len(dev) == 100
    assert all(question.support for question in dev)
    spans = [question for question in dev if question.kind == "span"]
    assert len(spans) == 95
    assert all(question.answers for question in spans)
