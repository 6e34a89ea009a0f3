"""Streams that can always be written: characters that an encoding lacks are written in a plain form, never raised."""

from __future__ import annotations

import codecs
import sys
from typing import Final, TextIO

HANDLER: Final = "advisor-plain"
_PLAIN: Final = {
    "…": "...",
    "–": "-",
    "—": "-",
    "·": "-",
    "•": "-",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "±": "+-",
    "✓": "ok",
    "✗": "no",
    "“": '"',
    "”": '"',
    "’": "'",
    "━": "-",
    "─": "-",
    "│": "|",
}


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error(HANDLER, _plain)


def prepare(stream: TextIO | None) -> TextIO:
    """Return ``stream`` made safe to write; a closed one (``>&-``) becomes the null device."""
    if stream is None or stream.closed:
        return open_null()
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=HANDLER)
    return stream


def open_null() -> TextIO:
    """A text stream that swallows everything."""
    import os

    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - lives as long as the process


def hang_up() -> None:
    """Point standard output at the null device after its reader has gone, so that the exit flush is quiet."""
    import os

    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        sys.stdout = open_null()
