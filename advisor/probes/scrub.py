"""Takes out of raw inputs what could name a person, a machine or a workload; the probe's answer stays the same.

What is read line by line keeps only the lines that the probe uses. Names of control groups become ``group-1``,
``group-2`` ... wherever they occur. Identifiers in any other text become placeholders of the same kind.
"""

from __future__ import annotations

import re
from typing import Any, Final

from advisor.probes import cgroup

_CPUINFO: Final = frozenset(
    (
        *("processor", "vendor_id", "cpu family", "model", "model name", "stepping", "physical id", "siblings"),
        *("core id", "cpu cores", "flags", "Features", "features", "CPU implementer", "CPU architecture"),
        *("CPU variant", "CPU part", "CPU revision", "cpu", "cpu model", "Model name", "isa"),
    )
)
_MEMINFO: Final = frozenset(
    ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SReclaimable", "SwapTotal", "SwapFree")
)
_CONTAINERS: Final = frozenset(("/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"))
_STATUS: Final = frozenset(("Mems_allowed_list",))
_NODE: Final = re.compile(r"^Node \d+ Mem(?:Total|Free):.*$", re.MULTILINE | re.ASCII)
_NVRM: Final = re.compile(r"^NVRM version: [\w ./-]{1,120}?\d{3,4}(?:\.\d{1,4}){1,2}", re.MULTILINE | re.ASCII)
# Of a node of AMD's Kernel Fusion Driver what the probe reads; others name the very device.
_KFD: Final = frozenset(
    (
        *("vendor_id", "device_id", "simd_count", "simd_per_cu", "gfx_target_version", "location_id", "domain"),
        *("drm_render_minor", "mem_banks_count", "heap_type", "size_in_bytes"),
    )
)
# The unique id of an AMD device, and how it is written to select it; a placeholder stays what it is.
_SERIAL: Final = re.compile(r"\b(?!0{8})[0-9a-fA-F]{16}\b")
_AMD_UUID: Final = re.compile(r"\bGPU-((?!0{8})[0-9a-fA-F]{16})\b")
_STAT: Final = frozenset(("inactive_file", "total_inactive_file", "hierarchical_memory_limit"))
# Names of groups that say nothing about what runs in them.
_COMMON: Final = re.compile(
    r"docker|kubepods|kubepods\.slice|(?:system|user|machine|init)\.(?:slice|scope)|besteffort|burstable|guaranteed|lxc|\.\."
)
_USUAL_POINT: Final = re.compile(r"/sys/fs/cgroup(?:/[a-z_,]{1,30})?")
_UUID: Final = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")
_MAC: Final = re.compile(r"\b(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}\b")
# With a letter and a digit: plain decimal numbers are values.
_LONG_HEX: Final = re.compile(r"\b(?=[0-9a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{12,}\b")
_HOME: Final = re.compile(r"(/(?:home|Users)/)[^/\s:\"']+")


