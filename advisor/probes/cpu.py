"""The processor: its name, the instruction sets that inference kernels use, its cores, and how many are granted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.machine import Cpu
from advisor.facts.text import clean
from advisor.probes import cgroup
from advisor.probes.sanity import Notes, within
from advisor.probes.source import Platform, Source

# Kernel flag names that change which kernels run or how fast they are; all others are left out.
ISA: Final[tuple[str, ...]] = (
    # x86: arch/x86/include/asm/cpufeatures.h
    *("sse4_2", "ssse3", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"),
    *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni", "avx512vbmi", "avx512_bf16"),
    *("avx512_fp16", "avx10_1", "avx10_2", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    # arm64: arch/arm64/kernel/cpuinfo.c
    *("asimd", "asimdhp", "asimddp", "fphp", "bf16", "i8mm", "sve", "sve2", "svei8mm", "svebf16", "sme", "sme2"),
    # riscv, powerpc, s390
    *("v", "zvfh", "vsx", "vx", "vxe", "nnpa"),
)
# Main ID register: implementer and part number (Linux, arch/arm64/include/asm/cputype.h).
_ARM_PARTS: Final[dict[tuple[int, int], str]] = {
    (0x41, 0xD03): "Arm Cortex-A53",
    (0x41, 0xD05): "Arm Cortex-A55",
    (0x41, 0xD07): "Arm Cortex-A57",
    (0x41, 0xD08): "Arm Cortex-A72",
    (0x41, 0xD0B): "Arm Cortex-A76",
    (0x41, 0xD0C): "Arm Neoverse-N1",
    (0x41, 0xD40): "Arm Neoverse-V1",
    (0x41, 0xD41): "Arm Cortex-A78",
    (0x41, 0xD42): "Arm Cortex-A78AE",
    (0x41, 0xD49): "Arm Neoverse-N2",
    (0x41, 0xD4F): "Arm Neoverse-V2",
    (0x41, 0xD84): "Arm Neoverse-V3",
    (0x41, 0xD85): "Arm Cortex-X925",
    (0x41, 0xD87): "Arm Cortex-A725",
    (0x41, 0xD8E): "Arm Neoverse-N3",
    (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1A",
}
_MAX_CPUS: Final = 1 << 16


def cpu_list(text: str) -> frozenset[int]:
    """Parse the kernel's list format (``0-3,8,10-11``); what is malformed or absurd is left out."""
    found: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip(), re.ASCII)
        if match is None:
            continue
        low, high = int(match[1]), int(match[2] or match[1])
        if low <= high < _MAX_CPUS:
            found.update(range(low, high + 1))
    return frozenset(found)


def cpuinfo_blocks(text: str) -> list[dict[str, str]]:
    """``/proc/cpuinfo`` as one dict a processor (and one for the machine, where it has such lines)."""
    return list(_blocks(text))


def _blocks(text: str) -> Iterator[dict[str, str]]:
    block: dict[str, str] = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            block.setdefault(key.strip(), value.strip())
        elif not line.strip() and block:
            yield block
            block = {}
    if block:
        yield block


def read_cpu(source: Source, platform: Platform, notes: Notes, *, deadline_s: float) -> Cpu:
    """Read the processor; never raises for what it reads."""
    if platform.system == "Darwin":
        from advisor.probes import darwin

        cpu = darwin.read_cpu(darwin.sysctl(source, deadline_s), platform, notes)
        if cpu is not None:
            return cpu
    text = source.text("/proc/cpuinfo")
    if text is None and not source.exists("/proc/self"):
        return _from_py_cpuinfo(source, platform, notes, deadline_s)
    blocks = cpuinfo_blocks(text or "")
    processors = [b for b in blocks if b.get("processor", "").isdecimal()]
    logical = _logical(source, platform, len(processors), notes)
    name = _name(blocks, source)
    if name is None:
        notes.add("cpu.name", "/proc/cpuinfo", "not given; the architecture stands in its place")
    flags: set[str] = set()
    for block in processors[:1]:
        for key in ("flags", "Features", "features"):
            flags.update(block.get(key, "").lower().split())
    if not flags:
        notes.add("cpu.isa", "/proc/cpuinfo", "no flags given; the instruction sets are unknown")
    physical = _physical(processors, source, notes)
    if physical is not None and physical > logical:
        notes.add("cpu.cores_physical", "/proc/cpuinfo", f"invalid: {physical} of {logical} logical; taken as unknown")
        physical = None
    return Cpu(
        name=name or f"unknown {clean(platform.machine, 40)} processor",
        isa=tuple(flag for flag in ISA if flag in flags),
        cores_physical=physical,
        cores_logical=logical,
        cores_granted=granted(source, platform, notes, logical=logical),
    )


