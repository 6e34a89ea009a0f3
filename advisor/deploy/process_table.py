"""The process table: which processes there are, when they started, and which mark they carry.

Standard library only: the supervisor loads this file without the package.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING or __package__:
    from advisor.deploy.spawn import output
else:  # loaded by the supervisor
    from spawn import output

SERVER_MARK: Final = "ADVISOR_DEPLOYMENT"
SHIM_MARK: Final = "ADVISOR_SUPERVISOR"
LINUX: Final = sys.platform.startswith("linux")


class Proc(NamedTuple):
    """A line of the process table. ``start`` is the system's own start time: ticks since boot on Linux."""

    pid: int
    state: str
    ppid: int
    pgrp: int
    start: str

    @property
    def alive(self) -> bool:
        """A zombie is dead: it only waits for its parent to look."""
        return self.state[:1] not in ("Z", "X", "x")


def boot_id() -> str:
    """What tells one boot of one machine from every other; empty where the system does not say."""
    if LINUX:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""
    return output("sysctl", "-n", "kern.bootsessionuuid").strip()


def process(pid: int) -> Proc | None:
    """Look one process up; ``None`` where there is none.

    Raises:
        PermissionError: the system hides it.
    """
    if LINUX:
        try:
            raw = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name may hold blanks and parentheses: the fields start after the last ")".
        fields = raw[raw.rindex(b")") + 2 :].split()
        return Proc(pid, fields[0].decode(), int(fields[1]), int(fields[2]), fields[19].decode())
    parts = output("ps", "-o", "state=,ppid=,pgid=,lstart=", "-p", str(pid)).split(None, 3)
    if len(parts) != 4:
        return None
    return Proc(pid, parts[0], int(parts[1]), int(parts[2]), " ".join(parts[3].split()))


def processes() -> Iterator[Proc]:
    """All processes that can be seen, dead ones included."""
    if LINUX:
        for entry in os.listdir("/proc"):  # noqa: PTH208 - hundreds of entries, called in a loop
            if entry.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    found = process(int(entry))
                    if found is not None:
                        yield found
        return
    for line in output("ps", "-axo", "pid=,state=,ppid=,pgid=,lstart=").splitlines():
        parts = line.split(None, 4)
        if len(parts) == 5:
            yield Proc(int(parts[0]), parts[1], int(parts[2]), int(parts[3]), " ".join(parts[4].split()))


def carries(pid: int, mark: str, value: str) -> bool | None:
    """Whether the process was started with ``mark=value`` in its environment; ``None`` where that is hidden."""
    wanted = f"{mark}={value}".encode()
    if LINUX:
        try:
            return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        except OSError:
            return None
    shown = output("ps", "eww", "-o", "command=", "-p", str(pid))
    return wanted.decode() in shown.split() if shown else None


def marked(mark: str, value: str) -> list[Proc]:
    """The living processes of this user that carry the mark, whatever group or session they moved to."""
    mine = os.geteuid()
    found = []
    for p in processes():
        if not p.alive or p.pid == os.getpid():
            continue
        if LINUX:
            try:
                if os.stat(f"/proc/{p.pid}").st_uid != mine:  # noqa: PTH116
                    continue
            except OSError:
                continue
        if carries(p.pid, mark, value):
            found.append(p)
    return found
