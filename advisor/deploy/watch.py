"""Watches the memory that a server lives in: how near its limits are, and whether the kernel killed for lack of it.

Standard library only: the supervisor loads this file without the package.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING or __package__:
    from advisor.deploy.log_pipe import now
    from advisor.deploy.spawn import output
    from advisor.probes.group_memory import Group, Kills, Level, groups, nearest, tightest
else:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "probes"))
    from group_memory import Group, Kills, Level, groups, nearest, tightest

    del sys.path[0]
    from log_pipe import now
    from spawn import output

# Shares of a memory at which it counts as nearly full, and below which no longer. What a model takes of a device is
# reserved when it is loaded, and plans leave a twentieth free; a host's memory is filled by traffic.
NEAR: Final = 0.9
NEAR_ON_DEVICE: Final = 0.98
_CLEAR: Final = 0.05
# Seconds between two looks; a device's tool takes a hundred times as long as the kernel's files.
EVERY_S: Final = 5.0
DEVICES_EVERY_S: Final = 60.0
_PAIR: Final = re.compile(r"^\s*(\d+)\s*,\s*(\d+)\s*$")


def device_level(device: dict[str, str], *, sys_root: Path = Path("/sys")) -> Level | None:
    """Memory in use of a device: ``{"id": "gpu0", "vendor": "nvidia", "uuid": ...}`` or ``"amd"`` with ``"pci"``."""
    where = f"the memory of {device.get('id', 'a device')}"
    if device.get("vendor") == "nvidia" and device.get("uuid"):
        told = output("nvidia-smi", f"--id={device['uuid']}", "--query-gpu=memory.used,memory.total",
                      "--format=csv,noheader,nounits")  # fmt: skip
        m = _PAIR.match(told)
        return Level(where, int(m[1]) << 20, int(m[2]) << 20) if m else None
    if device.get("vendor") == "amd" and device.get("pci"):
        folder = sys_root / "bus" / "pci" / "devices" / device["pci"]
        try:
            used = int((folder / "mem_info_vram_used").read_text())
            whole = int((folder / "mem_info_vram_total").read_text())
        except (OSError, ValueError):
            return None
        return Level(where, used, whole)
    return None


def seen(level: Level, *, near: bool) -> dict[str, Any]:
    """A level as ``status.json`` keeps it."""
    return {"where": level.where, "bytes": level.used, "limit_bytes": level.limit, "near": near, "seen_at": now()}


class Watch:
    """Looks at one server's memory from time to time."""

    def __init__(self, devices: list[dict[str, str]]) -> None:
        self.devices = devices
        self.kills = Kills()
        self.near: dict[str, Any] | None = None
        self.limit: int | None = None
        self._groups: tuple[Group, ...] = ()
        self._next = self._next_devices = 0.0
        self._on_devices: list[Level] = []

    def begin(self, pid: int) -> None:
        """A server was started."""
        self.kills = Kills(pid)
        self._see_limit(pid)
        self._next = self._next_devices = 0.0

    def _see_limit(self, pid: int) -> None:
        found = groups(pid)
        if not found:
            return  # it is ending: what was known of it is still the best that is
        self._groups = found
        group = tightest(found)
        self.limit = group.limit if group is not None else None

    def ended(self) -> None:
        """The server has ended: the limit of its groups is read anew, since it may have been lowered meanwhile."""
        group = tightest(self._groups)
        self.limit = group.limit if group is not None else self.limit

    def look(self, pid: int) -> str | None:
        """Look if it is time to; what changed, in a sentence. ``near`` is what is nearly full, ``None`` where nothing
        is."""
        moment = time.monotonic()
        if moment < self._next:
            return None
        self._next = moment + EVERY_S
        self.kills.look(pid)
        self._see_limit(pid)
        if self.devices and moment >= self._next_devices:
            self._next_devices = moment + DEVICES_EVERY_S
            self._on_devices = [x for d in self.devices if (x := device_level(d)) is not None]
        own = nearest(pid)
        return self._judge(([(own, NEAR)] if own is not None else []) + [(x, NEAR_ON_DEVICE) for x in self._on_devices])

    def _judge(self, levels: list[tuple[Level, float]]) -> str | None:
        def crossed(level: Level, mark: float) -> bool:
            was = self.near is not None and self.near["where"] == level.where
            return level.share >= (mark - _CLEAR if was else mark)

        full = [level for level, mark in levels if crossed(level, mark)]
        before = self.near
        worst = max(full, key=lambda level: level.share, default=None)
        self.near = seen(worst, near=True) if worst is not None else None
        if worst is not None and (before is None or before["where"] != worst.where):
            return (
                f"memory is nearly used up: {worst.used >> 20} of {worst.limit >> 20} MiB of {worst.where} "
                f"({100 * worst.share:.0f} %)"
            )
        if worst is None and before is not None:
            return f"memory is no longer nearly used up ({before['where']})"
        return None
