"""A real server: uvicorn in a thread or a process of its own, asked over HTTP."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from scipy.special import expit
from sentence_transformers import CrossEncoder
from torch.nn import Identity

pytest.importorskip("fastapi", reason="serving needs the extra 'serve'")
pytest.importorskip("uvicorn", reason="serving needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="serving needs the extra 'serve'")

import httpx2
import uvicorn

from cmp_rerank import LongDocumentReranker
from cmp_rerank.serving import Limits
from cmp_rerank.serving.app import create_app
from cmp_rerank.serving.run import listen, serve

QUERY = "who makes honey"
DOCUMENTS = [*tiny_models.TEXTS, tiny_models.TEXTS[2] * 20, "Bees.", ""]


@contextmanager
def served(model: Any, limits: Limits | None = None) -> Iterator[httpx2.Client]:
    """A client of a server in a thread."""
    app = create_app(model, "tiny", limits=limits)
    listening = listen(port=0)
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> CrossEncoder:
    return CrossEncoder(str(tiny_checkpoint), device="cpu")


@pytest.fixture(scope="module")
def client(model: CrossEncoder) -> Iterator[httpx2.Client]:
    with served(model) as client:
        yield client


def logits(model: Any, documents: list[str], query: str = QUERY) -> np.ndarray:
    return model.predict([(query, document) for document in documents], activation_fn=Identity())


def in_order(results: list[dict[str, Any]], name: str) -> list[float]:
    """Scores in the order of the texts; that of the results is from the best on."""
    scores = [result[name] for result in results]
    assert scores == sorted(scores, reverse=True)
    return [score for _, score in sorted((result["index"], result[name]) for result in results)]


# Scores and forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_form_of_cohere_and_jina(client: httpx2.Client, model: CrossEncoder, path: str) -> None:
    answer = client.post(path, json={"query": QUERY, "documents": DOCUMENTS, "model": "rerank-v3.5"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["model"] == "tiny"
    assert in_order(body["results"], "relevance_score") == pytest.approx(expit(logits(model, DOCUMENTS)), abs=1e-5)
    assert body["usage"]["total_tokens"] > len(DOCUMENTS)
    best = client.post(
        path,
        json={
            "query": QUERY,
            "documents": [{"text": text, "id": 7} for text in DOCUMENTS],
            "top_n": 2,
            "return_documents": True,
        },
    ).json()["results"]
    assert [(one["index"], one["relevance_score"]) for one in best] == [
        (one["index"], pytest.approx(one["relevance_score"])) for one in body["results"][:2]
    ]
    assert [one["document"] for one in best] == [{"text": DOCUMENTS[one["index"]]} for one in best]
    assert "document" not in body["results"][0]


@pytest.mark.parametrize("raw", [False, True])
def test_the_form_of_text_embeddings_inference(client: httpx2.Client, model: CrossEncoder, raw: bool) -> None:
    answer = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "raw_scores": raw})
    wanted = logits(model, DOCUMENTS)
    assert in_order(answer.json(), "score") == pytest.approx(wanted if raw else expit(wanted), abs=1e-5)
    told = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert [one["text"] for one in told] == [DOCUMENTS[one["index"]] for one in told]


def test_equal_scores_keep_their_order(client: httpx2.Client) -> None:
    answer = client.post("/rerank", json={"query": QUERY, "texts": ["Bees."] * 4}).json()
    assert [one["index"] for one in answer] == [0, 1, 2, 3]


def test_long_documents_are_read_whole(model: CrossEncoder) -> None:
    reranker = LongDocumentReranker(model, passage_tokens=20)
    with served(reranker) as client:
        answer = client.post(
            "/rerank", json={"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "truncate": False}
        )
    assert answer.status_code == 200, answer.text
    assert in_order(answer.json(), "score") == pytest.approx(logits(reranker, DOCUMENTS), abs=1e-5)
    assert max(abs(logits(reranker, DOCUMENTS) - logits(model, DOCUMENTS))) > 0.01


def test_requests_at_the_same_time_share_passes_and_keep_their_scores(model: CrossEncoder) -> None:
    requests = [
        (query, [*DOCUMENTS[number % 5 :], f"{query} {number}"])
        for number, query in enumerate([*tiny_models.QUERIES, *tiny_models.TEXTS] * 2)
    ]
    with served(model) as client:

        def ask(request: tuple[str, list[str]]) -> list[float]:
            query, documents = request
            body = {"query": query, "texts": documents, "raw_scores": True}
            return in_order(client.post("/rerank", json=body).json(), "score")

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(ask, requests))
        counted = metrics(client)
    for scores, (query, documents) in zip(found, requests, strict=True):
        assert scores == pytest.approx(logits(model, documents, query), abs=1e-5)
    assert counted["cmp_rerank_pass_pairs_sum"] == sum(len(documents) for _, documents in requests)
    assert counted["cmp_rerank_pass_requests_sum"] > counted["cmp_rerank_pass_requests_count"]
    assert counted['cmp_rerank_requests_total{path="/rerank",status="200"}'] == len(requests)
    assert counted["cmp_rerank_waiting_pairs"] == 0


# Health and metrics ----------------------------------------------------------------------------------------------


def metrics(client: httpx2.Client) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_health(client: httpx2.Client) -> None:
    assert client.get("/health").json() == {"status": "ok", "model": "tiny", "waiting_pairs": 0}


def test_metrics_count(client: httpx2.Client) -> None:
    before = metrics(client)
    client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    client.post("/rerank", json={"query": QUERY})
    client.get("/made-up-by-a-client")
    after = metrics(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more('cmp_rerank_requests_total{path="/rerank",status="200"}') == 1
    assert more('cmp_rerank_requests_total{path="/rerank",status="422"}') == 1
    assert more('cmp_rerank_requests_total{path="other",status="404"}') == 1
    assert more('cmp_rerank_request_seconds_count{path="/rerank"}') == 2
    assert more("cmp_rerank_pass_pairs_sum") == len(DOCUMENTS)
    assert more("cmp_rerank_cut_pairs_total") == 1
    assert more("cmp_rerank_tokens_total") > 0


# What is refused -------------------------------------------------------------------------------------------------

BODIES: list[tuple[Any, int, str]] = [
    ("{", 422, "the body is not JSON, at character 1 ("),
    (
        b'{"query": "q", "texts": ["\xff"]}',
        422,
        "the body is not JSON in UTF-8 ('utf-8' codec can't decode byte 0xff",
    ),
    ("[" * 9_000, 422, "the body is not JSON"),
    ('{"query": "q", "texts": ["a"], "top_n": ' + "9" * 5000 + "}", 422, "the body is not JSON in UTF-8 (Exceeds"),
    ([1], 422, "the body must be a JSON object"),
    ({}, 422, "query: Field required"),
    ({"query": QUERY}, 422, "give either documents or texts; got none of them"),
    ({"query": QUERY, "texts": ["a"], "documents": ["a"]}, 422, "got documents and texts"),
    ({"query": QUERY, "texts": []}, 422, "texts must hold at least one text; got an empty list"),
    ({"query": QUERY, "texts": "a"}, 422, "texts: "),
    ({"query": QUERY, "texts": ["a", 7]}, 422, "texts.1: "),
    ({"query": QUERY, "documents": ["a", 7]}, 422, "documents.1: "),
    (
        {"query": QUERY, "documents": ["a", {"title": "b"}]},
        422,
        "documents: that at index 1 must be a text, or an object with a field 'text'; got {'title': 'b'}",
    ),
    ({"query": QUERY, "documents": ["a"], "top_n": 0}, 422, "top_n: "),
    ({"query": QUERY, "documents": ["a", "\ud800"]}, 422, "documents: text must be Unicode; got '\\ud800' alone"),
    ({"query": "\udfff", "documents": ["a"]}, 422, "query: text must be Unicode"),
    ({"query": " ", "texts": ["a"]}, 422, "query must hold a word; got ' '"),
    ({"query": QUERY, "texts": DOCUMENTS, "truncate": False}, 413, "text 6 does not (1 of 9)"),
    ({"query": QUERY, "texts": ["a"] * 21}, 413, "at most 20 texts; got 21"),
    ({"query": "q" * 101, "texts": ["a"]}, 413, "query may have at most 100 characters; got 101"),
    ({"query": QUERY, "texts": ["a", "b" * 1801]}, 413, "texts.1 may have at most 1800 characters; got 1801"),
    ({"query": QUERY, "texts": ["b" * 1700] * 6}, 413, "the body must have at most 10000 bytes; got 102"),
]


@pytest.fixture(scope="module")
def strict(model: CrossEncoder) -> Iterator[httpx2.Client]:
    with served(model, Limits(20, 100, 1800, 10_000)) as client:
        yield client


@pytest.mark.parametrize(("body", "status", "message"), BODIES, ids=[message[:30] for _, _, message in BODIES])
def test_what_is_refused(strict: httpx2.Client, body: Any, status: int, message: str) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = strict.post("/rerank", content=content, headers={"Content-Type": "application/json"})
    told = answer.json()
    assert (answer.status_code, told["error_type"]) == (status, "Validation")
    assert message in told["error"]
    assert "\n" not in told["error"]
    assert told["message"] == told["error"]
    assert strict.post("/rerank", json={"query": QUERY, "texts": ["a"]}).status_code == 200


def test_a_body_in_pieces_without_its_size(strict: httpx2.Client) -> None:
    def pieces(number: int) -> Iterator[bytes]:
        yield b'{"query": "q", "texts": ["'
        yield from [b"a"] * number
        yield b'"]}'

    headers = {"Content-Type": "application/json"}
    assert strict.post("/rerank", content=pieces(1000), headers=headers).status_code == 200
    assert strict.post("/rerank", content=pieces(20_000), headers=headers).status_code == 413


def test_other_methods_and_paths(client: httpx2.Client) -> None:
    for answer, status in ((client.get("/rerank"), 405), (client.get("/nowhere"), 404)):
        assert (answer.status_code, answer.json()["error_type"]) == (status, "Request")
    assert client.get("/rerank").headers["Allow"] == "POST"
    answer = client.post("/rerank", content=json.dumps({"query": QUERY, "texts": ["a"]}))
    assert (answer.status_code, "Content-Type" in answer.json()["error"]) == (422, True)


# Load, failures and the end --------------------------------------------------------------------------------------


class Gated(CrossEncoder):
    """A model whose passes wait for a signal."""

    gate: threading.Event
    entered: threading.Event

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(20)
        return super().forward(*args, **kwargs)


@pytest.fixture
def gated(tiny_checkpoint: Path) -> Iterator[Gated]:
    model = Gated(str(tiny_checkpoint), device="cpu")
    model.gate, model.entered = threading.Event(), threading.Event()
    model.gate.set()
    yield model
    model.gate.set()


def waits(client: httpx2.Client, pairs: int) -> None:
    while client.get("/health").json()["waiting_pairs"] != pairs:
        time.sleep(0.005)


def test_too_much_waits(gated: Gated) -> None:
    with served(gated, Limits(waiting_pairs=5)) as client, ThreadPoolExecutor(2) as pool:
        gated.gate.clear()
        # More than may wait, but alone.
        first = pool.submit(client.post, "/rerank", json={"query": QUERY, "texts": ["a"] * 7})
        waits(client, 7)
        refused = client.post("/rerank", json={"query": QUERY, "texts": ["a"]})
        gated.gate.set()
        assert first.result().status_code == 200
        assert client.post("/rerank", json={"query": QUERY, "texts": ["a"]}).status_code == 200
    assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert "at most 5 pairs may wait; got 1, and 7 wait already" in refused.json()["error"]


def test_pairs_of_a_client_that_has_gone_are_not_scored(gated: Gated) -> None:
    with served(gated) as client:
        gated.gate.clear()
        gated.entered.clear()
        long = " ".join(["honey"] * 120)
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/rerank", json={"query": QUERY, "texts": [long] * 100}, timeout=0.3)
        assert gated.entered.wait(10)
        waits(client, 0)
        gated.gate.set()
        assert client.post("/rerank", json={"query": QUERY, "texts": ["a"]}).status_code == 200
        assert metrics(client)["cmp_rerank_pass_pairs_sum"] < 20


def test_a_model_that_gives_nan_is_an_error(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(model) as client:
        right = type(model).forward

        def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
            features = right(self, *args, **kwargs)
            return {**features, "scores": features["scores"] * float("nan")}

        monkeypatch.setattr(type(model), "forward", wrong)
        answer = client.post("/rerank", json={"query": QUERY, "texts": ["a", "b"]})
        assert (answer.status_code, answer.json()["error_type"]) == (500, "Backend")
        assert "finite numbers; got [nan" in answer.json()["error"]
        monkeypatch.undo()
        assert client.post("/rerank", json={"query": QUERY, "texts": ["a"]}).status_code == 200


def test_a_model_of_several_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one score for each pair"):
        create_app(tiny_models.cross_encoder(tmp_path, num_labels=3))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_response_does_not_wait_for_its_head_to_be_acknowledged(host: str) -> None:
    """Nagle's algorithm held the second part of each response for 40 ms."""
    try:
        listening = listen(host, port=0)
    except OSError:
        pytest.skip("the machine has no such address")
    with listening, socket.create_connection(listening.getsockname()[:2]):
        taken, _ = listening.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_taken() -> None:
    with listen(port=0) as taken, pytest.raises(OSError, match=r"cannot listen at 127\.0\.0\.1:.*give another"):
        listen(port=taken.getsockname()[1])


