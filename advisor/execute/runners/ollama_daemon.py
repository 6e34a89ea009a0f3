"""What is asked of an Ollama daemon: take a file, make a model of it, load it, unload it. Standard library only.

Nothing here ends the daemon, changes its settings, or touches a model other than the one that is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# `files` in /api/create came with 0.5.5 (Ollama's API documentation). Builds from source call themselves 0.0.0.
OLDEST = (0, 5, 5)
ANSWER_S = 5.0
IMPORT_S = 900.0
MAX_REPLY = 1 << 20
BLOCK = 1 << 20


class Failed(Exception):  # noqa: N818
    """The daemon did not do what it was asked for: a code, and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def plain(text: object, limit: int = 300) -> str:
    """Text from outside, on one line and without control characters."""
    words = "".join(c if c.isprintable() else " " for c in str(text)).split()
    return " ".join(words)[:limit]


def is_local(url: str) -> bool:
    """Whether ``url`` is of this machine's loopback."""
    host = (urlsplit(url).hostname or "").lower()
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def digest(path: Path, told: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        Failed: ``file-unreadable``; ``interrupted`` once ``told`` says so.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb") as f:
            while block := f.read(BLOCK):
                if told():
                    raise Failed("interrupted", "told to stop")
                found.update(block)
    except OSError as e:
        raise Failed("file-unreadable", f"{path} cannot be read: {e.strerror}") from e
    return found.hexdigest()


def model_name(alias: str, sha256: str, parameters: dict[str, Any]) -> str:
    """A name of advisor's own: never that of a model which the user made, and another one for other bytes or settings,
    so that one deployment does not change the model of another."""
    base = re.sub(r"[^a-z0-9._-]+", "-", alias.lower()).strip("-._")[:64] or "model"
    told = json.dumps(parameters, sort_keys=True)
    return f"advisor-{base}:{hashlib.sha256(f'{sha256} {told}'.encode()).hexdigest()[:12]}"


class Daemon:
    """One daemon, by its URL. Each request has a connection of its own; there is no proxy and no redirect."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self._tls = url, parts.scheme == "https"
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 11434
        self._long: http.client.HTTPConnection | None = None
        self.stopping = False

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """A new connection; it is made at the first request."""
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout_s, blocksize=BLOCK)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float = ANSWER_S,
        headers: dict[str, str] | None = None,
        long: bool = False,
    ) -> tuple[int, dict[str, Any]]:
        """Status and object of an answer; the object is empty where there is none.

        Args:
            method: of HTTP.
            path: on the daemon.
            body: an object, sent as JSON, or an open file.
            timeout_s: without a byte.
            headers: those of a file.
            long: broken off by ``abort``.

        Raises:
            Failed: ``daemon-not-reachable``.
        """
        connection = self.connection(timeout_s)
        if long:
            self._long = connection
        try:
            if self.stopping and long:
                raise OSError("told to stop")
            raw = json.dumps(body).encode() if isinstance(body, dict) else body
            sent = headers or {"Content-Type": "application/json"}
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A daemon that refuses a file says so before it has read all of it.
                connection.request(method, path, raw, sent)  # type: ignore[arg-type]
            reply = connection.getresponse()
            text = reply.read(MAX_REPLY)
        except (OSError, http.client.HTTPException) as e:
            why = plain(e) or type(e).__name__
            raise Failed("daemon-not-reachable", f"no Ollama answers at {self.url}: {why}") from e
        finally:
            connection.close()
            self._long = None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = {}
        return reply.status, found if isinstance(found, dict) else {}

    def abort(self) -> None:
        """Break off what takes long, from another thread; what follows it is not begun."""
        self.stopping = True
        connection = self._long
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def version(self) -> str:
        """The daemon's version.

        Raises:
            Failed: ``daemon-not-reachable``, ``not-ollama``, ``daemon-too-old``.
        """
        status, said = self.ask("GET", "/api/version")
        version = said.get("version")
        if status != 200 or not isinstance(version, str):
            raise Failed("not-ollama", f"{self.url} answers /api/version with HTTP {status} and no version")
        numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
        have = tuple(int(n) for n in numbers.groups()) if numbers else (0, 0, 0)
        if (0, 0, 0) < have < OLDEST:
            raise Failed("daemon-too-old", f"Ollama {plain(version, 40)} is older than 0.5.5")
        return plain(version, 40)

    def bring(self, path: Path, sha256: str) -> bool:
        """Send the file unless the daemon has it; whether it was sent. Its digest is checked over there.

        Raises:
            Failed: ``import-failed``, ``daemon-not-reachable``, ``file-unreadable``.
        """
        blob = f"/api/blobs/sha256:{sha256}"
        status, _ = self.ask("HEAD", blob)
        if status == 200:
            return False
        try:
            with path.open("rb") as f:
                head = {
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(os.fstat(f.fileno()).st_size),
                }
                status, said = self.ask("POST", blob, f, timeout_s=IMPORT_S, headers=head, long=True)
        except OSError as e:
            raise Failed("file-unreadable", f"{path} cannot be read: {e.strerror}") from e
        if status not in (200, 201):
            raise Failed("import-failed", f"the file is refused with HTTP {status}: {plain(said.get('error', ''))}")
        return True

    def create(self, name: str, file_name: str, sha256: str, parameters: dict[str, Any]) -> None:
        """Make the model ``name`` of a file that was brought.

        Raises:
            Failed: ``import-failed``, ``daemon-not-reachable``.
        """
        wanted = {
            "model": name,
            "files": {file_name: f"sha256:{sha256}"},
            "parameters": parameters,
            "stream": False,
        }
        status, said = self.ask("POST", "/api/create", wanted, timeout_s=IMPORT_S, long=True)
        if status != 200 or "error" in said:
            why = plain(said.get("error", ""))
            raise Failed("import-failed", f"no model is made of the file, HTTP {status}: {why}")

    def load(self, name: str) -> None:
        """Load the model and keep it until it is unloaded.

        Raises:
            Failed: ``load-failed``, ``daemon-not-reachable``.
        """
        wanted = {"model": name, "keep_alive": -1, "stream": False}
        status, said = self.ask("POST", "/api/generate", wanted, timeout_s=IMPORT_S, long=True)
        if status != 200 or "error" in said:
            why = plain(said.get("error", ""))
            raise Failed("load-failed", f"the model is not loaded, HTTP {status}: {why}")

    def unload(self, name: str) -> None:
        """Take the model out of memory; it stays on the daemon's disk.

        Raises:
            Failed: ``daemon-not-reachable``, ``unload-failed``.
        """
        status, said = self.ask("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        if status != 200:
            raise Failed("unload-failed", f"HTTP {status}: {plain(said.get('error', ''))}")

    def running(self, name: str) -> dict[str, int] | None:
        """Bytes that the loaded model takes, ``size`` in all and ``size_vram`` on devices; ``None``: it is not loaded.

        Raises:
            Failed: ``daemon-not-reachable``.
        """
        _, said = self.ask("GET", "/api/ps", timeout_s=1.5)
        models = said.get("models")
        for one in models if isinstance(models, list) else []:
            if isinstance(one, dict) and name in (one.get("name"), one.get("model")):
                sizes = ((k, one.get(k)) for k in ("size", "size_vram"))
                return {k: v for k, v in sizes if isinstance(v, int) and not isinstance(v, bool)}
        return None

    def has(self, name: str) -> bool:
        """Whether the daemon still has the model, loaded or not.

        Raises:
            Failed: ``daemon-not-reachable``.
        """
        return self.ask("POST", "/api/show", {"model": name}, timeout_s=1.5)[0] == 200


def seconds_since(begun: float) -> str:
    """Time since ``begun`` of the monotonic clock, for a log."""
    return f"{time.monotonic() - begun:.1f} s"
