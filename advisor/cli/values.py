"""Values as people write them on a command line: sizes, bandwidths, durations, token counts."""

from __future__ import annotations

import re
from typing import Final

_DECIMAL: Final = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15}
_BINARY: Final = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_UNITS: Final = {**_DECIMAL, **_BINARY}
_SIZE: Final = re.compile(r"(?P<n>\d{1,18}(?:\.\d{1,18})?)\s*(?P<unit>[a-zA-Z]*)", re.ASCII)
_DURATION: Final = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_TOKENS: Final = re.compile(r"(\d{1,12})([kKmM]?)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of ``24GB`` (decimal), ``24GiB`` (binary) or a plain number of bytes.

    Raises:
        ValueError: a sentence that says what is wrong and how it is written.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size; write for example 24GB or 24GiB")
    unit = found["unit"]
    if re.fullmatch(r"[kKMGTP]i?b", unit) and unit not in ("kb", "kib"):
        raise ValueError(f"{text!r} counts bits; write bytes, for example {found['n']}{unit[:-1]}B")
    if unit.lower() in ("k", "m", "g", "t", "p"):
        prefix = unit.upper()
        raise ValueError(f"{text!r} may be decimal or binary; write {found['n']}{prefix}B or {found['n']}{prefix}iB")
    if unit and unit.lower() not in _UNITS:
        raise ValueError(f"{text!r} has no unit of size; write for example 24GB or 24GiB")
    if not unit and "." in found["n"]:
        raise ValueError(f"{text!r} is not a whole number of bytes; write for example 24GB or 24GiB")
    factor = _UNITS[unit.lower()] if unit else 1
    whole, _, fraction = found["n"].partition(".")
    size: int = int(whole + fraction) * factor // 10 ** len(fraction)
    if size <= 0:
        raise ValueError(f"{text!r} is no size: it must be above zero")
    return size


def parse_bandwidth(text: str) -> int:
    """Bytes per second of ``1008GB/s``, ``1.0TB/s`` or a plain number.

    Raises:
        ValueError: a sentence that says what is wrong and how it is written.
    """
    stripped = text.strip()
    body = stripped[:-2] if stripped.lower().endswith("/s") else stripped
    try:
        return parse_size(body)
    except ValueError as e:
        message = str(e).replace(repr(body), repr(text))
        raise ValueError(message.replace("24GB or 24GiB", "1008GB/s")) from None


def parse_duration(text: str) -> float:
    """Seconds of ``10m``, ``90s``, ``1h30m`` or a plain number of seconds.

    Raises:
        ValueError: a sentence that says what is wrong and how it is written.
    """
    stripped = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", stripped, re.ASCII):
        seconds = float(stripped)
    else:
        found = _DURATION.fullmatch(stripped)
        if not found or not stripped:
            raise ValueError(f"{text!r} is not a duration; write for example 90s, 10m or 1h30m")
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    if not 0 < seconds < 10**9:
        raise ValueError(f"{text!r} is no duration: it must be above zero and below 30 years")
    return seconds


def parse_tokens(text: str) -> int:
    """Tokens of ``8192`` or ``32k`` (1k = 1024 tokens).

    Raises:
        ValueError: a sentence that says what is wrong and how it is written.
    """
    found = _TOKENS.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a number of tokens; write for example 8192 or 32k")
    tokens = int(found[1]) * {"": 1, "k": 1024, "m": 1024**2}[found[2].lower()]
    if tokens <= 0:
        raise ValueError(f"{text!r} is no number of tokens: it must be above zero")
    return tokens


def parse_count(text: str) -> int:
    """A whole number above zero.

    Raises:
        ValueError: a sentence that says what is wrong and how it is written.
    """
    found = re.fullmatch(r"\d{1,12}", text.strip(), re.ASCII)
    if not found or int(found[0]) < 1:
        raise ValueError(f"{text!r} is no whole number above zero; write for example 4")
    return int(found[0])
