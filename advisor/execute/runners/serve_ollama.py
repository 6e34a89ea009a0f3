"""Serve a GGUF file with the user's own Ollama daemon.

Started as ``python -I serve_ollama.py --model FILE.gguf --alias NAME --port N --daemon URL ...``; standard library
only. The daemon gets the file (unless it has it), makes a model of it under a name of advisor's own and loads it; from
then on ``/health`` answers 200 with what the daemon says of its memory, and ``/v1/chat/completions`` and
``/v1/completions`` are passed on to it. No other model of the daemon's can be reached here.

Logs go to standard error; prompts and answers do not. SIGTERM and SIGINT unload the model and end; exit status 0 then.
The daemon, its settings and its other models stay as they are, and so does the imported model on its disk. Exit status
1: it could not start, with a last line ``error: [code] ...``; 98: the port is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import openai_server
from ollama_daemon import Daemon, Failed, digest, is_local, model_name, plain, seconds_since
from openai_requests import Refused
from openai_server import MAX_BODY, POLL_S, POSTS, Gone
from serve_llama import PORT_TAKEN, keys, stop

GRACE_S = 8.0  # the supervisor waits a little longer before it kills
BREAK_OFF_S = 2.0  # what takes long is broken off, what is short may take this long
SILENCE_S = 600.0  # between two pieces of an answer
MAX_LINE = 4 << 20


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    p = argparse.ArgumentParser(prog="serve_ollama", allow_abbrev=False)
    p.add_argument("--model", required=True, help="a GGUF file")
    p.add_argument("--alias", required=True, help="the name under which the API serves it")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--daemon", default="http://127.0.0.1:11434")
    p.add_argument("--elsewhere", action="store_true", help="the daemon may be on another machine")
    p.add_argument("--parameters", default="{}", help="JSON of Ollama's parameters of the model")
    p.add_argument("--api-key-file")
    return p.parse_args(argv)


def say(line: str) -> None:
    """One line of the log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Proxy(openai_server.Server):
    """Answers for one model of the daemon; 503 until ``serve_name`` named it.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, *, alias: str, keys: list[str], daemon: Daemon) -> None:
        super().__init__(host, port, model=alias, keys=keys)
        self.RequestHandlerClass = Handler
        self.daemon, self.name, self.stage = daemon, "", "asking the daemon"

    def serve_name(self, name: str) -> None:
        """From now on requests are passed on to the daemon's model ``name``."""
        self.name = name

    def state(self) -> tuple[int, dict[str, Any]]:
        """Status and body of ``/health``. A model that the daemon has put out of memory comes back when it is asked."""
        if not self.name:
            return 503, {"status": self.stage}
        try:
            sizes = self.daemon.running(self.name)
            if sizes is None and not self.daemon.has(self.name):
                return 503, {"status": "the daemon no longer has the model"}
        except Failed as e:
            return 503, {"status": e.code, "message": e.message}
        return 200, {"status": "ok", "model": self.name, "loaded": sizes is not None, **(sizes or {})}


class Handler(openai_server.Handler):
    """One connection."""

    server: Proxy  # type: ignore[assignment]
    server_version = "advisor-ollama"

    def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
        """``/health`` and ``/v1/models``, which lists the one model that is served here."""
        begun, path = time.monotonic(), self.path.split("?")[0]
        try:
            if path == "/health":
                self._send(*self.server.state())
                return
            self._allowed()
            if path != "/v1/models":
                raise Refused(404, "not_found", "There is no such page.")
            one = {"id": self.server.model, "object": "model", "created": self.server.started, "owned_by": "advisor"}
            self._send(200, {"object": "list", "data": [one] if self.server.name else []})
        except Refused as e:
            self._refuse(e, begun)

    def do_POST(self) -> None:  # noqa: N802 - the name http.server calls
        """Completions of both kinds."""
        begun, path = time.monotonic(), self.path.split("?")[0]
        with self._told(begun):
            self._allowed()
            if path not in POSTS:
                raise Refused(404, "not_found", "There is no such page.")
            if not self.server.name:
                raise Refused(503, "loading", "The model is being loaded.")
            body = self._body()
            if not isinstance(body, dict):
                raise Refused(400, "invalid_json", "The body is a JSON object.")
            if body.get("model", self.server.model) != self.server.model:
                raise Refused(404, "model_not_found", f"Only the model {self.server.model!r} is served here.")
            self._pass_on(path, {**body, "model": self.server.name}, begun)

    def _pass_on(self, path: str, body: dict[str, Any], begun: float) -> None:
        """Ask the daemon and give its answer out as it comes.

        Raises:
            Refused: 502, the daemon is not there or gives no answer that can be passed on.
            Gone: the client went away; the daemon is told by the end of the connection.
        """
        upstream = self.server.daemon.connection(SILENCE_S)
        try:
            try:
                upstream.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
                self._wait(upstream)
                reply = upstream.getresponse()
                if "text/event-stream" not in (reply.getheader("Content-Type") or ""):
                    whole = reply.read(MAX_BODY + 1)
            except (OSError, http.client.HTTPException) as e:
                say(f"[daemon-not-reachable] {self.server.daemon.url}: {plain(e) or type(e).__name__}")
                raise Refused(502, "daemon_not_reachable", "The Ollama daemon does not answer.") from e
            if "text/event-stream" in (reply.getheader("Content-Type") or ""):
                self._stream(reply, begun)
                return
            if len(whole) > MAX_BODY or reply.status in range(300, 400):
                raise Refused(502, "bad_answer", "The Ollama daemon gives an answer that cannot be passed on.")
            self._whole(reply.status, self._named(whole), begun)
        finally:
            upstream.close()

    def _wait(self, upstream: http.client.HTTPConnection) -> None:
        """Until the daemon begins to answer; an answer nobody waits for is not made.

        Raises:
            Gone: the client went away.
        """
        while True:
            readable, _, _ = select.select([upstream.sock], [], [], POLL_S)
            if readable:
                return
            if self._gone():
                raise Gone

    def _named(self, raw: bytes) -> bytes:
        """An answer with the name that the client knows. Quotes within a text are escaped, so no text is changed."""
        mine = json.dumps(self.server.model).encode()
        for colon in (b":", b": "):
            raw = raw.replace(b'"model"' + colon + json.dumps(self.server.name).encode(), b'"model"' + colon + mine)
        return raw

    def _whole(self, status: int, raw: bytes, begun: float) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        self._note(status, begun)

    def _stream(self, reply: http.client.HTTPResponse, begun: float) -> None:
        self._open_stream()
        done = False  # `readline` takes a connection that broke for the end of the answer
        try:
            while line := reply.readline(MAX_LINE):
                if self._gone():
                    raise Gone
                self.wfile.write(self._named(line))
                if line == b"\n":
                    self.wfile.flush()
                done = done or line.startswith(b"data: [DONE]")
            if not done:
                raise http.client.IncompleteRead(b"")
            self._note(reply.status, begun)
        except (BrokenPipeError, ConnectionResetError) as e:
            if self._gone():
                raise Gone from e
            self._cut(begun)
        except (OSError, http.client.HTTPException, ValueError):
            self._cut(begun)

    def _cut(self, begun: float) -> None:
        """Tell a client that the daemon ended in the midst of an answer."""
        refused = Refused(502, "daemon_not_reachable", "The Ollama daemon broke off its answer.")
        with contextlib.suppress(OSError):
            self._event(refused.body())
        self._note(refused.status, begun, code=refused.code)


