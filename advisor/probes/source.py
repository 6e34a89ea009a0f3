"""Every raw input of the probe goes through a source, so that a machine can be recorded and replayed elsewhere.

A bundle is a folder: ``bundle.json`` (what it is, and the answers that are not files) and ``files/``, the text files
that were read, under their own paths.

A source answers with text, names and plain JSON values only; it judges nothing. ``None`` means "not there or not
readable". The live source starts a process only for the questions of ``questions.py`` (a driver, a system tool), each
under a deadline, because a driver may hang in the kernel for ever.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Protocol

from advisor.errors import AdvisorError
from advisor.facts.base import Shape
from advisor.facts.text import clean

# /proc/cpuinfo is the longest that is read: 1.5 KB a thread, so 4 MiB holds over 2,000 threads.
MAX_TEXT_BYTES: Final = 4 << 20
MAX_NAMES: Final = 4096
MAX_REPLY_BYTES: Final = 1 << 20


class Platform(Shape, frozen=True, kw_only=True):
    """What the Python runtime knows of the system: ``uname`` words, CPU count, physical memory in bytes."""

    system: str
    machine: str
    cpu_count: int | None = None
    memory_bytes: int | None = None


class Source(Protocol):
    """Where raw facts come from: this machine, or a bundle."""

    def text(self, path: str, /) -> str | None:
        """The start (at most ``MAX_TEXT_BYTES``) of the file at an absolute ``path``; ``None`` if unreadable."""
        ...

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The sorted names in a folder; ``None`` if unreadable."""
        ...

    def exists(self, path: str, /) -> bool:
        """Whether something is at ``path``."""
        ...

    def affinity(self) -> tuple[int, ...] | None:
        """The CPUs this process may run on; ``None`` where the system has no such call."""
        ...

    def platform(self) -> Platform:
        """The words of ``uname``, the CPU count and the physical memory."""
        ...

    def link(self, path: str, /) -> str | None:
        """The last part of where the symbolic link at ``path`` leads; ``None`` if it is none."""
        ...

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        """The reply to one of ``questions.QUESTIONS``: a helper's JSON object, or ``stdout`` and ``exit`` of a program;
        ``{"error": {"code", "message"}}`` if there is none in time."""
        ...


class LiveSource:
    """This machine.

    Args:
        helper: the helper file that is started to ask a driver; its own by default.
    """

    def __init__(self, helper: Path | None = None) -> None:
        self._helper = helper or Path(__file__).with_name("ask.py")
        self._replies: dict[str, dict[str, Any]] = {}

    def text(self, path: str, /) -> str | None:
        """The file, opened without waiting."""
        try:
            # Unbuffered and non-blocking: a named pipe in place of a file must not stop the probe.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError):
            return None
        try:
            chunks: list[bytes] = []
            left = MAX_TEXT_BYTES
            while left > 0 and (chunk := os.read(descriptor, min(left, 1 << 18))):
                chunks.append(chunk)
                left -= len(chunk)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return b"".join(chunks).decode("utf-8", "replace")

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The folder."""
        try:
            with os.scandir(path) as entries:
                return tuple(sorted(entry.name for entry, _ in zip(entries, range(MAX_NAMES), strict=False)))
        except (OSError, ValueError):
            return None

    def exists(self, path: str, /) -> bool:
        """Whether the path is there."""
        return os.path.exists(path)  # noqa: PTH110 - os.path answers False where Path raises

    def affinity(self) -> tuple[int, ...] | None:
        """``sched_getaffinity``."""
        getter = getattr(os, "sched_getaffinity", None)
        if getter is None:
            return None
        try:
            return tuple(sorted(getter(0)))
        except OSError:
            return None

    def platform(self) -> Platform:
        """``uname`` and ``sysconf``."""
        words = os.uname()
        return Platform(
            system=words.sysname, machine=words.machine, cpu_count=os.cpu_count(), memory_bytes=_physical_memory()
        )

    def link(self, path: str, /) -> str | None:
        """The link."""
        try:
            return os.path.basename(os.readlink(path)) or None  # noqa: PTH115, PTH119 - never resolved, only read
        except (OSError, ValueError):
            return None

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        """Ask in a process of its own, once: several parts of the probe want ``sysctl``."""
        from advisor.probes.questions import ask

        if question not in self._replies:
            self._replies[question] = ask(question, deadline_s, helper=self._helper)
        return self._replies[question]


def bad_machine_file(path: Path, why: object) -> AdvisorError:
    """The error for a bundle or machine file that cannot be used."""
    return AdvisorError(
        "bad-machine-file",
        f"{clean(str(path))} is not a recorded machine: {clean(str(why))}.",
        hint="advisor probe --record DIR",
    )


def failure(code: str, message: str) -> dict[str, Any]:
    """A reply that says why there is none."""
    return {"error": {"code": code, "message": message}}


def _physical_memory() -> int | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    return pages * size if pages > 0 and size > 0 else None
