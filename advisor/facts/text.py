"""Text that came from outside, made safe to show: terminal escapes, control and direction characters removed."""

from __future__ import annotations

import re
from typing import Final

# CSI, OSC (ended by BEL or ST), and other two-character escapes.
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def clean(text: str, limit: int | None = 200, *, one_line: bool = True) -> str:
    """Return ``text`` without escapes and control characters, cut to ``limit`` characters (``None``: not cut).

    Newlines and tabs become spaces where ``one_line``.
    """
    out = _CONTROL.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
    if one_line:
        out = " ".join(out.split())
    if limit is not None and len(out) > limit:
        out = out[: limit - 1] + "…"
    return out


def shell_word(text: str) -> str:
    """``text`` as one word of a command line that a person may copy: cleaned, and quoted where a shell would take it
    apart."""
    import shlex

    return shlex.quote(clean(text, 400))
