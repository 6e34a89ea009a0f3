"""A stand-in for an Ollama daemon on loopback: it checks digests, keeps blobs and models, and misbehaves on request.

After Ollama's API documentation and its answers as server/routes.go and server/create.go give them.
"""

from __future__ import annotations

import hashlib
import json
import re
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

ANSWER = 'Paris is the "model":"capital" of France.'
OTHERS = "llama3:latest"


class Call(NamedTuple):
    """One request as it came; ``body`` is the decoded JSON, or the number of bytes of a file."""

    method: str
    path: str
    body: Any


class FakeOllama:
    """The daemon. It starts with a model of the user's own that is loaded.

    ``create_error`` and ``load_error``: answer so with 500. ``load_s``: seconds that loading takes; a client that goes
    away meanwhile ends it. ``breaks_off``: end the connection in the midst of a stream. ``pause_s``: before each
    answer. ``corrupts``: take a file for damaged.
    """

    def __init__(self) -> None:
        self.version: object = "0.11.4"
        self.create_error = self.load_error = ""
        self.load_s = self.pause_s = 0.0
        self.breaks_off = self.corrupts = False
        self.blobs: dict[str, int] = {}
        self.models: dict[str, dict[str, Any]] = {OTHERS: {}}
        self.running: dict[str, dict[str, Any]] = {OTHERS: {"keep_alive": 300, "size": 1}}
        self.calls: list[Call] = []
        self.gone = 0

        daemon = self

        class Bound(_Handler):
            fake = daemon

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def paths(self, path: str) -> list[Any]:
        """The bodies of all requests for ``path``, in order."""
        return [c.body for c in self.calls if c.path == path]

    def own(self) -> list[str]:
        """Models that advisor made."""
        return [m for m in self.models if m.startswith("advisor-")]

    def close(self) -> None:
        """End, as a daemon that was stopped."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeOllama:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOllama
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _send(self, status: int, body: dict[str, Any] | None = None) -> None:
        raw = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _note(self, body: Any = None) -> None:
        self.fake.calls.append(Call(self.command, self.path, body))

    def _client_is_gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0.02)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _given_up(self) -> bool:
        """Take the time of a load; whether the client is gone before its end, so that nobody waits for it."""
        until = time.monotonic() + self.fake.load_s
        while not self._client_is_gone():
            if time.monotonic() >= until:
                return False
        self.fake.gone += 1
        return True

    def do_HEAD(self) -> None:
        self._note()
        there = self.path.removeprefix("/api/blobs/") in self.fake.blobs
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        if self.path == "/api/version":
            return self._send(200, {"version": self.fake.version})
        if self.path == "/api/ps":
            return self._send(200, {"models": [{"name": n, "model": n, **m} for n, m in self.fake.running.items()]})
        return self._send(404, {"error": "not found"})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if self.path.startswith("/api/blobs/"):
            return self._blob(length)
        body = json.loads(self.rfile.read(length))
        self._note(body)
        time.sleep(self.fake.pause_s)
        if self.path == "/api/create":
            return self._create(body)
        if "model" in body and body["model"] not in self.fake.models:
            return self._send(404, {"error": f"model '{body['model']}' not found"})
        if self.path == "/api/show":
            return self._send(200, {"details": {"format": "gguf"}})
        if self.path == "/api/generate":
            return self._generate(body)
        if self.path in ("/v1/chat/completions", "/v1/completions"):
            return self._complete(body)
        return self._send(404, {"error": "not found"})

    def _blob(self, length: int) -> None:
        found, left = hashlib.sha256(), length
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            found.update(piece)
            left -= len(piece)
        self._note(length)
        wanted = self.path.removeprefix("/api/blobs/")
        if self.fake.corrupts or wanted != f"sha256:{found.hexdigest()}":
            return self._send(400, {"error": "digest mismatch, expected " + wanted})
        self.fake.blobs[wanted] = length
        return self._send(201)

    def _create(self, body: dict[str, Any]) -> None:
        if self.fake.create_error:
            return self._send(500, {"error": self.fake.create_error})
        if re.fullmatch(r"[a-z0-9._-]+:[a-zA-Z0-9._-]+", body["model"]) is None:
            return self._send(400, {"error": "invalid model name"})
        if not body.get("files"):
            return self._send(400, {"error": "neither 'from' or 'files' was specified"})
        for name, blob in body["files"].items():
            if blob not in self.fake.blobs or not name.endswith(".gguf") or "/" in name:
                return self._send(400, {"error": "supplied file was not in GGUF format"})
        self.fake.models[body["model"]] = body
        return self._send(200, {"status": "success"})

    def _generate(self, body: dict[str, Any]) -> None:
        name = body["model"]
        if body["keep_alive"] == 0:
            self.fake.running.pop(name, None)
            return self._send(200, {"model": name, "response": "", "done": True, "done_reason": "unload"})
        if self.fake.load_error:
            return self._send(500, {"error": self.fake.load_error})
        if self._given_up():
            return None
        self._load(name, body["keep_alive"])
        return self._send(200, {"model": name, "response": "", "done": True, "done_reason": "load"})

    def _load(self, name: str, keep_alive: int) -> None:
        blobs = self.fake.models[name].get("files", {}).values()
        size = sum(self.fake.blobs[b] for b in blobs) + (1 << 20)
        self.fake.running[name] = {"size": size, "size_vram": 0, "keep_alive": keep_alive}

    def _complete(self, body: dict[str, Any]) -> None:
        if body["model"] not in self.fake.running:
            self._load(body["model"], 300)
        chat = self.path == "/v1/chat/completions"
        head = {"id": "c-1", "object": "chat.completion" if chat else "text_completion", "model": body["model"]}
        usage = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
        if not body.get("stream"):
            if self._given_up():
                return None
            inner = {"message": {"role": "assistant", "content": ANSWER}} if chat else {"text": ANSWER}
            return self._send(
                200, {**head, "choices": [{"index": 0, "finish_reason": "stop", **inner}], "usage": usage}
            )
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in ANSWER.split():
            inner = {"delta": {"content": word + " "}} if chat else {"text": word + " "}
            self._chunk({**head, "choices": [{"index": 0, **inner}]})
            time.sleep(0.005)
            if self.fake.breaks_off:
                self.close_connection = True
                return None
        if (body.get("stream_options") or {}).get("include_usage"):
            self._chunk({**head, "choices": [], "usage": usage})
        self._raw(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _chunk(self, event: dict[str, Any]) -> None:
        self._raw(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")

    def _raw(self, raw: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        self.wfile.flush()
