"""One short health request."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from advisor.deploy import transport
from advisor.facts.text import clean

Ready = Callable[[int, bytes], bool]
_LIMIT = 65536


class Health(NamedTuple):
    """``ready`` by the runtime's own reading of the reply; ``detail`` says why not."""

    ready: bool
    detail: str


def status_ok(status: int, body: bytes) -> bool:
    """The reading where the runtime has none of its own: HTTP 200."""
    return status == 200


def check(address: str, ready: Ready, *, timeout_s: float, api_key: str | None = None) -> Health:
    """Ask ``address`` (the whole URL) once. Never raises for what the server does."""
    try:
        reply = transport.fetch(address, api_key=api_key, timeout_s=timeout_s, limit=_LIMIT)
    except transport.Unreachable as e:
        return Health(False, clean(str(e)))
    if ready(reply.status, reply.body):
        return Health(True, "ready")
    body = clean(reply.body.decode(errors="replace"), 120)
    return Health(False, f"HTTP {reply.status} {body}".strip())
