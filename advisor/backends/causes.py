"""From how a program ended to a typed diagnosis: too little memory, a limit of the system, or a kernel that the device
does not have.

Evidence counts in this order: what the runtime says in its log, what the kernel counted, how the process ended. A
process that was killed without any trace of lack of memory is not diagnosed: anybody may kill a process.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from advisor.backends.diagnose import first
from advisor.backends.limits import THREAD_LIMIT, THREADS
from advisor.facts.recovery import Cause, Diagnosis, When
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.facts.results import Finding

HOST: Final = "host"
_MEMORY: Final = frozenset({"out-of-memory", "device-out-of-memory", "context-too-large", "memory-taken"})
_KERNEL: Final = frozenset({"device-too-old", "no-kernel", "illegal-instruction", "kernels-missing", "format-unknown"})
OOM_KILL: Final = "oom-kill"
ADDRESS_SPACE: Final = "address-space"
# Lines by which runtimes say that memory ran out, for a supervisor, which knows none of them: expressions, any case.
SAID_BY_RUNTIMES: Final = (
    r"(CUDA|HIP|MPS backend) out of memory|cudaMalloc failed: out of memory|OutOfMemoryError|cudaErrorMemoryAllocation",
    r"(failed|unable) to allocate \S+ buffer|ErrorOutOfDeviceMemory|Device memory allocation of size \d+ failed",
    r"std::bad_alloc|Cannot allocate memory|DefaultCPUAllocator: .{0,60}allocate memory",
    r"ggml_aligned_malloc: insufficient|GGML_ASSERT\(ctx->mem_buffer|requires more system memory|^MemoryError",
)
_OWN: Final = "[advisor "
# Lines of a log that are looked at, from its end, and lines and characters that are shown.
_LINES: Final = 400
_SHOWN: Final = 5
_WIDTH: Final = 240
_UNITS: Final = {"": 1, "b": 1, "bytes": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "mb": 10**6, "gb": 10**9}
_NUMBER: Final = r"([\d.]+)\s*(bytes|[KMG]iB|[MG]B|B)?"
# A request that was refused: llama.cpp, its Vulkan and CUDA parts, torch on devices, torch on the host, vLLM's cache.
_WANTED: Final = tuple(
    re.compile(p, re.IGNORECASE)
    for p in (
        r"allocate \S+ buffer of size " + _NUMBER,
        r"Device memory allocation of size " + _NUMBER,
        r"allocating " + _NUMBER + r" on device \d+: cudaMalloc failed",
        r"Tried to allocate " + _NUMBER,
        r"you tried to allocate " + _NUMBER,
        r"insufficient memory \(attempted to allocate +" + _NUMBER,
        r"\(" + _NUMBER + r" KV cache is needed",
        r"requires more system memory \(" + _NUMBER,
    )
)
# What the runtime says that it could have.
_AVAILABLE: Final = tuple(
    re.compile(p, re.IGNORECASE)
    for p in (
        r"available KV cache memory \(" + _NUMBER,
        r"than is available \(" + _NUMBER,
        r"Free memory on device \S+ \(" + _NUMBER + "/",
    )
)
# A buffer that llama.cpp did get: "Vulkan0 model buffer size =   129.14 MiB".
_HELD: Final = re.compile(r"(\w+) +(?:model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
# "Vulkan0 buffer", "on device 0", "cuda:1", "GPU 0 has a total capacity".
_INDEX: Final = re.compile(
    r"\b(?:CUDA|ROCm|HIP|Vulkan|SYCL|MTL|Metal)(\d+)\b|\b(?:on device |cuda:|GPU )(\d+)\b", re.IGNORECASE
)
_ON_DEVICE: Final = re.compile(
    r"cudaMalloc|CUDA out of memory|HIP out of memory|OutOfDeviceMemory|OutOfMemoryError", re.IGNORECASE
)
# Allocators of the host's memory alone.
_ON_HOST: Final = re.compile(r"std::bad_alloc|ggml_aligned_malloc|DefaultCPUAllocator|^MemoryError", re.IGNORECASE)


class Reads(Protocol):
    """Knows the failures that a log shows: a runtime, a quantizer, ``limits.SYSTEM``."""

    def diagnose(self, log_tail: str) -> Finding | None:
        """The failure that a log tail shows; ``None`` where it shows none that is known."""
        ...


class Ended(NamedTuple):
    """How a program ended, as its supervisor saw it. Bytes; ``None`` where it is not known. ``address_limit``: a limit
    on its addresses that is met before the machine's memory is."""

    exit_code: int | None = None
    exit_signal: int | None = None
    oom_kills: int = 0
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    address_limit: int | None = None


