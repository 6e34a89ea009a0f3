"""What every command is handed: the output sink, the settings, progress with cancellation, and questions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from advisor.errors import AdvisorError

from .sink import NO_COMMAND, Sink

if TYPE_CHECKING:
    from advisor.events import Cancel, Event
    from advisor.settings import Settings


class Work:
    """One long piece of work: its reporter, its cancel flag, which steps are over, and what it ``warned`` of."""

    def __init__(self, shown: object, cancel: Cancel, warned: set[str] | None = None) -> None:
        self._shown = shown
        self.cancel = cancel
        self.warned = warned if warned is not None else set()
        self.finished: set[str] = set()

    def reporter(self, event: Event, /) -> None:
        """Pass the event on and remember ended steps."""
        if event.kind in ("step-finished", "step-reused"):
            self.finished.add(event.step)
        if event.kind == "warning":
            self.warned.add(event.message)
        if callable(self._shown):
            self._shown(event)


class Run:
    """The state of one command line. ``command`` is its words joined by hyphens once they are known; ``interrupted``:
    a piece of work was asked to stop, whether or not it came to that."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.command = NO_COMMAND
        self.flags: frozenset[str] = frozenset()
        self.interrupted = False

    def begin(self, command: str, flags: frozenset[str]) -> None:
        """Take over the command's name and the common options that were given.

        Raises:
            AdvisorError: ``contradictory-options``.
        """
        self.command = command
        self.flags = flags
        self.sink.mode = "json" if "json" in flags else "quiet" if "quiet" in flags else "human"
        self.sink.verbose = "verbose" in flags
        if {"quiet", "verbose"} <= flags:
            raise AdvisorError("contradictory-options", "--quiet and --verbose exclude each other.")

    @property
    def verbose(self) -> bool:
        """More detail was asked for."""
        return self.sink.verbose

    @cached_property
    def settings(self) -> Settings:
        """Flags over environment over files over defaults.

        Raises:
            AdvisorError: ``no-home``, ``bad-settings-file`` or ``bad-option``.
        """
        from advisor import settings

        return settings.load({"offline": True if "offline" in self.flags else None})

    @contextmanager
    def working(self) -> Iterator[Work]:
        """Progress and Ctrl-C for the block. A broken progress display never stops the work."""
        from advisor.events import Cancel

        from .interrupt import cancelling
        from .progress import reporter

        mode = "quiet" if "quiet" in self.flags else self.sink.mode
        shown = reporter(mode, sys.stderr)
        work = Work(shown, Cancel(), self.sink.warned)
        try:
            with cancelling(work.cancel, self.sink.note):
                yield work
        finally:
            self.interrupted = self.interrupted or work.cancel.is_set
            shown.close()

    def confirm(self, question: str) -> None:
        """Ask before something is lost; ``--yes`` answers.

        Raises:
            AdvisorError: ``prompt-needs-terminal`` without one; ``interrupted`` when the answer is no.
        """
        if "yes" in self.flags:
            return
        if "json" in self.flags or not sys.stdin or not sys.stdin.isatty():
            raise AdvisorError(
                "prompt-needs-terminal", f"{question} There is no terminal to ask on; --yes answers yes."
            )
        if not self.ask(question):
            raise AdvisorError("interrupted", "Not done, as answered.")

    def ask(self, question: str) -> bool:
        """Ask on the terminal; only yes is yes."""
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")
