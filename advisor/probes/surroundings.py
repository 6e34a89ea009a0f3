"""What the process runs in besides the machine: memory nodes, a virtual machine, a container, swap space.

Sources: Linux, Documentation/admin-guide/mm/numaperf.rst and Documentation/ABI/stable/sysfs-devices-node;
proc_pid_status(5) (``Mems_allowed_list``); the systemd container interface (the variable ``container``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from advisor.facts.machine import Device, NumaNode, Swap
from advisor.facts.text import clean
from advisor.facts.words import Vendor
from advisor.probes import cgroup
from advisor.probes.cpu import cpu_list
from advisor.probes.memory import meminfo
from advisor.probes.sanity import Notes
from advisor.probes.source import Source

_NODES: Final = "/sys/devices/system/node"
_MAX_NODES: Final = 1024
_KNOWN: Final = ("docker", "podman", "kubernetes", "lxc", "systemd-nspawn", "containerd")
# Folders and scopes that runtimes make for their groups: docker/ID, docker-ID.scope, libpod-ID.scope, crio-ID.scope.
_GROUPS: Final = (
    (re.compile(r"kubepods"), "kubernetes"),
    (re.compile(r"^docker(?:$|-)"), "docker"),
    (re.compile(r"^libpod(?:$|-|_)"), "podman"),
    (re.compile(r"^lxc(?:$|\.)"), "lxc"),
    (re.compile(r"^(?:crio|cri-containerd)-"), "kubernetes"),
)
# What a container must be given for a device of the maker to work in it.
_NODES_OF: Final[dict[Vendor, tuple[tuple[str, ...], str]]] = {
    "nvidia": (("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-ctrl"), "--gpus all"),
    "amd": (("/dev/kfd", "/dev/dxg"), "--device /dev/kfd --device /dev/dri"),
    "intel": (("/dev/dri/renderD128", "/dev/dri/card0", "/dev/dri/card1", "/dev/dxg"), "--device /dev/dri"),
}


def read_numa(source: Source, notes: Notes) -> tuple[NumaNode, ...]:
    """The memory nodes with their CPUs, in order; empty where the system tells of none."""
    ids = sorted(int(name[4:]) for name in source.names(_NODES) or () if re.fullmatch(r"node\d{1,4}", name, re.ASCII))[
        :_MAX_NODES
    ]
    allowed = _allowed(source)
    found = []
    for number in ids:
        listed = cpu_list(source.text(f"{_NODES}/node{number}/cpulist") or "")
        info = _node_memory(source.text(f"{_NODES}/node{number}/meminfo") or "")
        what = f"host.numa[{number}]"
        found.append(
            NumaNode(
                id=number,
                cpus=_ranges(listed),
                cores_logical=len(listed),
                # A node of CPUs alone has no memory: 0 is what the kernel says, and what is so.
                memory_bytes=0
                if info.get("MemTotal") == 0
                else notes.sane_int(info.get("MemTotal"), "memory", what, "sysfs"),
                free_bytes=notes.sane_int(info.get("MemFree"), "free memory", what, "sysfs"),
                allowed=allowed is None or number in allowed,
            )
        )
    return tuple(found)


def allowed_memory(nodes: tuple[NumaNode, ...]) -> int | None:
    """Bytes of the nodes that this process may use; ``None`` where it may use all, or their sizes are not known."""
    if all(n.allowed for n in nodes):
        return None
    sizes = [n.memory_bytes for n in nodes if n.allowed]
    known = [s for s in sizes if s is not None]
    return sum(known) if known and len(known) == len(sizes) and sum(known) > 0 else None


def _allowed(source: Source) -> frozenset[int] | None:
    """The memory nodes of the process's own cpuset, as the kernel has worked them out."""
    match = re.search(r"^Mems_allowed_list:[ \t]*([\d,-]+)$", source.text("/proc/self/status") or "", re.M | re.ASCII)
    return cpu_list(match[1]) or None if match else None


def _node_memory(text: str) -> dict[str, int]:
    """``Node 0 MemTotal: 1 kB`` as ``/proc/meminfo`` has it, without the node."""
    return meminfo("\n".join(re.sub(r"^Node \d+ ", "", line) for line in text.split("\n")))


def _ranges(numbers: frozenset[int]) -> str:
    """Numbers in the kernel's list format."""
    parts: list[str] = []
    ordered = sorted(numbers)
    for n, number in enumerate(ordered):
        if n and number == ordered[n - 1] + 1:
            parts[-1] = f"{parts[-1].split('-')[0]}-{number}"
        else:
            parts.append(str(number))
    return ",".join(parts)


