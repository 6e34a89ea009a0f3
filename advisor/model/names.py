"""Names of models: how they are compared, and what they say about a size, held against what the tensors say."""

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
_SEPARATORS: Final = re.compile(r"[\s_:-]+")
_BEFORE_DIGIT: Final = re.compile(r"(?<=[a-z])-(?=\d)")
# How files and repositories of packed weights are called: "-GGUF", "-AWQ", ":q4_K_M", "-bnb-4bit", "-MLX-8bit".
_PACKING: Final = re.compile(
    r"[-_:](?:gguf|awq|gptq|nvfp4|mxfp4|fp8|w8a8|w4a16|mlx|bnb|exl2|exl3|int[48]|[48]bit|bf16|fp16|f16"
    r"|(?:ud-)?i?q\d(?:_[a-z0-9]+)*)(?:[-_](?:dynamic|\d+bit|int\d|g\d+))*$",
    re.IGNORECASE,
)


def key(name: str) -> str:
    """A name as it is compared: without case; ``_``, ``:``, blanks and ``-`` are the same, and a hyphen between a
    letter and a digit may be left out. A hub id (``org/name``) and ``pypi:PACKAGE`` have to be exact but for case.
    """
    word = name.strip().lower()
    if "/" in word or word.startswith("pypi:"):
        return word
    return _BEFORE_DIGIT.sub("", _SEPARATORS.sub("-", word).strip("-"))


def begins(word: str, start: str) -> bool:
    """Whether the key ``start`` is the beginning of the key ``word``, cut where a part of the name ends."""
    if not start or not word.startswith(start) or len(word) <= len(start):
        return False
    return word[len(start)] == "-" or (start[-1].isalpha() and word[len(start)].isdigit())


def without_packing(name: str) -> str:
    """A name without what says how its weights are packed: ``llama3.1:8b-q4_K_M`` is ``llama3.1:8b``."""
    while (shorter := _PACKING.sub("", name)) != name and shorter:
        name = shorter
    return name


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
    return f"{params / 1e9:.3g}B" if params >= 999.5e6 else f"{params / 1e6:.3g}M"
