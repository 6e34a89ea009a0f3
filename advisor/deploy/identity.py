"""Is that process ours? Boot id, pid, start time and a random mark in its environment must all agree.

A process that cannot be identified is never signalled; a zombie is dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Literal, NamedTuple

from advisor.deploy.process_table import LINUX, SERVER_MARK, boot_id, carries, marked, process, processes

Look = Literal["same", "gone", "other", "unknown"]


class Identity(NamedTuple):
    """Who a process is. ``mark`` names the environment variable that holds ``uuid``."""

    boot_id: str
    pid: int
    start: str
    mark: str
    uuid: str


def look(who: Identity) -> Look:
    """Whether the process is still there and still the same; ``unknown`` where the system hides it."""
    if who.pid <= 1 or not who.uuid or not who.start:
        return "unknown"
    if not who.boot_id or who.boot_id != boot_id():
        return "other"
    try:
        seen = process(who.pid)
    except (OSError, ValueError):
        return "unknown"
    if seen is None or not seen.alive:
        return "gone"
    if seen.start != who.start:
        return "other"
    carried = carries(who.pid, who.mark, who.uuid)
    if carried is None:
        return "unknown"
    if carried:
        return "same"
    # It may have ended between the two looks: then its environment is empty.
    try:
        again = process(who.pid)
    except (OSError, ValueError):
        return "unknown"
    return "other" if again is not None and again.alive else "gone"


def send(who: Identity, number: int) -> bool:
    """Signal the process if it is certainly the one meant; return whether it was signalled.

    The descriptor is opened before the look: a pid that is given away in between cannot be hit.
    """
    if LINUX and hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(who.pid)
        except ProcessLookupError:
            return False
        except OSError:
            fd = -1  # an old kernel or a sandbox without this call
        if fd >= 0:
            try:
                if look(who) != "same":
                    return False
                signal.pidfd_send_signal(fd, number)
            except (ProcessLookupError, PermissionError):
                return False
            finally:
                os.close(fd)
            return True
    if look(who) != "same":
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(who.pid, number)
        return True
    return False


def members(uuid: str, boot: str, leader: Identity | None = None) -> list[int]:
    """Pids of all living processes of a deployment's server, grandchildren that changed group or session included.

    The process group counts only while its ``leader`` is certainly ours; the mark counts always.
    """
    if not uuid or not boot or boot != boot_id():
        return []
    found = {p.pid for p in marked(SERVER_MARK, uuid)}
    if leader is not None and look(leader) == "same":
        found |= {p.pid for p in processes() if p.alive and p.pgrp == leader.pid}
    return sorted(found)


def age_s(who: Identity) -> float | None:
    """Seconds since the process began, by the clock that nobody sets; ``None`` where the system has none."""
    if not LINUX:
        return None
    try:
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return max(0.0, uptime - int(who.start) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None


def identify(pid: int, mark: str, uuid: str, boot: str) -> Identity | None:
    """The identity of a living process that carries the mark now; ``None`` where it does not."""
    try:
        seen = process(pid)
    except (OSError, ValueError):
        return None
    if seen is None or not seen.alive:
        return None
    who = Identity(boot, pid, seen.start, mark, uuid)
    return who if look(who) == "same" else None
