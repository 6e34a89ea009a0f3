"""A source made in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advisor.probes.source import Platform

MACHINES = Path(__file__).parents[2] / "fixtures" / "machines"
GIB = 1 << 30


class FakeSource:
    """Answers from what it is given; counts how often the driver is asked."""

    def __init__(
        self,
        files: dict[str, str] | None = None,
        *,
        names: dict[str, tuple[str, ...]] | None = None,
        present: tuple[str, ...] = (),
        affinity: tuple[int, ...] | None = tuple(range(4)),
        platform: Platform | None = None,
        links: dict[str, str] | None = None,
        replies: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.files = {"/proc/cpuinfo": "", "/proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n"}
        self.files |= files or {}
        self.listed = names or {}
        self.there = present
        self.cpus = affinity
        self.words = platform or Platform(system="Linux", machine="x86_64", cpu_count=4, memory_bytes=8 * GIB)
        self.links = links or {}
        self.replies = replies or {}
        self.asked = 0

    def text(self, path: str, /) -> str | None:
        return self.files.get(path)

    def names(self, path: str, /) -> tuple[str, ...] | None:
        return self.listed.get(path)

    def exists(self, path: str, /) -> bool:
        return path in self.there or path in self.files

    def affinity(self) -> tuple[int, ...] | None:
        return self.cpus

    def platform(self) -> Platform:
        return self.words

    def link(self, path: str, /) -> str | None:
        return self.links.get(path)

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        self.asked += 1
        return self.replies.get(question) or {"error": {"code": "no-answer", "message": "none"}}
