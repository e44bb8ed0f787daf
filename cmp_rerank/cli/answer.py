"""`cmp-rerank answer`: answer questions from given passages, or from the best documents of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cmp_rerank.cli import options


def answer(
    model: Annotated[str, typer.Argument(help="A reader: a folder or a name on the hub.")],
    question: Annotated[str, typer.Option("--question", "-q", help="One question; with --passage or --file.")] = "",
    passage: Annotated[
        list[str] | None, typer.Option("--passage", "-p", help="A passage; may be given several times.")
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="A text file as one passage; '-' is stdin.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="A file of questions with their passages: SQuAD, HotpotQA or a table.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="A file of queries, BEIR JSON lines or TSV; with --run and --corpus.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run, such as that of a reranker, whose best documents are read.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Texts of the run's documents: BEIR JSON lines or TSV.")] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="Documents of the run that are read for each query; default: 5.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Answers that are printed for each question.")] = 3,
    no_answer: Annotated[
        bool | None,
        typer.Option(
            "--no-answer/--always-answer",
            help="Whether 'no answer', an empty text, may be the answer. Default: only with a threshold, from "
            "--threshold or tuned with the reader.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Logits by which an answer must score above 'no answer'; default: that of the reader."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Also write the best answers to this file, in the format of SQuAD."),
        options.NEW_FILE,
    ] = None,
    hotpotqa: Annotated[bool, typer.Option("--hotpotqa", help="Write them in the format of HotpotQA.")] = False,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:0; '': a GPU where there is one.")] = "",
) -> None:
    """Answer questions from passages.

    \b
    Examples:
      cmp-rerank answer reader -q "Who makes honey?" \\
          -p "Rain fell all day." -p "Honey is made by bees."
      cmp-rerank answer reader -q "What is the port?" -f manual.txt --top-k 1
      cmp-rerank answer reader --questions squad/dev.json \\
          --predictions predictions.json
      cmp-rerank answer reader --queries queries.jsonl --run reranked.trec \\
          --corpus corpus.jsonl --k 10

    Prints one JSON object for each question, with its answers, best first.
    Each answer has its text; its score, in logits above "no answer"; its
    probability among the candidates; the number of its passage, and with
    --run the id of the document; and where it begins and ends there, in
    characters. A reader with a tuned threshold may answer "" for "no answer";
    others do so with --no-answer or --threshold.
    """
    if threshold is not None and no_answer is False:
        raise ValueError("--threshold decides when there is no answer; got --always-answer, too; leave one out")
    if hotpotqa and predictions is None:
        raise ValueError("--hotpotqa is a format of --predictions; got no such file; give one by --predictions")
    from cmp_rerank.reader.reader import Reader

    asked = _questions(question, passage, file, questions, queries, run, corpus, k)
    chosen: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
    reader = Reader.from_pretrained(model, device or None, **chosen)
    if no_answer is None:
        no_answer = reader.options.threshold is not None
    from cmp_rerank.reader.prediction_files import one_line, write_hotpotqa, write_squad
    from cmp_rerank.reader.windows import WindowCounts

    counts = WindowCounts()
    found = reader.predict(asked, n_best=max(20, top_k), show_progress_bar=len(asked) > 50, counts=counts)
    top = [reader.top(answers, top_k, no_answer) for answers in found]
    if predictions is not None:
        best = {one.id: spans[0].text if spans else "" for one, spans in zip(asked, top, strict=True)}
        (write_hotpotqa if hotpotqa else write_squad)(predictions, best)
    options.warn(counts.notes())
    for one, spans in zip(asked, top, strict=True):
        names = one.titles if run is not None else ()
        # "No answer", yes and no are in no document.
        rows = [
            span._asdict() | ({"document": names[span.passage]} if names and span.passage >= 0 else {})
            for span in spans
        ]
        typer.echo(one_line({"id": one.id, "question": one.question, "answers": rows}))


def _questions(
    question: str,
    passages: list[str] | None,
    files: list[Path] | None,
    questions: Path | None,
    queries: Path | None,
    run: Path | None,
    corpus: Path | None,
    k: int | None,
) -> Any:
    from cmp_rerank.reader.records import Question

    given = [bool(question), questions is not None, queries is not None]
    if sum(given) != 1:
        names = [
            name for name, is_given in zip(("--question", "--questions", "--queries"), given, strict=True) if is_given
        ]
        raise ValueError(
            "give one of --question (with --passage or --file), --questions, or --queries; got "
            f"{' and '.join(names) or 'none of them'}"
        )
    if queries is None and (run, corpus, k) != (None, None, None):
        raise ValueError(
            "--run, --corpus and --k go with --queries; got other questions, which are not answered from a run"
        )
    if question:
        texts = [*(passages or []), *(_text(path) for path in files or [])]
        if not texts:
            raise ValueError("a --question needs at least one --passage or --file; got none")
        return [Question("0", question, tuple(texts))]
    if passages or files:
        raise ValueError(
            "--passage and --file go with --question; got other questions, which have their own passages"
        )
    if questions is not None:
        from cmp_rerank.reader.files import read_questions

        loaded = read_questions(questions)
    else:
        from cmp_rerank.ir import rank, read_corpus, read_queries, read_run
        from cmp_rerank.reader.retrieved import from_run

        if run is None or corpus is None:
            missing = [name for name, path in (("--run", run), ("--corpus", corpus)) if path is None]
            raise ValueError(f"--queries need a --run and its --corpus; got no {' and no '.join(missing)}")
        k = 5 if k is None else k
        ranked = read_run(run)
        wanted = {doc for scores in ranked.values() for doc, _ in rank(scores)[:k]}
        loaded = from_run(read_queries(queries), ranked, read_corpus(corpus, ids=wanted), k=k)  # type: ignore[arg-type]
    options.warn(loaded.notes())
    return loaded


def _text(path: Path) -> str:
    from cmp_rerank.ir.lines import open_bytes, standard_input

    if str(path) == "-":
        raw = standard_input().read()  # decoded as UTF-8 in every locale
    else:
        with open_bytes(path) as file:
            raw = file.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8; got other bytes ({error.reason}); convert the file") from error
