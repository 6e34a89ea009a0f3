"""Host memory: how much there is, how much of it this process may have, and how much it could take now."""

from __future__ import annotations

import re
from typing import Final

from advisor.errors import AdvisorError
from advisor.facts.machine import HostMemory
from advisor.probes import cgroup
from advisor.probes.sanity import Notes
from advisor.probes.source import Platform, Source

_LINE: Final = re.compile(r"^([A-Za-z]\w*(?:\(\w+\))?):\s+(\d{1,18})(?:\s+kB)?\s*$", re.ASCII)


def meminfo(text: str) -> dict[str, int]:
    """``/proc/meminfo`` in bytes (its "kB" are 1,024 bytes); malformed lines are left out."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        match = _LINE.match(line)
        if match:
            found.setdefault(match[1], int(match[2]) * 1024)
    return found


def read_memory(source: Source, platform: Platform, notes: Notes, *, deadline_s: float = 3.0) -> HostMemory:
    """Read the host's memory.

    Args:
        deadline_s: for the question to macOS, which has no file that says what is free.

    Raises:
        AdvisorError: ``probe-failed`` when no source at all gives the size of the memory.
    """
    info = meminfo(source.text("/proc/meminfo") or "")
    total = notes.sane_int(info.get("MemTotal"), "memory", "memory.total_bytes", "/proc/meminfo")
    if total is None:
        total = notes.sane_int(platform.memory_bytes, "memory", "memory.total_bytes", "sysconf")
        notes.add("memory.total_bytes", "sysconf", "/proc/meminfo does not give it")
    else:
        notes.add("memory.total_bytes", "/proc/meminfo")
    if total is None:
        raise AdvisorError(
            "probe-failed",
            "The size of this machine's memory cannot be read: /proc/meminfo and sysconf both fail.",
            hint="advisor doctor",
        )
    free = notes.sane_int(_available(info, total, notes), "free memory", "memory.available_bytes", "/proc/meminfo")
    if free is None and platform.system == "Darwin":
        from advisor.probes import darwin

        free = darwin.available(source, deadline_s)
        free = None if free is None or free > total else free
        notes.add("memory.available_bytes", "vm_stat")
    limits = cgroup.memory_limits(source, cgroup.walk(source))
    limit: int | None = None
    for found in limits:
        if found.limit >= total:
            continue
        if found.limit <= 0 or notes.sane_int(found.limit, "memory", "memory.limit_bytes", found.source) is None:
            continue
        if found.used is not None:
            left = max(0, found.limit - found.used)
            free = left if free is None else min(free, left)
        elif free is not None:
            free = min(free, found.limit)
        if limit is None or found.limit < limit:
            limit = found.limit
            notes.add("memory.limit_bytes", found.source)
    if limit is None:
        notes.add("memory.limit_bytes", "cgroup" if limits else "none", "no limit below the memory of the machine")
    if free is None:
        notes.add("memory.available_bytes", platform.system, "not given; unknown")
    return HostMemory(total_bytes=total, limit_bytes=limit, available_bytes=free)


def _available(info: dict[str, int], total: int, notes: Notes) -> int | None:
    if "MemAvailable" in info:
        value = info["MemAvailable"]
    elif "MemFree" in info:
        # Kernels before 3.14 do not give it: free pages and what caches can give back.
        value = info["MemFree"] + info.get("Buffers", 0) + info.get("Cached", 0) + info.get("SReclaimable", 0)
        notes.add("memory.available_bytes", "/proc/meminfo", "MemAvailable is missing; free memory and caches added up")
    else:
        return None
    if value > total:
        notes.add("memory.available_bytes", "/proc/meminfo", f"invalid: {value} of {total} bytes; taken as unknown")
        return None
    return value
