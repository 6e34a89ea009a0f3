"""The last barrier before text leaves: values of secret environment variables and hub tokens are blotted out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

BLOT: Final = "[redacted]"
_NAME: Final = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_?KEY)(?:_ID)?$", re.IGNORECASE)
_HUB_TOKEN: Final = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_BEARER: Final = re.compile(r"(?i)\b(bearer|authorization:\s*\w+)\s+[A-Za-z0-9._~+/=-]{8,}")
_URL_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# Shorter values would blot out ordinary words.
_SHORTEST: Final = 8


def secrets(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values that must not be shown, longest first."""
    env = os.environ if env is None else env
    found = {v for k, v in env.items() if _NAME.search(k) and len(v) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def text(value: str, env: Mapping[str, str] | None = None) -> str:
    """``value`` without secrets."""
    for secret in secrets(env):
        value = value.replace(secret, BLOT)
    value = _HUB_TOKEN.sub(BLOT, value)
    value = _BEARER.sub(lambda m: f"{m[1]} {BLOT}", value)
    return _URL_LOGIN.sub(BLOT, value)


def anything(value: Any) -> Any:
    """The same for every string inside lists and dicts; what is no JSON becomes text."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {str(k): anything(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [anything(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float) else text(str(value))
