"""What a name says about a model's size, held against what its tensors say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# "7B", "0.5b", "135M", "8x7B" as a word of its own; "A3B" (active) is not one.
_SIZE: Final = re.compile(
    r"(?<![A-Za-z0-9.])(?:(?P<experts>\d{1,3})x)?(?P<n>\d{1,4}(?:\.\d{1,3})?)(?P<unit>[BbMm])(?![A-Za-z0-9])"
)
_UNITS: Final = {"b": 1e9, "m": 1e6}
# "8x7B" shares attention, so its sum is below 56e9; "7B" names models of 6.2e9 to 8.5e9.
_LOW, _HIGH = 0.6, 1.6


def named_size(name: str) -> float | None:
    """Number of weights that a name speaks of, experts multiplied out; ``None`` where it names none."""
    found = _SIZE.search(name)
    if not found:
        return None
    return float(found["n"]) * _UNITS[found["unit"].lower()] * int(found["experts"] or 1)


def size_mismatch(names: Iterable[str], params: int) -> str | None:
    """A note starting with ``mismatch:`` where one of ``names`` speaks of another size than ``params`` weights."""
    for name in names:
        said = named_size(name)
        if said and not _LOW * said <= params <= _HIGH * said:
            return f'mismatch: the name "{name[:80]}" speaks of {human(said)}, the tensors sum to {human(params)}'
    return None


def human(params: float) -> str:
    """``8.03B``, ``135M``: a number of weights, for messages."""
    return f"{params / 1e9:.3g}B" if params >= 1e9 else f"{params / 1e6:.3g}M"
