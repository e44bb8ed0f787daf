"""Retrieved passages as the context of questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cmp_rerank.collections.matching import ids_without, nothing_in_common, without_texts
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import rank
from cmp_rerank.reader.checks import check_whole
from cmp_rerank.reader.files import Questions
from cmp_rerank.reader.locate import find_answers
from cmp_rerank.reader.records import GoldAnswer, Question


def from_run(
    queries: Mapping[str, str],
    run: Run,
    corpus: Mapping[str, str],
    *,
    k: int = 5,
    answers: Mapping[str, Sequence[str]] | None = None,
    gold: Iterable[Question] | None = None,
) -> Questions:
    """Take the best k documents of a run as the context of each query: retrieve, rerank and read.

    Args:
        queries: Query id -> text.
        run: Query id -> document id -> score, ranked by `cmp_rerank.ir.rank`.
        corpus: Document id -> text.
        k: How many documents of each query are read; a query without any, or whose documents are all empty texts, is
            left out, and counted.
        answers: Query id -> gold answers, which are looked for in the passages. Where none of them is found, the
            question is of kind "none"; it keeps its gold texts for the measures.
        gold: Questions with these ids, instead of `answers`; those of kind "yes" and "no" keep their kind.

    Returns:
        The questions; titles are the ids of the documents.

    Raises:
        ValueError: `k` is out of its range; no query has a document in the run; documents are not in the corpus,
            with their number and examples; or all that are read are empty texts.

    Example:
        >>> questions = from_run({"q": "Who makes honey?"}, {"q": {"d1": 0.2, "d2": 0.9}},
        ...                      {"d1": "Rain.", "d2": "Bees do."}, k=1, answers={"q": ["bees"]})
        >>> questions[0].passages, questions[0].answers
        (('Bees do.',), (GoldAnswer(text='Bees', passage=0, start=0),))
    """
    check_whole("k", k, 1)
    queries, corpus = as_texts("queries", queries), as_texts("corpus", corpus)
    read = {query: [doc for doc, _ in rank(run.get(query, {}))[:k]] for query in queries}
    documents = dict.fromkeys(doc for docs in read.values() for doc in docs)
    if not documents:
        raise nothing_in_common("queries", list(queries), "queries of the run", list(run))
    if missing := ids_without(corpus, documents):
        raise without_texts("documents to be read", list(missing), len(documents))
    if not any(corpus[doc].strip() for doc in documents):
        raise ValueError(
            f"documents to be read need text; got {len(documents)} that are all empty; check the texts of the corpus"
        )
    known = {question.id: question for question in gold or ()}
    counts = {"queries without passages": 0, "queries whose passages are empty": 0, "answers not found": 0}
    questions = []
    for query, question in queries.items():
        docs = read[query]
        if not docs:
            counts["queries without passages"] += 1
            continue
        passages = tuple(corpus[doc] for doc in docs)
        if not any(passage.strip() for passage in passages):
            counts["queries whose passages are empty"] += 1
            continue
        texts = known[query].texts if query in known else tuple((answers or {}).get(query, ()))
        kind = known[query].kind if query in known else "span"
        found: tuple[GoldAnswer, ...] = ()
        if kind == "span" and texts:
            found = find_answers(texts, passages)
            if not found:
                counts["answers not found"] += 1
                kind = "none"
        questions.append(Question(query, question, passages, found, texts=texts, titles=tuple(docs), kind=kind))
    return Questions(questions, "run", counts)
