"""Progress, told to whoever wants to hear: the library itself never prints."""

from __future__ import annotations

import threading
from typing import Literal, Protocol

from advisor.errors import AdvisorError
from advisor.facts.base import Shape

EventKind = Literal["step-started", "progress", "step-finished", "step-reused", "step-failed", "note", "warning"]


class Event(Shape, frozen=True):
    """One thing that happened; ``done`` and ``total`` are in ``unit`` (``bytes``, ``tensors``, ``chunks`` ...)."""

    kind: EventKind
    step: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    seconds: float | None = None
    seconds_left: float | None = None


class Reporter(Protocol):
    """Called with each event, from the thread that does the work. What it raises is ignored."""

    def __call__(self, event: Event, /) -> None:
        """Hear one event."""
        ...


def silent(event: Event, /) -> None:
    """The reporter of a library call that named none."""


def safely(reporter: Reporter | None) -> Reporter:
    """Wrap a reporter so that its failures never stop the work."""
    if reporter is None:
        return silent

    def report(event: Event, /) -> None:
        try:
            reporter(event)
        except Exception:  # noqa: BLE001 - a broken progress bar must not break a deployment
            return

    return report


class Cancel:
    """A flag that a caller may set from any thread to stop the work at the next safe point."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the work was asked to stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep for ``seconds`` or until set; return whether it is set."""
        return self._event.wait(seconds)

    def wait_until_set(self) -> None:
        """Sleep until set."""
        self._event.wait()

    def check(self) -> None:
        """Raise ``interrupted`` if the flag is set.

        Raises:
            AdvisorError: ``interrupted``.
        """
        if self.is_set:
            raise AdvisorError("interrupted", "Stopped as asked; finished steps are kept.")