def read_swap(source: Source, notes: Notes) -> Swap | None:
    """Swap space of ``/proc/meminfo``; ``None`` where it does not tell."""
    info = meminfo(source.text("/proc/meminfo") or "")
    total = notes.sane_int(info.get("SwapTotal"), "free memory", "host.swap", "/proc/meminfo")
    if total is None:
        return None
    free = notes.sane_int(info.get("SwapFree"), "free memory", "host.swap", "/proc/meminfo")
    return Swap(total_bytes=total, free_bytes=free if free is not None and free <= total else None)


def read_virtualization(source: Source, notes: Notes) -> str | None:
    """``wsl2``, ``wsl1`` or ``vm``; ``None`` on bare metal and where nothing tells."""
    version = source.text("/proc/version") or ""
    if "microsoft" in version.lower():
        # Version 1 translates system calls and writes "Microsoft"; version 2 is a kernel in a virtual machine.
        kind = "wsl1" if re.search(r"-Microsoft\b", version) else "wsl2"
        if kind == "wsl2":
            notes.add("memory.total_bytes", "WSL2", "the memory of the virtual machine; .wslconfig may give it more")
        return kind
    for line in (source.text("/proc/cpuinfo") or "").split("\n"):
        key, colon, flags = line.partition(":")
        if colon and key.strip() == "flags":
            return "vm" if "hypervisor" in flags.split() else None
    return None


def read_container(source: Source, environment: Mapping[str, str], notes: Notes) -> str | None:
    """The kind of container this process is in; ``None`` where nothing tells of one."""
    said = (environment.get("container") or source.text("/run/systemd/container") or "").strip()
    groups = _kind_of_group(source)
    if groups == "kubernetes" or source.exists("/var/run/secrets/kubernetes.io"):
        found: str | None = "kubernetes"
    elif source.exists("/run/.containerenv"):
        found = "podman"
    elif source.exists("/.dockerenv") and _own_files(source):
        found = "docker"
    elif said:
        word = clean(said, 40).lower()
        found = {"oci": "container", "lxc-libvirt": "lxc"}.get(word, word if word in _KNOWN else "container")
    else:
        found = groups
    if found:
        notes.add("host.container", "markers of the container runtime", found)
    return found


def _own_files(source: Source) -> bool:
    """Whether the root looks like a container's. The image of a virtual machine may carry Docker's marker, but Docker
    mounts files of its own over ``/etc``, and its root is seldom a plain disk."""
    text = source.text("/proc/self/mountinfo")
    if not text:
        return True
    mounted = {line.split(" ")[4]: line for line in text.split("\n") if len(line.split(" ")) > 6}
    return any(f"/etc/{name}" in mounted for name in ("hosts", "hostname", "resolv.conf")) or (
        re.search(r" - (?:overlay|aufs|fuse-overlayfs) ", mounted.get("/", "")) is not None
    )


def _kind_of_group(source: Source) -> str | None:
    """From the names of the process's own groups. With a namespace of its own the path is ``/`` and says nothing; then
    the root of the cgroup mount, which mountinfo shows as seen from outside, may."""
    paths = list(cgroup.own_paths(source.text("/proc/self/cgroup") or "").values())
    paths += [m.root for m in cgroup.mounts(source.text("/proc/self/mountinfo") or "")]
    parts = [part for path in paths for part in path]
    return next((kind for pattern, kind in _GROUPS if any(pattern.search(part) for part in parts)), None)


def explain_missing(devices: tuple[Device, ...], source: Source, container: str | None) -> tuple[Device, ...]:
    """In a container that was not given a device that the bus shows, the reason is the container's start."""
    import msgspec

    if container is None:
        return devices
    found = []
    for device in devices:
        nodes, option = _NODES_OF.get(device.vendor, ((), ""))
        if device.unusable is not None and nodes and not any(source.exists(node) for node in nodes):
            how = f"its resources must ask for one ({device.vendor}.com/gpu)"
            if container != "kubernetes":
                podman = container == "podman" and device.vendor == "nvidia"
                how = f"start it with {'--device nvidia.com/gpu=all' if podman else option}"
            said = "" if "container" in device.unusable else "; this container has no access to it"
            reason = f"{device.unusable}{said}: {how}"
            device = msgspec.structs.replace(device, unusable=reason)
        found.append(device)
    return tuple(found)
