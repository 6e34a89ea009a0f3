"""Progress on standard error: bars on a terminal, plain lines elsewhere, JSON lines with ``--json``."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from advisor.events import Event
from advisor.facts import shown
from advisor.facts.text import clean

from . import redact
from .sink import encode, write_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Plain lines: a step speaks so often.
_PARTS: Final = 10
# Bars: only steps that tell how much there is to do get one.
_MARKS: Final = {"step-finished": "✓", "step-reused": "✓", "step-failed": "✗"}


class Shown(Protocol):
    """A reporter that has to be ended."""

    def __call__(self, event: Event, /) -> None:
        """Show the event."""

    def close(self) -> None:
        """Leave the stream as a terminal should be."""


def text_of(event: Event) -> str:
    """The message, safe to show."""
    return clean(redact.text(event.message), 2000 if event.kind == "warning" else 500)


def amount(event: Event) -> str:
    """``1.20 GiB of 4.60 GiB, 30 s left`` as far as it is known."""
    parts: list[str] = []
    if event.done is not None:
        show = shown.size if event.unit == "bytes" else shown.plain
        said = show(event.done)
        if event.total is not None:
            said += f" of {show(event.total)}"
        if event.unit not in (None, "bytes"):
            said += f" {clean(event.unit or '', 40)}"
        parts.append(said)
    if event.seconds_left is not None and event.done != event.total:
        parts.append(f"{shown.seconds(event.seconds_left)} left")
    return ", ".join(parts)


def ended(event: Event) -> str:
    """``fetch  12 s  detail`` of a step that is over."""
    step = clean(event.step, 60)
    if event.kind == "step-reused":
        took = "reused"
    else:
        took = shown.seconds(event.seconds) if event.seconds is not None else ""
    told = "failed" if event.kind == "step-failed" else text_of(event)  # why is the error that follows
    return "  ".join(part for part in (f"{step:<12}", f"{took:<9}", told) if part.strip()).rstrip()


class JsonLines:
    """Each event as one line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, event: Event, /) -> None:
        """Write the event."""
        told = redact.anything(event.to_json())
        with self._lock:
            write_line(self._stream, encode(told).decode())

    def close(self) -> None:
        """Nothing is held open."""


class Quiet:
    """Only warnings."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event, /) -> None:
        """Write the event if it is a warning."""
        if event.kind == "warning":
            write_line(self._stream, f"warning: {text_of(event)}")

    def close(self) -> None:
        """Nothing is held open."""


class Lines:
    """Plain lines for logs and pipes: starts, ends, and every tenth of what can be counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._said: dict[str, int] = {}

    def __call__(self, event: Event, /) -> None:
        """Write the event where it says something new."""
        with self._lock:
            line = self._line(event)
            if line:
                write_line(self._stream, line)

    def _line(self, event: Event) -> str:
        step = clean(event.step, 60)
        if event.kind == "step-started":
            self._said[event.step] = 0
            return f"{step}: {text_of(event) or 'started'}"
        if event.kind == "progress":
            if not event.total or event.done is None:
                return ""
            share = event.done / event.total
            part = int(share * _PARTS + 1e-9)
            if part <= self._said.get(event.step, 0):
                return ""
            self._said[event.step] = part
            return f"{step}: {min(share, 1.0):.0%} {amount(event)}"
        if event.kind == "warning":
            return f"warning: {text_of(event)}"
        if event.kind == "note":
            return f"{step}: {text_of(event)}" if step else text_of(event)
        word = {"step-finished": "done", "step-reused": "reused", "step-failed": "failed"}[event.kind]
        took = f" in {shown.seconds(event.seconds)}" if event.seconds is not None else ""
        # Why a step failed is the error that follows.
        told = f": {text_of(event)}" if event.message and event.kind != "step-failed" else ""
        return f"{step}: {word}{took}{told}"

    def close(self) -> None:
        """Nothing is held open."""


class Bars:
    """A list of finished steps with one living line below it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        spinner = "line" if self._console.options.ascii_only else "dots"
        bar = () if self._console.width < 60 else (BarColumn(bar_width=24),)
        self._progress: Progress = Progress(
            SpinnerColumn(spinner),
            TextColumn("{task.description}", markup=False),
            *bar,
            TextColumn("{task.fields[said]}", style="dim", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._progress.start()

    def __call__(self, event: Event, /) -> None:
        """Move the bar, or write a finished step above it."""
        with self._lock:
            if event.kind in ("step-started", "progress"):
                self._move(event)
            elif event.kind in _MARKS:
                self._end(event)
            else:
                lead = "warning: " if event.kind == "warning" else "  "
                self._console.print(lead + text_of(event), style="yellow" if event.kind == "warning" else "dim")

    def _move(self, event: Event) -> None:
        said = amount(event) or text_of(event)
        if event.step not in self._tasks:
            name = f"{clean(event.step, 60):<12}"
            self._tasks[event.step] = self._progress.add_task(name, total=None, said=said)
        task = self._tasks[event.step]
        if event.total:
            self._progress.update(task, total=event.total, completed=event.done or 0, said=said)
        else:
            self._progress.update(task, said=said)

    def _end(self, event: Event) -> None:
        task = self._tasks.pop(event.step, None)
        if task is not None:
            self._progress.remove_task(task)
        mark = _MARKS[event.kind]
        if self._console.options.ascii_only:
            mark = "x" if event.kind == "step-failed" else "+"
        style = "red" if event.kind == "step-failed" else "green"
        from rich.text import Text

        self._console.print(Text(f"{mark} ", style=style).append(ended(event), style="default"))

    def close(self) -> None:
        """Remove the living line; a terminal that was closed has none."""
        with suppress(OSError, ValueError):
            self._progress.stop()


def reporter(mode: str, stream: TextIO) -> Shown:
    """The reporter for an output mode and a stream."""
    if mode == "json":
        return JsonLines(stream)
    if mode == "quiet":
        return Quiet(stream)
    return Bars(stream) if stream.isatty() else Lines(stream)
