"""Asks the hub: follows redirects without giving the token away, waits and tries again, and names what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote, urljoin

from advisor._version import __version__
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute.hub.access import TRANSFER, Access, Patience, origin_of
from advisor.execute.hub.exchange import Exchange, Trouble, shown
from advisor.facts.text import clean
from advisor.model.hubref import DEFAULT_REVISION
from advisor.model.jsonfile import parse

T = TypeVar("T")
STEP: Final = "hub"
MAX_DOCUMENT: Final = 32 << 20  # the listing of a repository with ten thousands of files
_MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524)
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RATE: Final = re.compile(r'"\w+"\s*;\s*r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)')
# What the hub says about a file on its own answer, before it sends on to a store.
_ABOUT: Final = ("x-repo-commit", "x-linked-etag", "x-linked-size", "etag")


class EntryMissing(Exception):  # noqa: N818 - the caller knows what a missing file means
    """The revision has no such file."""


class Body(NamedTuple):
    """The answer to a ranged request: where it starts, the size of the whole file where it was told, the connection,
    and what the hub said about the file."""

    start: int
    total: int | None
    exchange: Exchange
    about: dict[str, str]


class About(NamedTuple):
    """What the hub says about a file: size, and its hash (64 hex digits: SHA-256; 40: git's)."""

    size: int | None
    etag: str | None
    commit: str | None


class Hub:
    """A client of one endpoint. Holds no state between requests; may be used from several threads."""

    def __init__(
        self,
        access: Access,
        *,
        patience: Patience = TRANSFER,
        reporter: Reporter | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self.access = access
        self.patience = patience
        self.cancel = cancel or Cancel()
        self.say = safely(reporter)

    def address(self, repo: str, commit: str, path: str, *, kind: str = "") -> str:
        """Where a file of a revision is fetched from (``kind``: ``datasets/`` for a dataset's).

        This is ``huggingface_hub.hf_hub_url``, whose endpoint is fixed when that package is imported; here it is a
        setting of each call.
        """
        return f"{self.access.endpoint}/{kind}{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(path)}"

    def information(self, repo: str, revision: str | None, *, kind: str = "models") -> dict[str, Any]:
        """The hub's description of a revision, sizes and hashes of its files included.

        Raises:
            AdvisorError: ``model-not-found``, ``gated``, ``unauthorized``, ``network``, ``integrity``, ``interrupted``.
        """
        at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
        url = f"{self.access.endpoint}/api/{kind}/{quote(repo)}{at}?blobs=true"
        found = self.json(url, repo, revision)
        if not isinstance(found, dict):
            raise AdvisorError("integrity", f"{shown(url)} answers with {type(found).__name__}, not an object.")
        return found

    def json(self, url: str, repo: str, revision: str | None = None) -> Any:
        """A JSON document. Errors as ``information``."""

        def once() -> bytes:
            exchange, _ = self._open("GET", url, {"accept": "application/json"})
            self._judge(exchange, repo, revision)
            return exchange.whole(MAX_DOCUMENT)

        raw = self.trying(once, shown(url))
        return parse(raw, code="integrity", what=shown(url), max_containers=2_000_000)

    def about(self, repo: str, commit: str, path: str, *, kind: str = "") -> About:
        """Size and hash of one file, where the description of the repository did not tell them.

        Raises:
            EntryMissing: there is no such file. AdvisorError: as ``information``.
        """
        url = self.address(repo, commit, path, kind=kind)

        def once() -> About:
            exchange, told = self._open("HEAD", url, {"accept-encoding": "identity"}, stay=True)
            self._judge(exchange, repo, commit, path)
            size = told.get("x-linked-size")
            if size is None and exchange.status not in _REDIRECTS:
                size = exchange.headers.get("content-length")
            etag = told.get("x-linked-etag") or told.get("etag") or ""
            return About(
                int(size) if size is not None and size.isdigit() else None,
                etag.removeprefix("W/").strip('"') or None,
                told.get("x-repo-commit"),
            )

        found = self.trying(once, path)
        return found if found.size is not None else found._replace(size=self._counted(repo, commit, path, kind))

    def _counted(self, repo: str, commit: str, path: str, kind: str) -> int | None:
        """The size of a file as the answer to a request for its first byte tells it."""

        def once() -> int | None:
            body = self.open(repo, commit, path, 0, 1, kind=kind)
            body.exchange.leave()
            return body.total

        return self.trying(once, path)

    def open(
        self, repo: str, commit: str, path: str, start: int = 0, stop: int | None = None, *, kind: str = ""
    ) -> Body:
        """Open a file at byte ``start`` (up to ``stop``, exclusively). A server may ignore that: see ``Body.start``.

        Raises:
            Trouble: a failure that may pass; the caller counts. EntryMissing: no such file.
            AdvisorError: as ``information``; ``integrity`` where another commit is answered.
        """
        headers = {"accept-encoding": "identity"}
        if start or stop is not None:
            headers["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        exchange, told = self._open("GET", self.address(repo, commit, path, kind=kind), headers)
        if exchange.status == 416:
            exchange.leave()
            raise Trouble(f"refuses to send {path} from byte {start}", status=416)
        self._judge(exchange, repo, commit, path)
        other = told.get("x-repo-commit")
        if other is not None and other != commit:
            exchange.leave()
            raise AdvisorError(
                "integrity", f"The hub answers with commit {clean(other, 40)} of {repo} where {commit} was asked for."
            )
        if exchange.status != 206:
            length = exchange.headers.get("content-length", "")
            encoded = exchange.headers.get("content-encoding", "identity") != "identity"
            return Body(0, int(length) if length.isdigit() and not encoded else None, exchange, told)
        found = _RANGE.fullmatch(exchange.headers.get("content-range", "").strip())
        if not found or int(found[1]) != start or exchange.headers.get("content-encoding", "identity") != "identity":
            exchange.leave()
            raise Trouble(f"sends another part of {path} than the one from byte {start}")
        return Body(start, None if found[3] == "*" else int(found[3]), exchange, told)

    def part(self, repo: str, commit: str, path: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusively) of a file. A server that sends the whole file instead is cut off.

        Raises:
            EntryMissing: no such file. AdvisorError: as ``information``.
        """

        def once() -> bytes:
            body = self.open(repo, commit, path, start, stop)
            at, out = body.start, bytearray()
            try:
                for chunk in body.exchange.body():
                    out += chunk[max(0, start - at) : max(0, stop - at)]
                    at += len(chunk)
                    if at >= stop:
                        break
            finally:
                body.exchange.leave()
            if len(out) < stop - start and (body.total is None or at < min(stop, body.total)):
                raise Trouble(f"breaks off {path} at byte {at}")
            return bytes(out)

        return self.trying(once, path)

    def trying(self, once: Callable[[], T], what: str) -> T:
        """Do something until it succeeds or patience ends. Errors: ``network``, and those of ``once``."""
        failures = 0
        while True:
            try:
                return once()
            except Trouble as e:
                failures += 1
                self.wait(e, failures, what)

    def wait(self, trouble: Trouble, failures: int, what: str) -> None:
        """Wait before the next try.

        Raises:
            AdvisorError: ``network`` (with ``retryable`` in its data) where patience has ended, ``interrupted``.
        """
        why = self.access.without_token(trouble.why)
        asked = trouble.wait_s
        if failures >= self.patience.tries or (asked is not None and asked > self.patience.longest_wait_s):
            later = "" if asked is None else f" It asks to come back in {asked:.0f} s."
            raise AdvisorError(
                "network",
                f"{self.access.endpoint} could not be used for {clean(what, 120)}: {why}.{later}",
                context=[f"tries without progress: {failures}"],
                hint="advisor doctor",
                data={
                    "retryable": True,
                    "endpoint": self.access.endpoint,
                    "status": trouble.status,
                    "retry_after_s": asked,
                },
            )
        pause = self.patience.wait_s(failures, asked)
        self.say(Event(kind="note", step=STEP, message=f"{clean(what, 80)}: {why}; again in {pause:.1f} s"))
        self.cancel.wait(pause)
        self.cancel.check()

    def _open(
        self, method: str, url: str, headers: Mapping[str, str], *, stay: bool = False
    ) -> tuple[Exchange, dict[str, str]]:
        """Send a request and follow redirects; ``stay``: not away from the hub. Also what the hub said on the way."""
        about: dict[str, str] = {}
        here = origin_of(url)
        for _ in range(_MAX_REDIRECTS):
            sent = {"user-agent": f"advisor/{__version__}", **headers}
            token = self.access.token_for(url)
            if token is not None:
                sent["authorization"] = f"Bearer {token}"
            exchange = Exchange(method, url, sent, self.patience, self.cancel)
            exchange.head()
            if origin_of(url) == here:
                about.update({name: exchange.headers[name] for name in _ABOUT if name in exchange.headers})
            location = exchange.headers.get("location")
            if exchange.status not in _REDIRECTS or not location:
                return exchange, about
            target = urljoin(url, location)
            try:
                away = origin_of(target)
            except ValueError as e:
                raise AdvisorError("network", f"The hub sends on to something else: {e}.") from e
            if here[0] == "https" and away[0] != "https":
                raise AdvisorError("network", f"The hub sends on to {shown(target)}, which is not encrypted.")
            if stay and away != here:
                return exchange, about
            exchange.leave()
            url = target
        raise Trouble("sends in circles")

    def _judge(self, exchange: Exchange, repo: str, revision: str | None, path: str | None = None) -> None:
        """Turn an unhappy status into what it means; the rules are those of ``huggingface_hub``'s own client."""
        status, headers = exchange.status, exchange.headers
        if status < 400:
            return
        exchange.leave()
        code, said = headers.get("x-error-code", ""), headers.get("x-error-message", "")
        said = clean(self.access.without_token(said), 200)
        if status in _PASSING:
            raise Trouble(f"HTTP {status}{f' ({said})' if said else ''}", status=status, wait_s=_asked(headers))
        if code == "EntryNotFound":
            raise EntryMissing(path or "")
        self._refuse(status, code, said, repo, revision, path)

    def _refuse(self, status: int, code: str, said: str, repo: str, revision: str | None, path: str | None) -> NoReturn:
        page = f"{self.access.endpoint}/{repo}"
        data = {"repo": repo, "revision": revision, "status": status, "url": page}
        token = self.access.token is not None
        if code == "GatedRepo":
            raise AdvisorError(
                "gated",
                f"{repo} is gated: its terms must be accepted at {page}.",
                context=[
                    "the token that was sent belongs to an account without access"
                    if token
                    else "no token was sent: HF_TOKEN, or what `hf auth login` keeps, is taken"
                ],
                hint="hf auth login",
                data=data,
            )
        if code == "RevisionNotFound":
            raise AdvisorError(
                "model-not-found",
                f"{repo} has no revision {clean(revision or DEFAULT_REVISION, 80)} (any more).",
                hint=f"advisor recommend {repo}",
                data=data,
            )
        if "disabled" in said.lower() and "access" in said.lower():
            raise AdvisorError("model-not-found", f"Access to {repo} was disabled by the hub.", data=data)
        if status == 401 and "invalid credentials" in said.lower():
            raise AdvisorError("unauthorized", "The hub does not accept the token.", hint="hf auth login", data=data)
        if code == "RepoNotFound" or status in (401, 404, 410):
            if status == 404 and path is not None and code == "":
                raise EntryMissing(path)
            private = "" if token else ", or it is private and no token was sent"
            raise AdvisorError(
                "model-not-found",
                f"There is no model {repo} on {self.access.endpoint}{private}.",
                hint="advisor models list" if token else "hf auth login",
                data=data,
            )
        if status == 403:
            raise AdvisorError(
                "unauthorized",
                f"The hub refuses {repo}: {said or 'forbidden'}.",
                hint="hf auth login",
                data=data,
            )
        raise AdvisorError("network", f"The hub answers HTTP {status} for {repo}: {said or 'no reason'}.", data=data)


def _asked(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: ``Retry-After`` (seconds or a date), or what is left of a rate limit."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(min(int(text), 10**9))
    if text:
        from email.utils import parsedate_to_datetime

        try:
            when = parsedate_to_datetime(text)
            told = headers.get("date", "")
            # Against the server's own clock, which ours may differ from.
            now = parsedate_to_datetime(told) if told else None
            return max(0.0, (when - now).total_seconds()) if now is not None else None
        except (ValueError, TypeError):
            return None
    rate = _RATE.search(headers.get("ratelimit", ""))
    return float(rate[2]) if rate and rate[1] == "0" else None
