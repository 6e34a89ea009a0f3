"""HTTP to a server of our own on this machine: no proxy, no redirects, bounded in size and in total time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.request import OpenerDirector

MAX_REPLY: Final = 16 * 1024 * 1024


class Unreachable(Exception):  # noqa: N818 - a state of the server, named as such
    """No whole reply came; ``timed_out`` tells a slow server from one that is not there."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class Reply(NamedTuple):
    """Status and body, the body cut at the limit."""

    status: int
    body: bytes


def _opener() -> OpenerDirector:
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    return urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect())


def _open(address: str, body: bytes | None, api_key: str | None, timeout_s: float) -> HTTPResponse:
    import http.client
    import urllib.error
    import urllib.request

    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    request = urllib.request.Request(address, data=body, headers=headers)  # noqa: S310 - always http, built by us
    try:
        reply: HTTPResponse = _opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as e:
        return e  # type: ignore[return-value]  # an HTTPError is a response, too
    except TimeoutError as e:
        raise Unreachable(f"no answer within {timeout_s:g} s", timed_out=True) from e
    except urllib.error.URLError as e:
        late = isinstance(e.reason, TimeoutError)
        raise Unreachable(f"no answer within {timeout_s:g} s" if late else str(e.reason), timed_out=late) from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise Unreachable(f"{type(e).__name__}: {e}") from e
    return reply


def fetch(
    address: str,
    *,
    body: bytes | None = None,
    api_key: str | None = None,
    timeout_s: float,
    limit: int = MAX_REPLY,
) -> Reply:
    """GET, or POST where there is a ``body``. A server that sends byte by byte cannot stretch ``timeout_s``.

    Raises:
        Unreachable: no connection, no HTTP, or not finished in time.
    """
    until = time.monotonic() + timeout_s
    with _open(address, body, api_key, timeout_s) as reply:
        return Reply(reply.status, b"".join(_pieces(reply, until, timeout_s, limit)))


def _pieces(reply: HTTPResponse, until: float, timeout_s: float, limit: int) -> Iterator[bytes]:
    """What comes, as it comes, up to the limit and the deadline."""
    import http.client

    size = 0
    try:
        while size < limit and (piece := reply.read1(min(65536, limit - size))):
            size += len(piece)
            yield piece
            if time.monotonic() >= until:
                raise Unreachable(f"the reply was not complete within {timeout_s:g} s", timed_out=True)
    except TimeoutError as e:
        raise Unreachable(f"the reply was not complete within {timeout_s:g} s", timed_out=True) from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise Unreachable(f"the reply broke off: {type(e).__name__}: {e}") from e
    promised = reply.headers.get("Content-Length")
    if size < limit and promised is not None and promised.isdigit() and size < int(promised):
        raise Unreachable(f"the reply broke off after {size} of {promised} bytes")


def stream(address: str, *, body: bytes, api_key: str | None = None, timeout_s: float) -> Iterator[tuple[float, bytes]]:
    """POST and yield the payload of each server-sent event with the monotonic time of its arrival.

    A reply that is no event stream yields its whole body once. ``timeout_s`` is for all of it.

    Raises:
        Unreachable: as ``fetch``; the status is in the message where it is not 200.
    """
    until = time.monotonic() + timeout_s
    with _open(address, body, api_key, timeout_s) as reply:
        pieces = _pieces(reply, until, timeout_s, MAX_REPLY)
        if reply.status != 200:
            text = b"".join(pieces)[:4096].decode(errors="replace")
            raise Unreachable(f"HTTP {reply.status}: {text}")
        if "event-stream" not in (reply.headers.get("Content-Type") or ""):
            whole = b"".join(pieces)
            yield time.monotonic(), whole
            return
        rest = b""
        for piece in pieces:
            moment = time.monotonic()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield moment, line[5:].strip()