def granted(source: Source, platform: Platform, notes: Notes, *, logical: int) -> float:
    """CPUs that this process may use: affinity, its cpuset and the tightest CPU quota on the way up, together."""
    allowed = source.affinity()
    cpus = frozenset(c for c in allowed if 0 <= c < _MAX_CPUS) if allowed else frozenset()
    count = float(len(cpus) or logical)
    notes.add("cpu.cores_granted", "sched_getaffinity" if cpus else "number of processors")
    groups = cgroup.walk(source)
    own = cgroup.cpuset(source, groups)
    if own is not None:
        inside = cpu_list(own)
        both = inside & cpus if cpus else inside
        if both and len(both) < count:
            count = float(len(both))
            notes.add("cpu.cores_granted", "cpuset of the process's own cgroup", f"{len(both)} CPUs")
    quota = cgroup.cpu_quota(source, groups)
    if quota is not None:
        if not within(quota.cpus, "cpu quota"):
            notes.add("cpu.cores_granted", quota.source, f"invalid: quota of {quota.cpus:g} CPUs; left out")
        elif quota.cpus < count:
            count = quota.cpus
            notes.add("cpu.cores_granted", quota.source, f"quota of {quota.cpus:g} CPUs")
    return count


def granted_now(source: Source) -> float:
    """``granted`` alone, for those who need no more of the processor."""
    platform = source.platform()
    notes = Notes()
    return granted(source, platform, notes, logical=_logical(source, platform, 0, notes))


def _logical(source: Source, platform: Platform, listed: int, notes: Notes) -> int:
    """Processors that are on line: the kernel's list, else the runtime's count, else the blocks of cpuinfo."""
    online = len(cpu_list(source.text("/sys/devices/system/cpu/online") or ""))
    for count in (online, platform.cpu_count, listed):
        if within(count, "cores"):
            return int(count or 1)
    notes.add("cpu.cores_logical", "none", "no source gives the number of processors; one is assumed")
    return 1


def _name(blocks: list[dict[str, str]], source: Source) -> str | None:
    for block in blocks:
        for key in ("model name", "Model name", "cpu model", "cpu"):
            if block.get(key):
                return clean(block[key], 120) or None
    names: list[str] = []
    for block in blocks:
        try:
            part = (int(block["CPU implementer"], 16), int(block["CPU part"], 16))
        except (KeyError, ValueError):
            continue
        if part[0] == 0x61:
            return "Apple Silicon"
        if part in _ARM_PARTS and _ARM_PARTS[part] not in names:
            names.append(_ARM_PARTS[part])
    board = clean((source.text("/proc/device-tree/model") or "").replace("\0", ""), 80)
    words = " + ".join(names[:3])
    if words and board:
        return f"{words} ({board})"
    return words or board or None


def _physical(processors: list[dict[str, str]], source: Source, notes: Notes) -> int | None:
    cores = {(b["physical id"], b["core id"]) for b in processors if "physical id" in b and "core id" in b}
    if cores:
        return len(cores)
    siblings: set[str] = set()
    for cpu in sorted(cpu_list(source.text("/sys/devices/system/cpu/online") or ""))[:1024]:
        folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        listed = source.text(f"{folder}/core_cpus_list") or source.text(f"{folder}/thread_siblings_list")
        if not listed or not cpu_list(listed):
            siblings.clear()
            break
        siblings.add(listed.strip())
    if siblings:
        return len(siblings)
    notes.add("cpu.cores_physical", "/proc/cpuinfo", "not given; unknown")
    return None


def _from_py_cpuinfo(source: Source, platform: Platform, notes: Notes, deadline_s: float) -> Cpu:
    reply: dict[str, Any] = source.ask("cpuinfo", deadline_s)
    if not reply:
        notes.add("cpu", "py-cpuinfo", "no answer; name and instruction sets are unknown")
    flags = reply.get("flags")
    known = {str(f).lower() for f in flags} if isinstance(flags, list) else set()
    brand = reply.get("brand_raw")
    logical = _logical(source, platform, 0, notes)
    notes.add("cpu.cores_physical", "py-cpuinfo", "not given; unknown")
    return Cpu(
        name=clean(brand, 120) if isinstance(brand, str) and brand else f"unknown {clean(platform.machine, 40)}",
        isa=tuple(flag for flag in ISA if flag in known),
        cores_physical=None,
        cores_logical=logical,
        cores_granted=granted(source, platform, notes, logical=logical),
    )
