"""CPU time of a set of processes, to tell a slow server from one that does not get its cores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from advisor.deploy.process_table import LINUX


def spent(pids: Iterable[int], *, proc: Path = Path("/proc")) -> float | None:
    """Seconds of CPU time that the processes have used so far, user and system, over all of their threads.

    ``None`` where none of them can be read, or the system is not Linux.
    """
    if not LINUX:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for pid in pids:
        try:
            raw = (proc / str(pid) / "stat").read_bytes()
            fields = raw[raw.rindex(b")") + 2 :].split()
            found.append((int(fields[11]) + int(fields[12])) / ticks)
        except (OSError, ValueError, IndexError):
            continue
    return sum(found) if found else None
