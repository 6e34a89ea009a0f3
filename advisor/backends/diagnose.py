"""Turning a log tail into a named finding: a table of patterns, first match wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from advisor.facts.results import Finding
from advisor.facts.text import clean

_TAIL: Final = 64 << 10


class Known(NamedTuple):
    """A failure that logs show: a regular expression, the message (``{0}`` is the line), and what to do."""

    expression: str
    code: str
    message: str
    remedy: str
    sources: tuple[str, ...] = ()

    @property
    def pattern(self) -> re.Pattern[str]:
        """The expression, over many lines; compiled when a log is looked at, which planning never does."""
        return _compiled(self.expression)


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE | re.MULTILINE)


def known(expression: str, code: str, message: str, remedy: str, *sources: str) -> Known:
    """A table entry; ``expression`` ignores case and ``^`` and ``$`` are of lines."""
    return Known(expression, code, message, remedy, sources)


def first(table: Sequence[Known], log_tail: str) -> Finding | None:
    """The finding of the first entry that matches the last 64 KiB of a log."""
    tail = log_tail[-_TAIL:]
    for entry in table:
        m = entry.pattern.search(tail)
        if m is None:
            continue
        start, end = tail.rfind("\n", 0, m.start()) + 1, tail.find("\n", m.end())
        line = clean(tail[start : end if end >= 0 else len(tail)], 300)
        return Finding(
            code=entry.code, message=entry.message.replace("{0}", line), remedy=entry.remedy, sources=entry.sources
        )
    return None


CUDA: Final = (
    known(
        r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|cudaErrorMemoryAllocation",
        "out-of-memory",
        "The device has too little memory: {0}",
        "Take a smaller context, fewer requests at once, or a smaller format: advisor recommend --goal smallest-memory",
    ),
    known(
        r"driver version is insufficient|forward compatibility was attempted on non supported HW|"
        r"NVIDIA driver on your system is too old",
        "driver-too-old",
        "The NVIDIA driver is too old for this build: {0}",
        "Update the driver, then: advisor doctor",
    ),
    known(
        r"no kernel image is available for execution|compute capability.{0,80}(not supported|minimum)|"
        r"not supported (on|for) (the current )?GPU",
        "device-too-old",
        "The device lacks what this format needs: {0}",
        "Take another format: advisor recommend --method gguf",
    ),
    known(
        r"divisible by.{0,60}group|group.?size.{0,80}divisible|"
        r"not divisible by (weight )?(quantization )?(group|tensor)",
        "group-size",
        "The group size does not divide a row of the model, or of one device's share of it: {0}",
        "Take a smaller group or fewer devices: advisor quantize MODEL --group-size 32",
    ),
    known(
        r"compressed.tensors.{0,80}version|Unknown quantization (method|config)|"
        r"quantization.{0,40}is not (fully )?supported",
        "format-unknown",
        "The runtime does not know this quantization: {0}",
        "Take a format it loads: advisor recommend MODEL",
    ),
    known(
        r"ModuleNotFoundError: No module named",
        "package-missing",
        "A package is missing in the environment: {0}",
        "advisor env doctor",
    ),
)
