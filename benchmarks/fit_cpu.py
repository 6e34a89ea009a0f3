"""What CPU cores do, by engine, from measurements of the project's own (benchmarks/data/cpu_speeds.csv)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.ridge import quantile

TABLE: Final = Path(__file__).resolve().parent / "data" / "cpu_speeds.csv"
REFERENCE_LAYERS: Final = 32


class CpuRow(NamedTuple):
    """One measurement on a CPU; times in seconds a token, ``read`` in bytes, ``isa`` the factor of
    the instruction ``set``."""

    engine: str
    key: str
    params: float
    layers: int
    read: float
    cores: float
    set: str
    isa: float
    bandwidth: float
    decode: float | None
    prefill: float | None
    source: str


def read(path: Path = TABLE) -> list[CpuRow]:
    """The rows measured on CPUs."""
    out = []
    with path.open(encoding="utf-8", newline="") as file:
        for r in csv.DictReader(file):
            out.append(
                CpuRow(
                    engine=r["engine"],
                    key=r["kernel"],
                    params=float(r["params_m"]) * 1e6,
                    layers=int(r["layers"]),
                    read=float(r["read_mb"]) * 1e6,
                    cores=float(r["cores"]),
                    set=r["isa"],
                    isa=ISA[r["isa"]],
                    bandwidth=float(r["bandwidth_gbs"]) * 1e9,
                    decode=1 / float(r["decode_tps"]) if r["decode_tps"] else None,
                    prefill=1 / float(r["prefill_tps"]) if r["prefill_tps"] else None,
                    source=r["source"],
                )
            )
    return out


# Factors on the arithmetic by instruction set. AVX-512 over AVX2: SmolLM2-135M prefill with llama.cpp, 299
# against 250 (Q4_K_M) and 316 against 286 (Q8_0); the others by the width of their registers.
ISA: Final = {
    "avx512_vnni": 1.1,
    "avx512f": 1.1,
    "avx_vnni": 1.05,
    "avx2": 1.0,
    "i8mm": 1.2,
    "asimddp": 0.9,
    "avx": 0.35,
    "": 0.2,
}
READ_EFFICIENCY: Final = 0.6
LEAST: Final = 0.05  # of a token's time is taken to be arithmetic at least
FAR: Final = 2.5  # times faster or slower than the engine's other kernels
LARGE: Final = 1e9  # weights beyond which a token's fixed time drowns in the rest
FASTEST: Final = 400.0  # 10^9 operations a second and core: no kernel is taken to be faster


def cpu() -> dict[str, Any]:
    """What CPU cores do, by engine: a fixed time for each layer, and the rate of the arithmetic by kernel.

    What a row takes beyond the fixed time is its arithmetic. Rates of a prompt scatter more between runs than between
    kernels, so an engine has one, and a kernel its own only where it is far off.
    """
    rows = read()
    engines: dict[str, Any] = {}
    for name in sorted({r.engine for r in rows}):
        mine = [r for r in rows if r.engine == name]
        fixed = _fixed(mine)
        decode: dict[str, list[float]] = {}
        prefill: dict[str, list[float]] = {}
        for r in mine:
            operations = 2 * r.params / (r.cores * r.isa * 1e9)
            if r.decode is not None:
                left = max(r.decode - fixed * r.layers, LEAST * r.decode)
                decode.setdefault(r.key, []).append(min(operations / left, FASTEST))
            if r.prefill is not None:
                prefill.setdefault(r.key, []).append(operations / r.prefill)
        usual = _middle([v for found in prefill.values() for v in found]) if prefill else 0.0
        own = {k: _middle(v) for k, v in prefill.items() if not 1 / FAR < _middle(v) / usual < FAR}
        engines[name] = {
            "fixed_ms": round(fixed * REFERENCE_LAYERS * 1000, 2),
            "decode": {k: round(_middle(found), 2) for k, found in sorted(decode.items())},
            "prefill": {k: round(v, 2) for k, v in sorted({"": usual, **own}.items())} if prefill else {},
            "source": "; ".join(dict.fromkeys(r.source for r in mine)),
        }
    return {
        "read_efficiency": {
            "value": READ_EFFICIENCY,
            "low": 0.5,
            "high": 0.7,
            "source": "published llama.cpp measurements on CPUs against measured read bandwidth: .50 to .68",
        },
        "attention_gflops_per_core": {"value": 12.0, "source": "assumed: 16-bit cache, read through f32 arithmetic"},
        "oversubscription": {
            "value": 0.4,
            "low": 0.1,
            "high": 0.9,
            "source": "assumed: more threads than cores wait for each other at every matrix",
        },
        "engines": engines,
        "isa": ISA,
    }


def _middle(values: Sequence[float]) -> float:
    return quantile([(v, 1.0) for v in values], 0.5)


def _fixed(rows: Sequence[CpuRow]) -> float:
    """Seconds a token and layer that are neither reading nor arithmetic.

    Two models of one type and different depths tell them apart; else it is what the row with the most bytes takes
    beyond reading them.
    """
    known = [(r, r.decode) for r in rows if r.decode is not None and r.params < LARGE]
    for r, one in known:
        for other, two in known:
            if r.key == other.key and r.layers > other.layers:
                found = (one * other.params - two * r.params) / (r.layers * other.params - other.layers * r.params)
                return max(found, 0.0)
    r, taken = max(known, key=lambda pair: pair[0].read * (pair[0].key == "plain"))
    return max(taken - r.read / (READ_EFFICIENCY * r.bandwidth), 0.2 * taken) / r.layers