def test_a_server_in_a_thread_ends_with_it(model: CrossEncoder) -> None:
    """`serve` touches signals in the main thread only."""
    thread = threading.Thread(target=serve, args=(create_app(model), listen(port=0)), daemon=True)
    thread.start()
    time.sleep(0.2)
    assert thread.is_alive()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def texts_that_take_a_while() -> list[str]:
    return [text * 10 for text in tiny_models.TEXTS] * 8


def ask_and_stop(url: str, number: int, process: int) -> list[int]:
    """How many results four requests get, whose scores are not known when the server is told to stop."""
    body = {"query": QUERY, "texts": texts_that_take_a_while()}
    with httpx2.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(client.post, "/rerank", json=body) for _ in range(4)]
        while httpx2.get(f"{url}/health").json()["waiting_pairs"] < 4 * len(body["texts"]):
            assert not any(answer.done() for answer in answers)
        os.kill(process, number)
        time.sleep(0.05)
        assert not all(answer.done() for answer in answers)
        found = [len(answer.result().json()) for answer in answers]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish(model: CrossEncoder, number: signal.Signals) -> None:
    listening = listen(port=0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    before = signal.getsignal(number)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(ask_and_stop, url, number, os.getpid())
        serve(create_app(model), listening)  # in the main thread, which gets the signals
        assert found.result() == [len(texts_that_take_a_while())] * 4
    assert signal.getsignal(number) is before


def test_what_takes_too_long_after_a_signal_is_given_up(gated: Gated) -> None:
    listening = listen(port=0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def ask() -> httpx2.Response:
        gated.gate.clear()
        gated.entered.clear()
        threading.Thread(target=end).start()
        return httpx2.post(f"{url}/rerank", json={"query": QUERY, "texts": ["a"] * 3}, timeout=20)

    def end() -> None:
        assert gated.entered.wait(20)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        gated.gate.set()  # a pass that has begun is always finished

    app = create_app(gated)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        serve(app, listening, stop_seconds=1)
        assert asked.result().status_code == 503
        assert "no time left" in asked.result().json()["error"]


@pytest.mark.slow
def test_the_command_stops_with_status_0(tiny_checkpoint: Path) -> None:
    command = [sys.executable, "-m", "cmp_rerank", "serve", str(tiny_checkpoint), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "is served at" in line)
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        assert ask_and_stop(found[0], signal.SIGTERM, process.pid) == [len(texts_that_take_a_while())] * 4
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_an_application_that_is_gone_keeps_no_model(tiny_checkpoint: Path) -> None:
    loaded = CrossEncoder(str(tiny_checkpoint), device="cpu")
    seen = weakref.ref(loaded)
    with served(loaded) as client:
        assert client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS}).status_code == 200
    del loaded
    gc.collect()
    assert seen() is None
