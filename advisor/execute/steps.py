"""Does the steps of a plan one after the other: told to the reporter, written to the journal, recorded for the result.

A step's memory is the store: what a finished step made is found there under its key, so a run that was killed is simply
started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute.journal import Journal
from advisor.facts.results import StepRecord

T = TypeVar("T")


class Outcome(NamedTuple, Generic[T]):
    """What a step came to; ``reused``: it had been done before, nothing was made; ``detail``: a word for people."""

    value: T
    reused: bool = False
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """A named piece of work. ``key`` is the key of what it makes, where it makes something that is kept."""

    name: str
    run: Callable[[], Outcome[T]]
    key: str | None = None


class Steps:
    """One run of a plan. ``records`` lists its steps so far, failed ones included."""

    def __init__(
        self, *, reporter: Reporter | None = None, cancel: Cancel | None = None, journal: Journal | None = None
    ) -> None:
        self.reporter = safely(reporter)
        self.cancel = cancel or Cancel()
        self.records: list[StepRecord] = []
        self._journal = journal

    def do(self, step: Step[T]) -> T:
        """Do one step and return its value.

        Raises:
            AdvisorError: what the step raised, with ``data["step"]``; ``interrupted`` if it was asked to stop.
        """
        self.cancel.check()
        self._tell("step-started", step.name)
        started = time.monotonic()
        try:
            outcome = step.run()
        except BaseException as e:
            detail = e.message if isinstance(e, AdvisorError) else f"{type(e).__name__}: {e}"
            if isinstance(e, AdvisorError):
                e.data.setdefault("step", step.name)
            self._end(step, "failed", started, detail)
            raise
        self._end(step, "reused" if outcome.reused else "done", started, outcome.detail)
        return outcome.value

    def note(self, what: str, **fields: object) -> None:
        """Write a line of its own kind to the journal."""
        if self._journal is not None:
            self._journal.add(what, **fields)

    def _end(self, step: Step[T], outcome: str, started: float, detail: str | None) -> None:
        seconds = round(time.monotonic() - started, 3)
        self.records.append(StepRecord(name=step.name, key=step.key, outcome=outcome, seconds=seconds, detail=detail))
        self._tell(outcome, step.name, detail or "", seconds, step.key)

    def _tell(
        self, outcome: str, name: str, message: str = "", seconds: float | None = None, key: str | None = None
    ) -> None:
        if outcome == "step-started":
            self.reporter(Event(kind="step-started", step=name))
        elif outcome == "failed":
            self.reporter(Event(kind="step-failed", step=name, message=message, seconds=seconds))
        elif outcome == "reused":
            self.reporter(Event(kind="step-reused", step=name, message=message, seconds=seconds))
        else:
            self.reporter(Event(kind="step-finished", step=name, message=message, seconds=seconds))
        if self._journal is not None:
            self._journal.add(outcome, step=name, message=message, seconds=seconds, key=key)
