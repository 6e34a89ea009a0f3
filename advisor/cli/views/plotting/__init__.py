"""Charts: what is drawn (``chart``), as SVG (``svg``), as PNG (``png``), in a terminal (``terminal``), and to where
(``target``)."""

from __future__ import annotations

from typing import Final

# What every file of ours says near its start.
DRAWN_BY: Final = "drawn by advisor"
