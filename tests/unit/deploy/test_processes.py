from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from advisor.deploy import identity, process_table
from advisor.deploy.identity import Identity, identify, look, members, send
from advisor.deploy.process_table import SERVER_MARK, boot_id, process

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print(1, flush=True); time.sleep(300)"]


@pytest.fixture
def ours() -> Iterator[tuple[subprocess.Popen[bytes], Identity]]:
    with subprocess.Popen(SLEEP, env={SERVER_MARK: "u-1"}, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        who = identify(child.pid, SERVER_MARK, "u-1", boot_id())
        assert who is not None
        yield child, who
        child.kill()


def test_a_marked_process_is_recognized(ours: tuple[subprocess.Popen[bytes], Identity]) -> None:
    child, who = ours
    assert look(who) == "same"
    assert members("u-1", boot_id(), who) == [child.pid]
    assert members("u-1", boot_id()) == [child.pid]
    assert members("u-2", boot_id()) == []
    assert members("", boot_id()) == []
    assert members("u-1", "another boot") == []


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"boot_id": "another"}, "other"),
        ({"boot_id": ""}, "other"),
        ({"start": "1"}, "other"),
        ({"uuid": "u-2"}, "other"),
        ({"mark": "OTHER"}, "other"),
        ({"start": ""}, "unknown"),
        ({"uuid": ""}, "unknown"),
        ({"pid": 1}, "unknown"),
        ({"pid": 0}, "unknown"),
        ({"pid": -1}, "unknown"),
    ],
)
def test_any_difference_makes_a_stranger_that_is_not_signalled(
    ours: tuple[subprocess.Popen[bytes], Identity], change: dict[str, str | int], seen: str
) -> None:
    child, who = ours
    other = who._replace(**change)  # type: ignore[arg-type]
    assert look(other) == seen
    assert send(other, signal.SIGKILL) is False
    assert child.poll() is None


def test_a_zombie_is_dead_and_a_gone_process_is_gone(ours: tuple[subprocess.Popen[bytes], Identity]) -> None:
    child, who = ours
    assert send(who, signal.SIGKILL) is True
    until = time.monotonic() + 10
    while (found := process(child.pid)) is not None and found.alive:
        assert time.monotonic() < until
    assert found is not None
    assert found.state == "Z"
    assert look(who) == "gone"
    assert send(who, signal.SIGTERM) is False
    assert members("u-1", boot_id(), who) == []
    child.wait()
    assert look(who) == "gone"
    assert process(child.pid) is None


def test_without_pidfd_the_process_is_still_looked_at_first(
    ours: tuple[subprocess.Popen[bytes], Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    child, who = ours

    def refused(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr("advisor.deploy.identity.os.pidfd_open", refused)
    assert send(who._replace(uuid="u-2"), signal.SIGKILL) is False
    assert send(who, signal.SIGKILL) is True
    assert child.wait() == -signal.SIGKILL


def test_a_process_whose_environment_is_hidden_is_unknown(
    ours: tuple[subprocess.Popen[bytes], Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    child, who = ours
    monkeypatch.setattr(identity, "carries", lambda *_: None)
    assert look(who) == "unknown"
    assert send(who, signal.SIGKILL) is False
    assert child.poll() is None


def test_age_does_not_depend_on_the_time_of_day(ours: tuple[subprocess.Popen[bytes], Identity]) -> None:
    _, who = ours
    age = identity.age_s(who)
    assert age is not None
    assert 0 <= age < 600


def test_a_name_with_blanks_and_parentheses_does_not_confuse_the_table() -> None:
    script = "open('/proc/self/comm', 'w').write('a) R 1 (b'); print(1, flush=True); import time; time.sleep(300)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = process(child.pid)
        child.kill()
    assert found is not None
    assert (found.ppid, found.pgrp) == (os.getpid(), os.getpgid(0))


def test_the_table_of_systems_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("sysctl", "-n", "kern.bootsessionuuid"): "B-1\n",
        ("ps", "-o", "state=,ppid=,pgid=,lstart=", "-p", "77"): "Ss    1    77 Sat Nov  1 10:00:00 2025\n",
        ("ps", "-axo", "pid=,state=,ppid=,pgid=,lstart="): (
            "   77 Ss    1    77 Sat Nov  1 10:00:00 2025\n   78 Z    77    77 Sat Nov  1 10:00:01 2025\n"
        ),
        ("ps", "eww", "-o", "command=", "-p", "77"): "server --port 1 ADVISOR_DEPLOYMENT=u-1 PATH=/bin\n",
    }
    monkeypatch.setattr(process_table, "LINUX", False)
    monkeypatch.setattr(process_table, "output", lambda *argv: said.get(argv, ""))
    assert boot_id() == "B-1"
    found = process(77)
    assert found is not None
    assert (found.ppid, found.pgrp, found.start, found.alive) == (1, 77, "Sat Nov 1 10:00:00 2025", True)
    assert process(99) is None
    assert [p.alive for p in process_table.processes()] == [True, False]
    assert process_table.carries(77, SERVER_MARK, "u-1") is True
    assert process_table.carries(77, SERVER_MARK, "u-2") is False
    assert process_table.carries(99, SERVER_MARK, "u-1") is None
    assert [p.pid for p in process_table.marked(SERVER_MARK, "u-1")] == [77]
    assert look(Identity("B-1", 77, "Sat Nov 1 10:00:00 2025", SERVER_MARK, "u-1")) == "same"
    assert look(Identity("B-1", 77, "Sat Nov 1 10:00:00 2024", SERVER_MARK, "u-1")) == "other"
