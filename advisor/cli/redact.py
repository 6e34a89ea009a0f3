"""The last barrier before text leaves: secrets of this process's environment are blotted out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from advisor.facts import redact
from advisor.facts.redact import BLOT

__all__ = ["BLOT", "anything", "secrets", "text"]


def secrets(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values that must not be shown, longest first."""
    return redact.secrets(os.environ if env is None else env)


def text(value: str, env: Mapping[str, str] | None = None) -> str:
    """``value`` without secrets."""
    return redact.text(value, secrets(env))


def anything(value: Any) -> Any:
    """The same for every string inside lists and dicts; what is no JSON becomes text."""
    return redact.anything(value, secrets())
