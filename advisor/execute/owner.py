"""Who a half-made folder belongs to, so that leftovers of a dead process are told from work in progress.

A process is named by its kernel (boot id, PID namespace, host name), its PID and its start time: a PID alone may have
been given to somebody else since.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


@cache
def kernel() -> str:
    """Twelve hex digits that differ between boots, machines and PID namespaces."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    seed = "\0".join((_read("/proc/sys/kernel/random/boot_id"), namespace, os.uname().nodename))
    return hashlib.sha256(seed.encode()).hexdigest()[:12]


def start_time(pid: int) -> str | None:
    """The start time of a live process in clock ticks since boot; ``"0"`` where the system does not tell.

    ``None``: there is no such process, or it is a zombie.
    """
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        # The command name stands in brackets and may hold spaces and brackets itself.
        fields = stat[stat.rfind(")") + 2 :].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "0"
    return "0"


def me() -> str:
    """This process as ``KERNEL.PID.START``."""
    return f"{kernel()}.{os.getpid()}.{start_time(os.getpid()) or '0'}"


def is_alive(name: str) -> bool | None:
    """Whether the process called ``KERNEL.PID.START`` lives; ``None``: it cannot be known from here."""
    parts = name.split(".")
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    if parts[0] != kernel():
        return None
    return start_time(int(parts[1])) == parts[2]