def diagnose(
    reader: Reads,
    log: Sequence[str],
    ended: Ended,
    *,
    devices: Sequence[str] = (),
    when: When = "load",
    who: str = "the server",
) -> Diagnosis | None:
    """The diagnosis of a server that ended, ``None`` where neither memory nor a kernel lacked, nor a limit was met.

    Args:
        reader: whose table of failures reads the log.
        log: lines of the server's output, oldest first.
        ended: how it ended.
        devices: device keys of the plan, in the order in which the runtime counts its devices.
        when: the server was still loading, or served requests already.
        who: what ended, as messages call it.
    """
    # What the supervisor noted is known better: it is in ``ended``.
    lines = [clean(line, 2000) for line in log[-_LINES:] if not line.startswith(_OWN)]
    found = [(line, f) for line in lines if (f := _read(reader, line)) is not None and _cause(f.code) is not None]
    killed = _killed(ended)
    # What follows from a failure (an engine that ended) has entries of its own; the table names the cause first.
    finding = _read(reader, "\n".join(lines))
    if finding is None or _cause(finding.code) is None:
        if ended.exit_signal == signal.SIGILL:
            message = f"{who[:1].upper()}{who[1:]} used an instruction that this processor does not have."
            return _diagnosis("unsupported-kernel", "illegal-instruction", message, found, lines, ended, devices, when)
        if not killed:
            return None
        message = f"The kernel killed {who} because memory ran out."
        return _diagnosis("out-of-memory", OOM_KILL, message, found, lines, ended, devices, when)
    cause = _cause(finding.code)
    assert cause is not None
    made = _diagnosis(cause, finding.code, finding.message, found, lines, ended, devices, when)
    limit = ended.address_limit
    if cause != "out-of-memory" or made.device != HOST or limit is None or killed:
        return made
    # Memory that is not there shows when it is used; a request is refused at once where addresses end.
    return msgspec.structs.replace(
        made,
        cause="process-limit",
        code=ADDRESS_SPACE,
        message=f"The limit of {limit / 2**20:.0f} MiB on addresses stopped {who}.",
    )


def _read(reader: Reads, text: str) -> Finding | None:
    """What a text shows; a thread that was refused brings any runtime down, in words of the system's own."""
    return first((THREADS,), text) or reader.diagnose(text)


def _cause(code: str) -> Cause | None:
    if code == THREAD_LIMIT:
        return "process-limit"
    return "out-of-memory" if code in _MEMORY else "unsupported-kernel" if code in _KERNEL else None


def _killed(ended: Ended) -> bool:
    """Whether the kernel killed it for memory: ended by SIGKILL, and the kernel counted such a kill meanwhile."""
    by_kill = ended.exit_signal == signal.SIGKILL or ended.exit_code == 128 + signal.SIGKILL
    return by_kill and ended.oom_kills > 0


def _diagnosis(
    cause: Cause,
    code: str,
    message: str,
    found: Sequence[tuple[str, Finding]],
    lines: Sequence[str],
    ended: Ended,
    devices: Sequence[str],
    when: When,
) -> Diagnosis:
    told = [line for line, f in found if _cause(f.code) == cause]
    device = _device(cause, code, told, devices)
    return Diagnosis(
        cause=cause,
        code=code,
        when=when,
        device=device,
        message=message,
        evidence=(*(clean(line, _WIDTH) for line in dict.fromkeys(told[:_SHOWN])), *_of_system(ended)),
        wanted_bytes=_first(_WANTED, told) if cause == "out-of-memory" else None,
        had_bytes=ended.peak_bytes if device == HOST else _held(lines, devices, device),
        available_bytes=_first(_AVAILABLE, told),
        limit_bytes=ended.limit_bytes,
        oom_kills=ended.oom_kills,
        exit_code=ended.exit_code,
        exit_signal=ended.exit_signal,
    )


def _of_system(ended: Ended) -> tuple[str, ...]:
    """What the system says of the end, in sentences."""
    out = []
    if ended.exit_signal is not None:
        try:
            out.append(f"ended by {signal.Signals(ended.exit_signal).name}")
        except ValueError:
            out.append(f"ended by signal {ended.exit_signal}")
    elif ended.exit_code:
        out.append(f"ended with exit code {ended.exit_code}")
    if ended.oom_kills:
        out.append(f"the kernel counted {ended.oom_kills} kill{'s' * (ended.oom_kills != 1)} for memory meanwhile")
    if ended.limit_bytes is not None:
        out.append(f"the memory limit of its control group was {ended.limit_bytes / 2**20:.0f} MiB")
    return tuple(out)


def _device(cause: Cause, code: str, told: Sequence[str], devices: Sequence[str]) -> str:
    """Whose memory, or whose kernels, lacked: by the number in the log, else the first accelerator of the plan."""
    own = [key for key in devices if key != HOST]
    if not own or code in (OOM_KILL, "illegal-instruction"):
        return HOST
    for line in told:
        if re.search(r"\w+_Host buffer", line):
            return HOST
        m = _INDEX.search(line)
        if m is not None:
            number = int(m.group(1) or m.group(2))
            return own[number] if number < len(own) else own[0]
    if cause == "out-of-memory" and told and all(_ON_HOST.search(line) for line in told):
        return HOST
    if code in ("device-out-of-memory", "memory-taken") or cause == "unsupported-kernel":
        return own[0]
    return own[0] if HOST not in devices or any(_ON_DEVICE.search(line) for line in told) else HOST


def _held(lines: Sequence[str], devices: Sequence[str], device: str) -> int | None:
    """Bytes of buffers that llama.cpp had on the device; ``None`` where its log does not name any."""
    own = [key for key in devices if key != HOST]
    total, seen = 0.0, False
    for line in lines:
        for name, size in _HELD.findall(line):
            m = re.search(r"(\d+)$", name)
            if m is not None and own and own[min(int(m.group(1)), len(own) - 1)] == device:
                total, seen = total + float(size), True
    return int(total * 2**20) if seen else None


def _first(patterns: Sequence[re.Pattern[str]], lines: Sequence[str]) -> int | None:
    """The largest amount that any of the patterns finds, in bytes."""
    sizes = []
    for line in lines:
        for p in patterns:
            for m in p.finditer(line):
                try:
                    sizes.append(int(float(m.group(1)) * _UNITS[(m.group(2) or "").lower()]))
                except (ValueError, OverflowError):
                    continue
    return max(sizes) if sizes else None