class Scrubber:
    """One recording's placeholders: the same identifier always becomes the same placeholder."""

    def __init__(self, own_cgroup: str | None, mountinfo: str | None) -> None:
        self._uuids: dict[str, str] = {}
        self._groups: dict[str, str] = {}
        self._serials: dict[str, str] = {}
        self._points: dict[str, str] = {}
        for mount in cgroup.mounts(mountinfo or ""):
            usual = _USUAL_POINT.fullmatch(mount.point)
            self._points.setdefault(mount.point, mount.point if usual else f"/sys/fs/cgroup/mount-{len(self._points)}")
        for path in cgroup.own_paths(own_cgroup or "").values():
            for part in path:
                self._group(part)

    def file(self, path: str, text: str) -> str:
        """The text of the file at ``path`` as it goes into the bundle."""
        name = path.rsplit("/", 1)[-1]
        if path == "/proc/cpuinfo":
            text = _lines(text, ":", _CPUINFO)
        elif path == "/proc/meminfo":
            text = _lines(text, ":", _MEMINFO)
        elif path == "/proc/self/status":
            text = _lines(text, ":", _STATUS)
        elif path.startswith("/sys/devices/system/node/") and name == "meminfo":
            text = "\n".join(_NODE.findall(text)) + "\n"
        elif path == "/proc/version":
            # Who built the kernel, and where, is of no use.
            return "Linux version " + " ".join(re.findall(r"\S*microsoft\S*", text, re.IGNORECASE)[:1]) + "\n"
        elif path == "/proc/driver/nvidia/version":
            # The line of an open kernel module names who built it, and where.
            return "".join(f"{found}\n" for found in _NVRM.findall(text)[:1])
        elif path.startswith("/sys/class/kfd/"):
            text = _lines(text, " ", _KFD)
        elif name == "unique_id":
            return _SERIAL.sub(lambda m: self._serial(m[0]), text)
        elif name == "memory.stat":
            text = _lines(text, " ", _STAT)
        elif path == "/proc/self/cgroup":
            return "".join(self._cgroup_line(line) for line in text.splitlines())
        elif path == "/proc/self/mountinfo":
            return "".join(self._mount_line(line) for line in text.splitlines())
        return self.plain(text)

    def path(self, path: str) -> str:
        """A path of a cgroup file with its groups renamed; any other path as it is."""
        points = [p for p in self._points if path.startswith(p + "/")]
        if not points:
            return path
        point = max(points, key=len)
        folders, _, name = path[len(point) :].rpartition("/")
        return f"{self._points[point]}{self._renamed(folders)}/{name}"

    def plain(self, text: str) -> str:
        """Free text without identifiers."""
        text = _UUID.sub(lambda m: self._uuid(m[0]), text)
        text = _MAC.sub("00:00:00:00:00:00", text)
        text = _AMD_UUID.sub(lambda m: f"GPU-{self._serial(m[1])}", text)
        text = _LONG_HEX.sub("0" * 12, text)
        return _HOME.sub(r"\1user", text)

    def reply(self, question: str, reply: dict[str, Any]) -> Any:
        """The reply to a question; of a program that prints more than is read, what is read."""
        if question == "nvidia-smi" and isinstance(reply.get("stdout"), str):
            from advisor.probes.vendors.nvidia_smi import kept

            reply = reply | {"stdout": kept(reply["stdout"])}
        return self.value(reply)

    def value(self, value: Any) -> Any:
        """A JSON value with all its texts scrubbed."""
        if isinstance(value, str):
            return self.plain(value)
        if isinstance(value, dict):
            return {k: self.value(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(v) for v in value]
        return value

    def _uuid(self, uuid: str) -> str:
        return self._uuids.setdefault(uuid.lower(), f"{len(self._uuids) + 1:08x}-0000-0000-0000-000000000000")

    def _serial(self, serial: str) -> str:
        return self._serials.setdefault(serial.lower(), f"{len(self._serials) + 1:016d}")

    def _group(self, part: str) -> str:
        if _COMMON.fullmatch(part):
            return part
        return self._groups.setdefault(part, f"group-{len(self._groups) + 1}")

    def _renamed(self, path: str) -> str:
        return "/".join(self._group(p) if p else "" for p in path.split("/"))

    def _cgroup_line(self, line: str) -> str:
        fields = line.split(":", 2)
        if len(fields) != 3:
            return ""
        controllers = "name=other" if fields[1].startswith("name=") and fields[1] != "name=systemd" else fields[1]
        return f"{fields[0]}:{controllers}:{self._renamed(fields[2])}\n"

    def _mount_line(self, line: str) -> str:
        """Cgroup mounts, and the kind of those that tell of a container: all others are of no use and full of names."""
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not cgroup.mounts(line):
            kept = len(fields) > 5 and fields[4] in _CONTAINERS and re.fullmatch(r"[\w.-]{1,40}", kind[0], re.ASCII)
            return f"{fields[0]} {fields[1]} {fields[2]} / {fields[4]} rw - {kind[0]} none rw\n" if kept else ""
        controllers = ",".join(o for o in (kind[2] if len(kind) > 2 else "rw").split(",") if not o.startswith("name="))
        mount = cgroup.mounts(line)[0]
        root = self._renamed("/" + "/".join(mount.root))
        point = self._points.get(mount.point, mount.point)
        return f"{fields[0]} {fields[1]} {fields[2]} {root} {point} rw - {kind[0]} {kind[0]} {controllers}\n"


def _lines(text: str, separator: str, keep: frozenset[str]) -> str:
    """The lines whose key is kept, and empty lines, which separate blocks."""
    kept = [line for line in text.split("\n") if not line.strip() or line.partition(separator)[0].strip() in keep]
    return "\n".join(kept)
