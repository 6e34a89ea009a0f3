"""What servers answer on their health paths."""

from __future__ import annotations

import json


def says_ok(status: int, body: bytes) -> bool:
    """Whether the answer is 200 with ``{"status": "ok"}``."""
    reply = _object(status, body)
    return reply is not None and reply.get("status") == "ok"


def lists_models(status: int, body: bytes) -> bool:
    """Whether the answer is 200 with a list of models that is not empty, as ``/v1/models`` gives it."""
    reply = _object(status, body)
    return reply is not None and bool(reply.get("data"))


def _object(status: int, body: bytes) -> dict[str, object] | None:
    if status != 200:
        return None
    try:
        reply = json.loads(body)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None
