"""Text without secrets: values of secret environment variables, hub tokens, keys in headers, logins in addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

BLOT: Final = "[redacted]"
_NAME: Final = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_?KEY)(?:_ID)?$", re.IGNORECASE)
_HUB_TOKEN: Final = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_BEARER: Final = re.compile(r"(?i)\b(bearer|authorization:\s*\w+)\s+[A-Za-z0-9._~+/=-]{8,}")
_URL_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# Shorter values would blot out ordinary words.
_SHORTEST: Final = 8


def secrets(env: Mapping[str, str]) -> tuple[str, ...]:
    """The values of ``env`` that must not be shown, longest first."""
    found = {v for k, v in env.items() if _NAME.search(k) and len(v) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def text(value: str, known: Sequence[str]) -> str:
    """``value`` without the ``known`` secrets, and without what looks like one."""
    for secret in known:
        value = value.replace(secret, BLOT)
    value = _HUB_TOKEN.sub(BLOT, value)
    value = _BEARER.sub(lambda m: f"{m[1]} {BLOT}", value)
    return _URL_LOGIN.sub(BLOT, value)


def anything(value: Any, known: Sequence[str]) -> Any:
    """The same for every string inside lists and dicts; what is no JSON becomes text."""
    if isinstance(value, str):
        return text(value, known)
    if isinstance(value, dict):
        return {str(k): anything(v, known) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [anything(v, known) for v in value]
    return value if value is None or isinstance(value, bool | int | float) else text(str(value), known)
