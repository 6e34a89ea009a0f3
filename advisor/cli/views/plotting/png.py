"""PNG from SVG by CairoSVG, where it is installed; advisor itself brings nothing that draws pixels."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from advisor.errors import AdvisorError

from . import DRAWN_BY

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MARK: Final = b"Comment\0" + DRAWN_BY.encode("latin-1")
_SCALE: Final = 2.0
# Signature and the header chunk: length, name, 13 bytes, checksum.
_AFTER_HEADER: Final = len(SIGNATURE) + 4 + 4 + 13 + 4


def converter() -> object:
    """The function that makes PNG of SVG.

    Raises:
        AdvisorError: ``tool-missing``: CairoSVG, or the library cairo that it calls, is not here.
    """
    import importlib

    try:
        return importlib.import_module("cairosvg").svg2png
    except (ImportError, OSError, AttributeError) as e:
        what = "CairoSVG" if isinstance(e, ImportError) else "the library cairo"
        raise AdvisorError(
            "tool-missing",
            f"PNG is drawn by CairoSVG, and {what} is not installed; an .svg file needs nothing.",
            hint="python -m pip install cairosvg",
        ) from e


def png(document: str) -> bytes:
    """The picture at twice its size in pixels, marked as drawn by advisor.

    Raises:
        AdvisorError: ``tool-missing``.
    """
    draw = converter()
    assert callable(draw)
    raw: bytes = draw(bytestring=document.encode(), scale=_SCALE)
    return marked(raw)


def marked(raw: bytes) -> bytes:
    """The PNG with a text chunk that says who drew it."""
    name = b"tEXt"
    chunk = struct.pack(">I", len(MARK)) + name + MARK + struct.pack(">I", zlib.crc32(name + MARK))
    return raw[:_AFTER_HEADER] + chunk + raw[_AFTER_HEADER:]