def start(a: argparse.Namespace, server: Proxy) -> str:
    """Bring the file, make the model, load it; its name at the daemon.

    Raises:
        Failed: the daemon does not do it.
    """
    daemon, file, parameters = server.daemon, Path(a.model), json.loads(a.parameters)
    say(f"Ollama {daemon.version()} at {daemon.url}")
    begun, server.stage = time.monotonic(), "reading the file"
    sha256 = digest(file, lambda: daemon.stopping)
    say(f"sha256:{sha256} of {file} in {seconds_since(begun)}")
    begun, server.stage = time.monotonic(), "sending the file"
    sent = daemon.bring(file, sha256)
    say(f"the file was sent in {seconds_since(begun)}" if sent else "the daemon has the file")
    name = model_name(a.alias, sha256, parameters)
    server.stage = "making the model"
    daemon.create(name, file.name if file.name.endswith(".gguf") else "model.gguf", sha256, parameters)
    say(f"model {name} made; it stays on the daemon's disk until: ollama rm {name}")
    return name


def load(a: argparse.Namespace, server: Proxy, name: str) -> None:
    """Load the model and serve it.

    Raises:
        Failed: the daemon does not do it.
    """
    begun, server.stage = time.monotonic(), "loading the model"
    server.daemon.load(name)
    sizes = server.daemon.running(name)
    say(f"loaded: {json.dumps(sizes)} in {seconds_since(begun)}")
    if json.loads(a.parameters).get("num_gpu") and sizes is not None and not sizes.get("size_vram"):
        say("warning: the daemon put nothing on a device, though layers were meant for one")
    server.serve_name(name)
    say(f"serving {a.alias} on {a.host}:{server.server_port}")


def main(argv: list[str] | None = None) -> None:
    """Start, serve until told to stop, unload, end."""
    a = arguments(argv)
    if not Path(a.model).is_file():
        stop(1, f"[file-not-found] there is no file {a.model}")
    if not a.elsewhere and not is_local(a.daemon):
        stop(1, f"[daemon-elsewhere] {a.daemon} is not on this machine")
    daemon = Daemon(a.daemon)
    try:
        server = Proxy(a.host, a.port, alias=a.alias, keys=keys(a.api_key_file), daemon=daemon)
    except OSError as e:
        stop(PORT_TAKEN, f"{a.host}:{a.port} cannot be bound: {e}")
    # A pipe, not an event: a handler that sets the event its own thread waits for can find its lock held.
    told, tell = os.pipe()
    failed: list[Failed] = []
    made: list[str] = []

    def begin() -> None:
        try:
            made.append(start(a, server))
            load(a, server, made[0])
        except BaseException as e:  # told to the main thread, which ends the process
            if daemon.stopping:  # broken off, not failed
                return
            if not isinstance(e, Failed):
                traceback.print_exc()
                e = Failed("load-failed", f"{type(e).__name__}: {plain(e)}")
            failed.append(e)
            os.write(tell, b"!")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(tell, b"!"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    beginning = threading.Thread(target=begin, daemon=True)
    beginning.start()
    os.read(told, 1)
    # A daemon that hangs must not keep the process from ending.
    watchdog = threading.Timer(GRACE_S, lambda: os._exit(1 if failed else 0))
    watchdog.daemon = True
    watchdog.start()
    daemon.abort()
    beginning.join(BREAK_OFF_S)
    if made:
        try:
            daemon.unload(made[0])
            if daemon.running(made[0]) is not None:  # a load that was broken off came through after all
                daemon.unload(made[0])
            say(f"{made[0]} unloaded")
        except Failed as e:
            say(f"{made[0]} is not unloaded: {e.message}")
    if failed:
        stop(1, f"[{failed[0].code}] {failed[0].message}")
    say("stopped")
    os._exit(0)


if __name__ == "__main__":
    main()
