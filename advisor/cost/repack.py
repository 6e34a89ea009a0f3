"""Weights that llama.cpp puts into a layout of the CPU's matrix instructions.

Where the file is mapped, that is a second copy beside the pages of the file. Where it is read (load mode ``none``),
each matrix goes through a buffer into the layout and is in memory once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from advisor.cost.gguf_file import EMBEDDING, Part, WeightMap
from advisor.facts.machine import Machine

# type -> the number of rows must be a multiple of this; ``ggml_repack_get_optimal_repack_type`` of ggml-cpu/repack.cpp.
# What it does on RISC-V follows the length of vectors, which the kernel does not name: nothing is counted there.
_AVX2: Final = {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8}
_AVX512: Final = {"q2_k": 8}
_DOTPROD: Final = {"q4_0": 4, "q4_k": 8, "q5_k": 8, "q6_k": 8, "iq4_nl": 4, "mxfp4": 4, "q8_0": 4}
_VXE: Final = {"q4_0": 4}  # s390x
# What prebuilt CPU packages are compiled for: nothing above AVX2 on x86.
WHEEL_ISA: Final = ("avx", "avx2", "f16c", "fma", "sse3", "ssse3", "asimd", "asimddp", "neon", "dotprod")


def rules(isa: Iterable[str], build_isa: Iterable[str] | None = None, *, arch: str = "") -> dict[str, int]:
    """Types that are repacked, with the multiple that their rows must have.

    Args:
        isa: the CPU's features by the kernel's names.
        build_isa: what the program was compiled for; ``None`` means for the CPU itself.
        arch: machine architecture; Apple's ARM processors always have the dot product instructions.
    """
    have = set(isa)
    if arch == "arm64":  # Apple's name of it
        have |= {"asimddp"}
    if build_isa is not None:
        have &= set(build_isa)
    out: dict[str, int] = {}
    if "avx2" in have:
        out.update(_AVX2)
    if "avx512f" in have:
        out.update(_AVX512)
    if "asimddp" in have or "dotprod" in have:
        out.update(_DOTPROD)
    if "vxe" in have:
        out.update(_VXE)
    return out


def is_copied(part: Part, types: dict[str, int], *, tied: bool) -> bool:
    """Whether the engine keeps a repacked copy of this tensor: matrices it multiplies with, experts included.

    The token embedding is looked up, not multiplied, unless it is the output matrix too.
    """
    multiple = types.get(part.type)
    if multiple is None or not part.matrix or part.rows % multiple:
        return False
    if part.place == EMBEDDING:
        return tied and part.name == "token_embd.weight"
    return part.dims == 2 or part.expert  # not the absorbed matrices of latent attention


def here(machine: Machine, provider: str, build_isa: Iterable[str] | None = None) -> dict[str, int]:
    """``rules`` for llama.cpp on ``machine``: out of a prebuilt package (``wheel``), or built for its own CPU."""
    if build_isa is None and provider == "wheel":
        build_isa = WHEEL_ISA
    return rules(machine.host.cpu.isa, build_isa, arch=machine.host.arch)


def ratio(weights: WeightMap, types: dict[str, int]) -> float:
    """Share of the loaded weights that is repacked where all of them are on the host."""
    return sum(copied_bytes(weights, types).values()) / weights.loaded if weights.loaded else 0.0


def largest(weights: WeightMap, types: dict[str, int]) -> int:
    """Bytes of the largest repacked tensor: the buffer through which the file is read."""
    return max((p.bytes for p in weights.parts if is_copied(p, types, tied=weights.tied)), default=0)


def copied_bytes(weights: WeightMap, types: dict[str, int]) -> dict[int, int]:
    """Bytes of repacked weights by place."""
    out: dict[int, int] = {}
    for part in weights.parts:
        if is_copied(part, types, tied=weights.tied):
            out[part.place] = out.get(part.place, 0) + part.bytes
    return out
