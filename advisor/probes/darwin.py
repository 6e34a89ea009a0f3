"""macOS: what ``sysctl`` and ``vm_stat`` say of the processor and the memory.

Names of Arm features: Apple, "Determining Instruction Set Characteristics". Under Rosetta the brand is the chip's or
``VirtualApple``, ``sysctl.proc_translated`` is 1, and the machine's word is ``x86_64``.
"""

from __future__ import annotations

import re
from typing import Final

from advisor.facts.machine import Cpu, Swap
from advisor.facts.text import clean
from advisor.probes.cpu import ISA
from advisor.probes.sanity import Notes, within
from advisor.probes.source import Platform, Source

_LINE: Final = re.compile(r"^([A-Za-z_][\w.]{1,100})\s*[:=]\s?(.*)$", re.ASCII)
# Every Apple chip with macOS has these; older systems do not list them one by one.
_APPLE: Final = frozenset(("asimd", "asimdhp", "fphp", "asimddp"))
_ARM: Final[dict[str, str]] = {
    "FEAT_DotProd": "asimddp",
    "FEAT_BF16": "bf16",
    "FEAT_I8MM": "i8mm",
    "FEAT_SME": "sme",
    "FEAT_SME2": "sme2",
}
_X86: Final[dict[str, str]] = {
    "SSE4.2": "sse4_2",
    "SSSE3": "ssse3",
    "AVX1.0": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512F": "avx512f",
    "AVX512BW": "avx512bw",
    "AVX512CD": "avx512cd",
    "AVX512DQ": "avx512dq",
    "AVX512VL": "avx512vl",
    "AVX512VNNI": "avx512_vnni",
}
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_sysctl(text: str) -> dict[str, str]:
    """``name: value`` lines; anything else is left out."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match = _LINE.match(line.rstrip("\r"))
        if match:
            found.setdefault(match[1], match[2].strip())
    return found


def sysctl(source: Source, deadline_s: float) -> dict[str, str]:
    """The reply to the question ``sysctl``; empty where there is none."""
    out = source.ask("sysctl", deadline_s).get("stdout")
    return parse_sysctl(out) if isinstance(out, str) else {}


def number(found: dict[str, str], name: str) -> int | None:
    """A whole number, not negative."""
    word = found.get(name, "")
    return int(word) if re.fullmatch(r"\d{1,19}", word, re.ASCII) else None


def parse_vm_stat(text: str) -> dict[str, int]:
    """``vm_stat`` in bytes by name (``free``, ``inactive`` ...); empty where the size of a page is not said."""
    size = re.search(r"page size of (\d{3,7}) bytes", text, re.ASCII)
    if size is None:
        return {}
    pages = re.findall(r"^Pages ([a-z ]{1,40}):\s+(\d{1,15})\.?\s*$", text, re.M | re.ASCII)
    return {name: int(count) * int(size[1]) for name, count in pages}


def available(source: Source, deadline_s: float) -> int | None:
    """Bytes that can be taken without swapping: free, speculative and inactive pages (as psutil counts them)."""
    out = source.ask("vm_stat", deadline_s).get("stdout")
    found = parse_vm_stat(out) if isinstance(out, str) else {}
    if "free" not in found or "inactive" not in found:
        return None
    return found["free"] + found.get("speculative", 0) + found["inactive"]


def swap(found: dict[str, str]) -> Swap | None:
    """``vm.swapusage``: ``total = 2048.00M  used = 1024.00M  free = 1024.00M``."""
    sizes = {
        name: int(float(digits) * _UNITS[unit])
        for name, digits, unit in re.findall(
            r"(total|free) = (\d{1,9}(?:\.\d+)?)([KMGT])", found.get("vm.swapusage", ""), re.ASCII
        )
    }
    return Swap(total_bytes=sizes["total"], free_bytes=sizes.get("free")) if "total" in sizes else None


def is_translated(found: dict[str, str], platform: Platform) -> bool:
    """Whether this process is x86_64 code on an Apple chip."""
    if number(found, "sysctl.proc_translated") == 1:
        return True
    brand = found.get("machdep.cpu.brand_string", "")
    apple = "Apple" in brand or number(found, "hw.optional.arm64") == 1
    return platform.machine == "x86_64" and apple


def read_cpu(found: dict[str, str], platform: Platform, notes: Notes) -> Cpu | None:
    """The processor, as ``sysctl`` has it; ``None`` where it does not even give the brand."""
    brand = clean(found.get("machdep.cpu.brand_string", ""), 120)
    if not brand:
        return None
    counted = {
        key: notes.sane_int(number(found, name), "cores", f"cpu.{key}", f"sysctl {name}")
        for key, name in (
            ("cores_logical", "hw.logicalcpu"),
            ("cores_physical", "hw.physicalcpu"),
            ("cores_performance", "hw.perflevel0.physicalcpu"),
        )
    }
    fallback = platform.cpu_count if within(platform.cpu_count, "cores") else None
    logical = counted["cores_logical"] or fallback or 1
    physical = counted["cores_physical"]
    notes.add("cpu", "sysctl")
    notes.add("cpu.cores_granted", "sysctl hw.logicalcpu", "macOS grants a process all cores")
    return Cpu(
        name=brand,
        isa=tuple(flag for flag in ISA if flag in _flags(found, platform)),
        cores_physical=physical if physical is None or physical <= logical else None,
        cores_logical=logical,
        cores_granted=float(logical),
        # A chip with one kind of core has one level, or none listed.
        cores_performance=counted["cores_performance"] if number(found, "hw.nperflevels") != 1 else None,
    )


def _flags(found: dict[str, str], platform: Platform) -> set[str]:
    if platform.machine == "arm64":
        named = {flag for name, flag in _ARM.items() if number(found, f"hw.optional.arm.{name}") == 1}
        # The matrix extension is there for a process only where the system keeps its state.
        if number(found, "hw.optional.arm.sme_max_svl_b") == 0:
            named -= {"sme", "sme2"}
        return named | _APPLE
    words = f"{found.get('machdep.cpu.features', '')} {found.get('machdep.cpu.leaf7_features', '')}".split()
    return {_X86[word] for word in words if word in _X86}
