"""What runners say on descriptor 3: JSON lines of progress, and one result or error at the end."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from advisor.events import Event, Reporter
from advisor.facts.text import clean


class Talk:
    """What one runner said: its ``result`` or ``error``; progress goes on to the reporter."""

    def __init__(self, step: str, reporter: Reporter) -> None:
        self.step, self.reporter = step, reporter
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.first: tuple[float, float] | None = None
        self._counts: tuple[object, float | None] = (None, None)

    def hear(self, line: bytes) -> None:
        """Take in one line; what is not of the protocol is passed over."""
        try:
            said = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if not isinstance(said, dict):
            return
        kind, data = said.get("type"), said.get("data")
        if kind == "result" and isinstance(data, dict):
            self.result = data
        elif kind == "error":
            self.error = said
        elif kind == "progress":
            self._progress(said)

    def _progress(self, said: dict[str, Any]) -> None:
        done, total = _number(said.get("done")), _number(said.get("total"))
        now = time.monotonic()
        left = None
        if done is not None:
            if self.first is None or done < self.first[1] or self._counts != (said.get("unit"), total):
                # Another count: the rate of the one before says nothing about it.
                self.first, self._counts = (now, done), (said.get("unit"), total)
            if total is not None and done > self.first[1]:
                left = round(max(0.0, (total - done) * (now - self.first[0]) / (done - self.first[1])), 1)
        unit = said.get("unit")
        self.reporter(
            Event(
                kind="progress",
                step=self.step,
                message=clean(str(said.get("message") or "")),
                done=done,
                total=total,
                unit=clean(unit) if isinstance(unit, str) else None,
                seconds_left=left,
            )
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
