"""The server behind transformers, with an engine that needs no torch: requests, streams, key, queue, disconnects."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from advisor.deploy import client
from advisor.deploy.measure import measure
from advisor.errors import AdvisorError
from tests.unit.backends.support import runner

REQUESTS = runner("openai_requests")
SERVER = runner("openai_server")
Token = SERVER.Token
Refused = REQUESTS.Refused


class FakeEngine:
    """One token a word; ``slow`` makes it wait between them until it is closed."""

    context = 1000

    def __init__(self) -> None:
        self.report: dict[str, Any] = {"dtype": "bfloat16", "quantized": 0}
        self.pace = 0.0
        self.asked: list[Any] = []
        self.words = ["Par", "is is the cap", "ital.", " It lies", " on the Seine."]
        self.slow = False
        self.fails: Exception | None = None
        self.closed = threading.Event()

    def tokens(self, ask: Any) -> list[int]:
        text = ask.messages[-1]["content"] if ask.chat else ask.prompt
        return text if isinstance(text, list) else list(range(len(text.split())))

    def generate(self, ids: list[int], ask: Any, max_tokens: int) -> Iterator[Any]:
        self.asked.append((ask, max_tokens))
        try:
            words = self.words * (max_tokens if ask.ignore_eos or self.slow else 1)
            for n, word in enumerate(words[:max_tokens], 1):
                while self.slow and not self.closed.is_set():
                    time.sleep(0.02)
                    yield None
                if self.fails is not None and n == 2:
                    raise self.fails
                time.sleep(self.pace)
                end = "length" if n == max_tokens else "stop" if n == len(words) else None
                yield Token(word, n, end)
        finally:
            self.closed.set()


class Running:
    """A server on a port of its own."""

    def __init__(self, *, keys: tuple[str, ...] = (), waiting: int = 4, loaded: bool = True) -> None:
        self.engine = FakeEngine()
        self.server = SERVER.Server("127.0.0.1", 0, model="m", keys=list(keys), waiting=waiting)
        self.port = self.server.server_port
        self.base = f"http://127.0.0.1:{self.port}/v1"
        if loaded:
            self.server.serve_model(self.engine)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def end(self) -> None:
        self.engine.closed.set()
        self.server.shutdown()
        self.server.server_close()

    def ask(
        self, path: str, body: object = None, *, method: str = "", raw: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} if sent is not None else {}
        named |= {k.replace("_", "-"): v for k, v in headers.items()}
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        c.request(method or ("GET" if sent is None else "POST"), path, body=sent, headers=named)
        reply = c.getresponse()
        read = reply.read()
        c.close()
        return reply.status, json.loads(read) if read else {}


@pytest.fixture
def running() -> Iterator[Running]:
    r = Running()
    yield r
    r.end()


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Which town is it?"}]}
PLAIN = {"model": "m", "prompt": "Which town"}


def test_health_says_when_the_model_is_loaded() -> None:
    r = Running(loaded=False)
    try:
        assert r.ask("/health") == (503, {"status": "loading model"})
        assert r.ask("/v1/models") == (200, {"object": "list", "data": []})
        status, body = r.ask("/v1/chat/completions", CHAT)
        assert (status, body["error"]["code"]) == (503, "loading")
        r.server.serve_model(r.engine)
        assert r.ask("/health") == (200, {"status": "ok"})
        (model,) = r.ask("/v1/models")[1]["data"]
        assert (model["id"], model["max_model_len"], model["loaded"]["dtype"]) == ("m", 1000, "bfloat16")
    finally:
        r.end()


def test_a_chat_is_answered_whole(running: Running) -> None:
    status, reply = running.ask("/v1/chat/completions", {**CHAT, "max_tokens": 50, "temperature": 0, "seed": 3})
    assert status == 200
    (choice,) = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Paris is the capital. It lies on the Seine."}
    assert choice["finish_reason"] == "stop"
    assert reply["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    ask, limit = running.engine.asked[0]
    assert (ask.temperature, ask.seed, ask.top_p, limit) == (0.0, 3, None, 50)


def test_without_a_limit_a_chat_may_fill_the_context_and_a_completion_is_short(running: Running) -> None:
    running.ask("/v1/chat/completions", CHAT)
    running.ask("/v1/completions", PLAIN)
    running.ask("/v1/completions", {**PLAIN, "max_tokens": 5000})
    assert [limit for _, limit in running.engine.asked] == [996, REQUESTS.COMPLETION_TOKENS, 998]


def test_length_and_echo(running: Running) -> None:
    _, reply = running.ask("/v1/completions", {**PLAIN, "max_tokens": 2, "echo": True})
    assert reply["choices"][0]["text"] == "Which townParis is the cap"
    assert reply["choices"][0]["finish_reason"] == "length"


def test_the_products_own_client_reads_answers_and_streams(running: Running) -> None:
    assert client.smoke(running.base, "m").text.startswith("Paris")
    assert client.smoke(running.base, "m", has_chat_template=False).completion_tokens == 5
    parts = client.streamed(running.base, "m", "two words", use_chat=True, max_tokens=7, api_key=None, timeout_s=10.0)
    assert "".join(p.text for p in parts).startswith("Paris is the capital.")
    assert [p.event["choices"][0]["finish_reason"] for p in parts if p.event["choices"]][-1] == "length"
    assert parts[0].event["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1].event["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}
    assert running.engine.asked[-1][0].ignore_eos


def test_the_products_own_measurement_counts_tokens(running: Running) -> None:
    running.engine.pace = 0.01  # so that not all of a stream comes in one read
    found = measure(running.base, "m", prompt_tokens=64, max_tokens=8, repeat=2, timeout_s=20.0)
    assert (found.completion_tokens, found.repeats) == (8, 2)
    assert found.prompt_tokens >= 64
    assert found.decode is not None
    assert found.prefill is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_even_across_tokens(running: Running, stream: bool) -> None:
    body = {**CHAT, "stop": ["capital", "never"], "stream": stream, "stream_options": {"include_usage": True}}
    if stream:
        c = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        lines = c.getresponse().read().decode().split("\n\n")
        c.close()
        assert lines[-2] == "data: [DONE]"
        events = [json.loads(line[6:]) for line in lines[:-2]]
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
        reason, usage = events[-2]["choices"][0]["finish_reason"], events[-1]["usage"]
    else:
        _, reply = running.ask("/v1/chat/completions", body)
        text, reason = reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]
        usage = reply["usage"]
    assert (text, reason, usage["completion_tokens"]) == ("Paris is the ", "stop", 3)
    assert running.engine.closed.is_set()


@pytest.mark.parametrize(
    ("path", "change", "status", "code"),
    [
        ("chat/completions", {"messages": []}, 400, "missing_messages"),
        ("chat/completions", {"messages": "hello"}, 400, "missing_messages"),
        ("chat/completions", {"messages": [{"role": 3, "content": "x"}]}, 400, "invalid_value"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "invalid_value",
        ),
        ("chat/completions", {"model": "other"}, 404, "model_not_found"),
        ("chat/completions", {"max_tokens": 0}, 400, "invalid_value"),
        ("chat/completions", {"max_tokens": True}, 400, "invalid_value"),
        ("chat/completions", {"temperature": "hot"}, 400, "invalid_value"),
        ("chat/completions", {"temperature": -1}, 400, "invalid_value"),
        ("chat/completions", {"top_p": 1.5}, 400, "invalid_value"),
        ("chat/completions", {"stop": ["x"] * 9}, 400, "invalid_value"),
        ("chat/completions", {"stop": [3]}, 400, "invalid_value"),
        ("chat/completions", {"stop": "x" * 300}, 400, "invalid_value"),
        ("chat/completions", {"stream": "yes"}, 400, "invalid_value"),
        ("chat/completions", {"n": 2}, 400, "unsupported"),
        ("chat/completions", {"tools": [{}]}, 400, "unsupported"),
        ("chat/completions", {"logprobs": True}, 400, "unsupported"),
        ("chat/completions", {"presence_penalty": 0.5}, 400, "unsupported"),
        ("chat/completions", {"response_format": {"type": "json_object"}}, 400, "unsupported"),
        ("completions", {"prompt": ["a", "b"]}, 400, "missing_prompt"),
        ("completions", {"prompt": ""}, 400, "empty_prompt"),
        ("completions", {"prompt": "word " * 1000}, 400, "context_length_exceeded"),
        ("embeddings", {}, 404, "not_found"),
    ],
)
def test_requests_that_are_refused(running: Running, path: str, change: dict[str, Any], status: int, code: str) -> None:
    body = {**(CHAT if path.startswith("chat") else PLAIN), **change}
    got, reply = running.ask(f"/v1/{path}", body)
    assert (got, reply["error"]["code"]) == (status, code)
    assert running.engine.asked == []
    assert running.ask("/v1/chat/completions", CHAT)[0] == 200


def test_texts_in_parts_and_token_ids_are_taken(running: Running) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    _, reply = running.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert reply["usage"]["prompt_tokens"] == 2
    _, reply = running.ask("/v1/completions", {"prompt": [[5, 6, 7]], "unknown": {"field": 1}})
    assert reply["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("raw", "headers", "status"),
    [
        (b"{not json", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"[]", {}, 400),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"{}", {"Content_Length": "99999999999"}, 413),
        (b"{}", {"Content_Length": "-1"}, 411),
        (b"{}", {"Host": "evil.example"}, 403),
    ],
)
def test_bodies_and_headers_that_are_refused(
    running: Running, raw: bytes, headers: dict[str, str], status: int
) -> None:
    assert running.ask("/v1/chat/completions", raw=raw, **headers)[0] == status


def test_the_key_is_required_and_compared_whole() -> None:
    r = Running(keys=("first-key", "second-key"))
    try:
        assert r.ask("/health")[0] == 200
        for given_ in (None, "Bearer", "Bearer first", "Bearer first-key-and-more", "Basic first-key", "Bearer \xe9"):
            headers = {} if given_ is None else {"Authorization": given_}
            assert r.ask("/v1/models", **headers)[0] == 401
            assert r.ask("/v1/chat/completions", CHAT, **headers)[0] == 401
        assert r.engine.asked == []
        assert r.ask("/v1/models", Authorization="Bearer second-key")[0] == 200
        # With a key the name by which the server is reached does not matter.
        assert r.ask("/v1/chat/completions", CHAT, Authorization="bearer first-key", Host="llm.example")[0] == 200
        assert client.smoke(r.base, "m", api_key="first-key").text
    finally:
        r.end()


def _open(r: Running, body: dict[str, Any]) -> socket.socket:
    raw = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", r.port), timeout=10)
    s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
    s.sendall(b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
    return s


def _until(what: Any) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request(running: Running, stream: bool) -> None:
    running.engine.slow = True
    s = _open(running, {**CHAT, "stream": stream})
    _until(lambda: running.engine.asked)
    assert not running.engine.closed.is_set()
    s.close()
    assert running.engine.closed.wait(10)
    running.engine.slow = False
    assert running.ask("/v1/chat/completions", CHAT)[0] == 200


def test_more_requests_than_the_line_holds_are_sent_away() -> None:
    r = Running(waiting=1)
    try:
        r.engine.slow = True
        first = _open(r, CHAT)
        _until(lambda: r.engine.asked)
        second = _open(r, CHAT)
        # A request that came before the second would take its place in the line, and wait there.
        _until(lambda: r.server.line._places._value == 0)
        assert r.ask("/v1/chat/completions", {**CHAT, "max_tokens": 1})[0] == 429
        assert r.ask("/health")[0] == 200
        r.engine.slow = False
        assert first.recv(20).startswith(b"HTTP/1.1 200")
        assert second.recv(20).startswith(b"HTTP/1.1 200")
        first.close()
        second.close()
    finally:
        r.end()


def test_a_failing_engine_is_told_and_does_not_end_the_server(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    running.engine.fails = Refused(503, "out_of_memory", "There was not enough memory for this request.")
    status, reply = running.ask("/v1/chat/completions", CHAT)
    assert (status, reply["error"]["code"]) == (503, "out_of_memory")
    with pytest.raises(AdvisorError, match="out_of_memory"):
        client.streamed(running.base, "m", "two words", use_chat=True, max_tokens=7, api_key=None, timeout_s=10.0)
    running.engine.fails = ZeroDivisionError("no")
    status, reply = running.ask("/v1/chat/completions", CHAT)
    assert (status, reply["error"]["code"]) == (500, "bug")
    running.engine.fails = None
    assert running.ask("/v1/chat/completions", CHAT)[0] == 200
    log = capfd.readouterr().err
    assert "503 out_of_memory" in log
    assert "ZeroDivisionError" in log


def test_prompts_and_answers_are_not_logged(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    running.ask("/v1/chat/completions", CHAT)
    log = ""

    def noted() -> bool:  # the line is written after the answer
        nonlocal log
        log += capfd.readouterr().err
        return "POST '/v1/chat/completions' 200 4+5 tokens" in log

    _until(noted)
    assert "town" not in log
    assert "Seine" not in log


def test_a_taken_port_cannot_be_bound(running: Running) -> None:
    with pytest.raises(OSError, match="in use"):
        SERVER.Server("127.0.0.1", running.port, model="m", keys=[])
