"""Asks for the key on every path of a server but ``/health``. Standard library only.

vLLM's own check leaves several paths open that generate text (``/invocations`` for instance) or that show what runs
(``/metrics``), so that a key would guard only part of a server that others can reach.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

OPEN = frozenset({"/health"})
_keys: tuple[bytes, ...] = ()


def set_keys(keys: list[str]) -> None:
    """The keys that are let in; one of them is enough. They live in this process alone."""
    global _keys
    _keys = tuple(k.encode() for k in keys)


def allowed(path: str, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request for ``path`` with these headers (names in lower case) may pass; with no keys, none may."""
    if path in OPEN:
        return True
    given = [value for name, value in headers if name == b"authorization"]
    scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
    if scheme.lower() != b"bearer":
        return False
    found = False
    for key in _keys:  # all of them, so that time tells nothing
        found |= hmac.compare_digest(token.strip(), key)
    return found


class Guard:
    """ASGI middleware: 401 without the key."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on or refuse one connection."""
        if scope["type"] not in ("http", "websocket") or allowed(scope["path"], list(scope["headers"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = b'{"error": {"message": "the key is missing or wrong", "type": "authentication_error"}}'
            head = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": head})
            await send({"type": "http.response.body", "body": body})
