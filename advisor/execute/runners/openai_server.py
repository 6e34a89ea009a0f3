"""An OpenAI-compatible server over one model that answers one request at a time; standard library only.

``GET /health`` (503 until the model is loaded, then 200 and ``{"status": "ok"}``), ``GET /v1/models``,
``POST /v1/chat/completions`` and ``POST /v1/completions``, streamed or not. Requests wait in line; more than the line
holds are sent away with 429. A client that goes away ends its request. Prompts and answers are never logged.

The engine is any object like ``Engine``; this module knows nothing of torch.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol

from openai_requests import Answer, Ask, Refused, Stops, check, usage

MAX_BODY = 16 << 20
MAX_CONNECTIONS = 128
IDLE_S = 60.0
POLL_S = 0.25
POSTS = {"/v1/chat/completions": True, "/v1/completions": False}
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Token(NamedTuple):
    """New text of a generation (it may be empty), tokens so far, and why it ended where it did."""

    text: str
    count: int
    finish: str | None = None


class Engine(Protocol):
    """What answers."""

    context: int
    report: dict[str, Any]

    def tokens(self, ask: Ask) -> list[int]:
        """The token ids of a request; raises ``Refused``."""
        ...

    def generate(self, ids: list[int], ask: Ask, max_tokens: int) -> Iterator[Token | None]:
        """Tokens, and ``None`` now and then while there is no new one; its work ends when the iterator is closed."""
        ...


class Gone(Exception):  # noqa: N818
    """The client closed its connection."""


class Line:
    """One request at a time; up to ``waiting`` more wait their turn."""

    def __init__(self, waiting: int) -> None:
        self._turn, self._places = threading.Lock(), threading.BoundedSemaphore(waiting + 1)

    @contextlib.contextmanager
    def turn(self, gone: Callable[[], bool]) -> Iterator[None]:
        """Wait for the turn and hold it.

        Raises:
            Refused: 429, the line is full.
            Gone: the client went away while it waited.
        """
        if not self._places.acquire(blocking=False):
            raise Refused(429, "queue_full", "Too many requests are waiting; try again later.")
        try:
            while not self._turn.acquire(timeout=POLL_S):
                if gone():
                    raise Gone
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._places.release()


class Server(ThreadingHTTPServer):
    """The server; it binds at once and answers 503 until ``serve_model`` gave it an engine.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, *, model: str, keys: list[str], waiting: int = 32) -> None:
        self.model, self.keys, self.line = model, [k.encode() for k in keys], Line(waiting)
        self.engine: Engine | None = None
        self.started = int(time.time())
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = found[0]
        self.loopback = str(found[4][0]) in ("127.0.0.1", "::1")
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def serve_model(self, engine: Engine) -> None:
        """From now on requests are answered."""
        self.engine = engine

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, up to a limit; beyond it connections are closed."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As inherited; frees the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no matter for a traceback."""
        kind = sys.exc_info()[0]
        if kind is not None and not issubclass(kind, OSError | Gone):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "advisor-transformers"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True  # a token is sent when it is there

    # -- plumbing ------------------------------------------------------------------------------------------------------

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing by itself: ``_note`` writes one line a request."""

    def _note(self, status: int, begun: float, prompt: int = 0, completion: int = 0, code: str = "") -> None:
        spent, path = time.monotonic() - begun, self.path.split("?")[0][:80]
        what = f"{status} {code}".strip()
        sys.stderr.write(f"{self.command} {path!r} {what} {prompt}+{completion} tokens {spent:.2f} s\n")
        sys.stderr.flush()

    def _send(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if status == 429:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(raw)

    def _refuse(self, e: Refused, begun: float) -> None:
        self.close_connection = True  # the body may not have been read
        self._send(e.status, e.body())
        self._note(e.status, begun, code=e.code)

    def _gone(self) -> bool:
        """Whether the client has closed its side."""
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    def _allowed(self) -> None:
        """Check the key; without one, that the request is meant for this host and no name that points here by a trick.

        Raises:
            Refused: 401 or 403.
        """
        if not self.server.keys:
            name = (self.headers.get("Host") or "localhost").rsplit(":", 1)[0] or "localhost"
            if self.server.loopback and name.lower() not in LOCAL_NAMES:
                raise Refused(403, "wrong_host", "This server answers on loopback only.")
            return
        kind, _, given = (self.headers.get("Authorization") or "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(sent, key) for key in self.server.keys]
        if kind.lower() != "bearer" or not any(matches):
            raise Refused(401, "invalid_api_key", "The request has no valid API key.")

    def _body(self) -> object:
        """The decoded body.

        Raises:
            Refused: 400, 411, 413 or 415.
        """
        if (self.headers.get("Content-Type") or "").split(";")[0].strip().lower() != "application/json":
            # A web page can send other types to this machine without asking; it cannot send this one.
            raise Refused(415, "content_type", "The Content-Type of a request is application/json.")
        length = self.headers.get("Content-Length") or ""
        if not length.isascii() or not length.isdigit() or self.headers.get("Transfer-Encoding"):
            raise Refused(411, "length_required", "A request says its Content-Length.")
        if len(length) > 12 or int(length) > MAX_BODY:
            raise Refused(413, "body_too_large", f"A request has at most {MAX_BODY} bytes.")
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            raise Gone
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as e:
            raise Refused(400, "invalid_json", "The body is not JSON.") from e

    # -- routes --------------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        """``/health`` and ``/v1/models``."""
        begun, path, engine = time.monotonic(), self.path.split("?")[0], self.server.engine
        try:
            if path == "/health":
                self._send(200 if engine else 503, {"status": "ok" if engine else "loading model"})
                return
            self._allowed()
            if path != "/v1/models":
                raise Refused(404, "not_found", "There is no such page.")
            loaded = {"max_model_len": engine.context, "loaded": engine.report} if engine else {}
            one = {"id": self.server.model, "object": "model", "created": self.server.started, "owned_by": "advisor"}
            self._send(200, {"object": "list", "data": [{**one, **loaded}] if engine else []})
        except Refused as e:
            self._refuse(e, begun)

    @contextlib.contextmanager
    def _told(self, begun: float) -> Iterator[None]:
        """Turn what goes wrong with a request into its answer and a line of the log."""
        try:
            yield
        except Refused as e:
            self._refuse(e, begun)
        except Gone:
            self.close_connection = True
            self._note(499, begun, code="client_gone")
        except OSError:
            raise  # the connection broke: ``handle_error`` knows it
        except Exception:
            traceback.print_exc()
            self._refuse(Refused(500, "bug", "The server failed; its log says how."), begun)

    def do_POST(self) -> None:
        """Completions of both kinds."""
        begun, path = time.monotonic(), self.path.split("?")[0]
        with self._told(begun):
            self._allowed()
            if path not in POSTS:
                raise Refused(404, "not_found", "There is no such page.")
            engine = self.server.engine
            if engine is None:
                raise Refused(503, "loading", "The model is being loaded.")
            ask = check(self._body(), chat=POSTS[path], model=self.server.model)
            with self.server.line.turn(self._gone):
                self._answer(engine, ask, begun)

    def _answer(self, engine: Engine, ask: Ask, begun: float) -> None:
        """Answer one request, whose turn it is.

        Raises:
            Refused: 400, the prompt fills the context; 500 and 503, the engine failed before anything was sent.
            Gone: the client went away.
        """
        ids = engine.tokens(ask)
        if not ids:
            raise Refused(400, "empty_prompt", "The prompt has no tokens.")
        room = engine.context - len(ids)
        if room < 1:
            raise Refused(
                400, "context_length_exceeded", f"The prompt has {len(ids)} tokens; the context holds {engine.context}."
            )
        shape, made = Answer(ask, self.server.model), 0
        work = self._generated(engine, ids, ask, min(ask.max_tokens or room, room))
        parts: list[str] = []
        sent = False
        try:
            finish = "stop"
            for token in work:
                made, finish = token.count, token.finish or finish
                if not ask.stream:
                    parts.append(token.text)
                elif token.text or token.finish:
                    if not sent:
                        self._open_stream()
                        self._event(shape.piece("", first=True)) if ask.chat else None
                        sent = True
                    self._event(shape.piece(token.text, token.finish))
            if ask.stream:
                if ask.usage:
                    self._event(shape.counts(usage(len(ids), made)))
                self._event(None)
            else:
                text = (ask.prompt if ask.echo and isinstance(ask.prompt, str) else "") + "".join(parts)
                self._send(200, shape.whole(text, finish, usage(len(ids), made)))
            self._note(200, begun, len(ids), made)
        except (BrokenPipeError, ConnectionResetError, TimeoutError) as e:
            raise Gone from e
        except Refused as e:
            if not sent:
                raise
            self._event(e.body())
            self._note(e.status, begun, len(ids), made, e.code)
        finally:
            work.close()

    def _generated(self, engine: Engine, ids: list[int], ask: Ask, limit: int) -> Any:
        """The tokens of a generation, cut at stop texts; the last one says why it ended."""
        stops, made = Stops(ask.stop), 0
        work = engine.generate(ids, ask, limit)
        try:
            for token in work:
                if self._gone():
                    raise Gone
                if token is None:
                    continue
                made, text = token.count, stops.push(token.text)
                if stops.found:
                    yield Token(text, made, "stop")
                    return
                yield Token(text + stops.rest() if token.finish else text, made, token.finish)
        finally:
            work.close()  # type: ignore[attr-defined]  # a generator

    def _open_stream(self) -> None:
        self.close_connection = True  # the end of the stream is the end of the connection
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, event: dict[str, Any] | None) -> None:
        raw = b"[DONE]" if event is None else json.dumps(event).encode()
        self.wfile.write(b"data: " + raw + b"\n\n")
        self.wfile.flush()
