from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from advisor.cli import progress
from advisor.cli.interrupt import cancelling
from advisor.events import Cancel, Event


class Terminal(io.StringIO):
    encoding: str = "utf-8"

    def isatty(self) -> bool:
        return True


EVENTS = (
    Event(kind="step-started", step="fetch"),
    *(
        Event(
            kind="progress",
            step="fetch",
            done=float(n * 2**20),
            total=float(100 * 2**20),
            unit="bytes",
            seconds_left=100.0 - n,
        )
        for n in range(101)
    ),
    Event(kind="step-finished", step="fetch", message="smol", seconds=12.0),
    Event(kind="step-reused", step="quantize", message="q4_k_m"),
    Event(kind="note", step="launch", message="waiting \x1b[31mfor\x1b[0m it"),
    Event(kind="warning", step="launch", message="little memory"),
    Event(kind="step-failed", step="launch", message="ended", seconds=1.0),
)


def shown(mode: str, stream: io.StringIO) -> str:
    reporter = progress.reporter(mode, stream)
    try:
        for event in EVENTS:
            reporter(event)
    finally:
        reporter.close()
    return stream.getvalue()


def test_json_lines_carry_every_event() -> None:
    lines = [json.loads(line) for line in shown("json", io.StringIO()).splitlines()]
    assert len(lines) == len(EVENTS)
    assert lines[5]["done"] == 4 * 2**20
    assert {line["kind"] for line in lines} >= {"step-started", "progress", "step-finished", "note", "warning"}


def test_lines_speak_every_tenth() -> None:
    lines = shown("human", io.StringIO()).splitlines()
    assert lines[0] == "fetch: started"
    assert lines[1] == "fetch: 10% 10.0 MiB of 100 MiB, 1 min 30 s left"
    assert sum("%" in line for line in lines) == 10
    assert lines[-5:] == [
        "fetch: done in 12 s: smol",
        "quantize: reused: q4_k_m",
        "launch: waiting for it",
        "warning: little memory",
        "launch: failed in 1.0 s",
    ]


def test_quiet_keeps_warnings() -> None:
    assert shown("quiet", io.StringIO()) == "warning: little memory\n"


@pytest.mark.parametrize("columns", ["20", "100"])
def test_bars_leave_a_list_of_steps(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    text = shown("human", Terminal())
    assert "✓" in text
    assert "✗" in text
    assert "reused" in text
    assert "little" in text
    assert "31mfor" not in text  # the foreign escape is gone
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text  # the cursor is back


def test_amounts() -> None:
    assert progress.amount(Event(kind="progress", step="s", done=3.0, total=10.0, unit="tensors")) == "3 of 10 tensors"
    assert progress.amount(Event(kind="progress", step="s", done=3.0)) == "3"
    assert progress.amount(Event(kind="progress", step="s")) == ""


def test_events_may_come_from_many_threads() -> None:
    stream = io.StringIO()
    reporter = progress.reporter("json", stream)

    def work() -> None:
        for event in EVENTS:
            reporter(event)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 4 * len(EVENTS)


def test_secrets_are_blotted_out_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-4f1d9a77b2")
    for mode in ("json", "human"):
        stream = io.StringIO()
        progress.reporter(mode, stream)(Event(kind="note", step="fetch", message="token canary-4f1d9a77b2"))
        assert "canary" not in stream.getvalue()


def test_outside_the_main_thread_no_signal_is_taken() -> None:
    caught: list[Any] = []

    def work() -> None:
        try:
            with cancelling(Cancel(), caught.append):
                pass
        except BaseException as e:
            caught.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == []


def test_handlers_are_put_back() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    with cancelling(Cancel(), lambda text: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
