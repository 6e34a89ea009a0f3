"""Limits that processes started from here live under: addresses and processes of the shell, tasks of control groups.

Sources: getrlimit(2) (``RLIMIT_AS``, ``RLIMIT_NPROC``), ``pids.max`` and ``pids.current`` of cgroup v1 and v2. A server
or a tool that advisor starts has the limits of advisor itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple

from advisor.probes import group_memory

Kind = Literal["addresses", "processes", "tasks"]
# A machine's memory counted twice: weights are mapped, and what is computed on lies beside them.
_TIMES: Final = 2
_MIB: Final = 1 << 20


class Bound(NamedTuple):
    """A limit that is set: its figure (bytes of addresses, else a number), itself in words, and the command that lifts
    it."""

    kind: Kind
    limit: int
    words: str
    lift: str


def addresses() -> Bound | None:
    """The limit on addresses (``ulimit -v``); ``None`` without one."""
    found = _rlimit("RLIMIT_AS")
    if found is None:
        return None
    soft, hard = found
    return Bound(
        "addresses",
        soft,
        f"{soft / _MIB:.0f} MiB of addresses (ulimit -v {soft >> 10}), which mapped files count against, too",
        _lift("v", "as", hard, 10),
    )


def addresses_in_the_way() -> int | None:
    """The limit on addresses in bytes, where it is met before the machine's memory is; else ``None``."""
    found, host = addresses(), group_memory.host()
    if found is None or (host is not None and found.limit >= _TIMES * host.limit):
        return None
    return found.limit


def processes() -> Bound | None:
    """The limit on the user's processes and threads (``ulimit -u``); ``None`` without one, and for root, whom it does
    not bind."""
    found = _rlimit("RLIMIT_NPROC")
    if found is None or os.geteuid() == 0:
        return None
    soft, hard = found
    return Bound(
        "processes",
        soft,
        f"{soft} processes and threads of this user (ulimit -u {soft})",
        _lift("u", "nproc", hard, 0),
    )


def tasks(*, proc: Path = group_memory.PROC, root: Path = group_memory.ROOT) -> Bound | None:
    """Of the own control groups the one with the fewest tasks left (``pids.max``); ``None`` without a limit."""
    least: tuple[int, Path, int, int] | None = None
    for group in group_memory.groups(proc=proc, root=root, controller="pids"):
        limit, used = (_number(group.folder / name) for name in ("pids.max", "pids.current"))
        if limit is not None and (least is None or limit - (used or 0) < least[0]):
            least = (limit - (used or 0), group.folder, limit, used or 0)
    if least is None:
        return None
    _, folder, limit, used = least
    return Bound(
        "tasks",
        limit,
        f"{limit} processes and threads in the control group {folder} (pids.max), {used} of them there now",
        f"echo max | sudo tee {folder}/pids.max",
    )


def met(code: str) -> tuple[Bound, ...]:
    """The limits that can be behind a refusal: ``address-space`` or ``thread-limit``, whose threads need addresses for
    their stacks, too. What has the least room comes first."""
    bounds = (addresses(),) if code == "address-space" else (tasks(), processes(), addresses())
    found = [b for b in bounds if b is not None]
    if code != "address-space" and addresses_in_the_way() is not None:
        found.sort(key=lambda b: b.kind != "addresses" and b.limit > 64)
    return tuple(found)


def _rlimit(name: str) -> tuple[int, int | None] | None:
    """The soft limit, and the hard one (``None``: none); ``None`` where the soft one is none."""
    if sys.platform == "win32":
        return None
    import resource

    kind = getattr(resource, name, None)
    if kind is None:
        return None
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY:
        return None
    return soft, None if hard == resource.RLIM_INFINITY else hard


def _lift(letter: str, name: str, hard: int | None, shift: int) -> str:
    """The shell's own command as far as the hard limit goes; beyond it an administrator's."""
    if hard is None:
        return f"ulimit -S -{letter} unlimited"
    return f"sudo prlimit --pid $$ --{name}=unlimited  # the hard limit is {hard >> shift}"


def _number(path: Path) -> int | None:
    try:
        word = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(word) if word.isdigit() else None
