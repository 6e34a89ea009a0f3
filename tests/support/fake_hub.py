"""A hub on loopback that speaks what the real one speaks to clients, and can misbehave.

Repositories are folders; every ``commit`` takes a snapshot of what the folder holds (names, sizes, hashes; contents are
read when they are served). Large files are served by a second port, the "CDN", as the hub does: the resolve address
redirects there, and whoever sends a token there is caught. What goes wrong is a function of the request, see ``Fault``.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.fake_hub_faults import Fault, Seen, blocks
from tests.support.fake_hub_repos import Commit, Entry, Repo, found, information


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: FakeHub, host: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.host = hub, host

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


class FakeHub:
    """The hub and its CDN. Use as a context manager; ``endpoint`` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.sent = 0
        self.blobs = True
        self.etags = True
        self.pause = 0.0
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._servers = [_Server(self, "hub"), _Server(self, "cdn")]

    def __enter__(self) -> FakeHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        """Where the hub is."""
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def cdn(self) -> str:
        """Where large files are."""
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def add(self, name: str, folder: Path, *, kind: str = "models", **about: Any) -> Repo:
        """Add a repository with one commit of what is in ``folder``."""
        repo = Repo(name, folder, kind, **about)
        self.repos[name.lower()] = repo
        repo.commit()
        return repo

    def rename(self, old: str, new: str) -> None:
        """The old name redirects from now on."""
        repo = self.repos[old.lower()]
        self.repos[new.lower()] = repo
        repo.name = new
        self.repos[old.lower()] = Repo(old, repo.folder, renamed_to=new)

    def fault(self, when: str | Callable[[Seen], bool], **what: Any) -> Fault:
        """Add a fault for requests whose path holds ``when`` (or for which it is true)."""
        if isinstance(when, str):
            text = when

            def holds(seen: Seen) -> bool:
                return text in seen.path

            made = Fault(holds, **what)
        else:
            made = Fault(when, **what)
        self.faults.append(made)
        return made

    def paths(self, host: str = "hub") -> list[str]:
        """Methods and paths of the requests to one host."""
        return [f"{s.method} {s.path}" for s in self.seen if s.host == host]

    def take(self, seen: Seen) -> Fault | None:
        """The fault for a request, counted."""
        with self._lock:
            self.seen.append(seen)
            for fault in self.faults:
                if fault.times != 0 and fault.when(seen):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def count(self, n: int) -> None:
        """Bytes of bodies that were sent."""
        with self._lock:
            self.sent += n


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits for the client's delayed acknowledgement
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._do()

    def do_GET(self) -> None:
        self._do()

    def _do(self) -> None:
        hub = self.server.hub
        seen = Seen(self.server.host, self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        fault = hub.take(seen)
        with contextlib.suppress(OSError):
            if fault is not None and fault.before is not None:
                fault.before()
            if fault is not None and fault.status is not None:
                self._answer(fault.status, b'{"error": "as told"}', fault.headers, fault)
            elif fault is not None and fault.redirect is not None:
                self._answer(302, b"", {"Location": fault.redirect})
            elif seen.host == "cdn":
                self._cdn(seen, fault)
            else:
                self._hub(seen, fault)

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repo(self, kind: str, parts: list[str], template: str) -> Repo | None:
        """The repository, if it may be read; otherwise the refusal has been answered."""
        name = "/".join(parts)
        repo = self.server.hub.repos.get(name.lower())
        token = self._token()
        if repo is not None and repo.renamed_to is not None:
            self._answer(307, b"", {"Location": template.replace("{}", repo.renamed_to)})
            return None
        if token == "bad-token":
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repo is None or repo.kind != kind or (repo.private is not None and token not in repo.private):
            if token is None:
                self._error(401, "RepoNotFound", "Invalid username or password.")
            else:
                self._error(404, "RepoNotFound", "Repository not found")
        elif repo.disabled:
            self._error(403, "", "Access to this resource is disabled.")
        else:
            return repo
        return None

    def _hub(self, seen: Seen, fault: Fault | None) -> None:
        url = urlsplit(seen.path)
        parts = [unquote(p) for p in url.path.strip("/").split("/")]
        query = f"?{url.query}" if url.query else ""
        if parts[:2] == ["api", "models"] and len(parts) == 2:
            self._search(parse_qs(url.query))
            return
        if parts[0] == "api":
            kind, rest = parts[1], parts[2:]
            at = rest.index("revision") if "revision" in rest else len(rest)
            tail = "/".join(["", *url.path.strip("/").split("/")[2 + at :]])
            repo = self._repo(kind, rest[:at], f"/api/{kind}/{{}}{tail}{query}")
            if repo is not None:
                self._information(repo, "/".join(rest[at + 1 :]) or "main", fault)
            return
        kind = parts[0] if parts[0] in ("datasets", "spaces") else "models"
        rest = parts[1:] if kind != "models" else parts
        if "resolve" not in rest:
            self._error(404, "", "Not found")
            return
        at = rest.index("resolve")
        tail = "/".join(url.path.strip("/").split("/")[at + (kind != "models") :])
        prefix = f"/{kind}" if kind != "models" else ""
        repo = self._repo(kind, rest[:at], f"{prefix}/{{}}/{tail}")
        if repo is not None:
            self._resolve(repo, rest[at + 1], "/".join(rest[at + 2 :]), seen, fault)

    def _commit(self, repo: Repo, revision: str) -> Commit | None:
        found = repo.commits.get(repo.branches.get(revision, revision))
        if found is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _information(self, repo: Repo, revision: str, fault: Fault | None) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        document = information(repo, commit, sizes=self.server.hub.blobs)
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, fault)

    def _search(self, query: dict[str, list[str]]) -> None:
        models = found(self.server.hub.repos.values(), query)
        self._answer(200, json.dumps(models).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo: Repo, revision: str, path: str, seen: Seen, fault: Fault | None) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        if repo.gated is not None and self._token() not in repo.gated:
            status = 403 if self._token() else 401
            self._error(status, "GatedRepo", f"Access to model {repo.name} is restricted.")
            return
        entry = commit.files.get(path)
        if entry is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if not entry.lfs:
            if self.server.hub.etags:
                headers["ETag"] = f'"{entry.git}"'
            self._file(entry, seen, headers, fault)
            return
        if self.server.hub.etags:
            headers["X-Linked-Etag"] = f'"{entry.sha256}"'
            headers["X-Linked-Size"] = str(entry.size)
        where = f"{self.server.hub.cdn}/{repo.name}/{commit.sha}/{path}?Signature=s3cr3t&Expires=1"
        self._answer(302, b"", {**headers, "Location": where})

    def _cdn(self, seen: Seen, fault: Fault | None) -> None:
        if "authorization" in seen.headers:
            self._answer(400, b"a token has no business here", {})
            return
        parts = [unquote(p) for p in urlsplit(seen.path).path.strip("/").split("/")]
        for n in (2, 1):
            repo = self.server.hub.repos.get("/".join(parts[:n]).lower())
            if repo is not None and parts[n] in repo.commits:
                self._file(repo.commits[parts[n]].files["/".join(parts[n + 1 :])], seen, {"ETag": '"cdn"'}, fault)
                return
        self._answer(404, b"", {})

    def _file(self, entry: Entry, seen: Seen, headers: dict[str, str], fault: Fault | None) -> None:
        start, stop = 0, entry.size
        wanted = seen.headers.get("range")
        partial = wanted is not None and not (fault is not None and fault.ignore_range)
        if partial and wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(entry.size, int(last) + 1) if last else entry.size
            if start >= entry.size:
                self._answer(416, b"", {"Content-Range": f"bytes */{entry.size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{entry.size}"}
        self._send_head(206 if partial else 200, {**headers, "Content-Length": str(stop - start)}, fault)
        if self.command == "HEAD":
            return
        with entry.file.open("rb") as f:
            f.seek(start)
            self._body(lambda n: f.read(n), stop - start, fault)

    def _answer(self, status: int, raw: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self._send_head(status, {**headers, "Content-Length": str(len(raw))}, fault)
        if self.command != "HEAD":
            at = 0

            def read(n: int) -> bytes:
                nonlocal at
                at += n
                return raw[at - n : at]

            self._body(read, len(raw), fault)

    def _send_head(self, status: int, headers: dict[str, str], fault: Fault | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault is not None and fault.trickle_head:
            raw = b"".join(self._headers_buffer) + b"\r\n"
            self._headers_buffer = []
            for byte in raw:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.hub.stop.wait(fault.trickle or 0.1):
                    return
            return
        self.end_headers()

    def _body(self, read: Callable[[int], bytes], size: int, fault: Fault | None) -> None:
        hub, sent = self.server.hub, 0
        for block in blocks(size, fault):
            raw = read(block)
            if fault is not None and fault.corrupt:
                raw = bytes(b ^ 0xFF for b in raw[:1]) + raw[1:]
            self.wfile.write(raw)
            hub.count(len(raw))
            sent += len(raw)
            if fault is not None and fault.trickle is not None and hub.stop.wait(fault.trickle):
                return
            if hub.pause:
                time.sleep(hub.pause)
        if sent == size:
            return
        self.wfile.flush()
        if fault is not None and fault.stall_after is not None:
            hub.stop.wait(300)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)
