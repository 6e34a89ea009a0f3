"""Speed of a CPU: the slower of arithmetic and of reading the weights."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.devices import engines
from advisor.facts.machine import Host
from advisor.facts.plan import Settings

# Factors on the arithmetic rate by the type that most weights have: kernels differ in how much they unpack.
_TYPES: Final = {
    **dict.fromkeys(("q4_0", "q4_k", "iq4_nl", "q8_0", "mxfp4"), 1.0),
    **dict.fromkeys(("q4_1", "q5_0", "q5_1", "q5_k", "q6_k", "iq4_xs"), 0.8),
    **dict.fromkeys(("q2_k", "q3_k"), 0.7),
    **dict.fromkeys(("f16", "bf16", "f32"), 0.4),
}
# Other runtimes on a CPU, relative to llama.cpp's arithmetic, and their fixed milliseconds a token.
_RUNTIMES: Final = {"vllm": (0.45, 12.0), "transformers": (0.3, 45.0)}
_NO_KERNEL: Final = {"fp8": 0.05, "nf4": 0.15, "nvfp4": 0.05, "mxfp4": 0.05, "hqq": 0.1}
_FEW_CHANNELS: Final = 40e9  # bytes/s: two channels of DDR4-3200 read at about four fifths of 51 GB/s
_MANY_CHANNELS: Final = 150e9  # eight channels, as machines with more than 16 cores have


class Rate(NamedTuple):
    """``seconds`` for what was asked; factors on the speed; ``known``: the memory's bandwidth was known."""

    seconds: float
    low: float
    high: float
    known: bool
    source: str


def cores(host: Host, settings: Settings) -> float:
    """Cores that will really work: the threads asked for, within what is granted."""
    granted = max(host.cpu.cores_granted, 0.1)
    return min(float(settings.threads), granted) if settings.threads else granted


def isa_factor(host: Host) -> float:
    """Arithmetic rate relative to AVX2."""
    have = set(host.cpu.isa)
    if not have and host.arch in ("arm64", "aarch64"):
        have = {"asimddp"}
    return max((f for name, f in engines().cpu.isa.items() if not name or name in have), default=0.2)


def _bandwidth(host: Host) -> tuple[float, bool]:
    if host.bandwidth is not None and host.bandwidth.value > 0:
        return float(host.bandwidth.value), True
    return (_MANY_CHANNELS if (host.cpu.cores_physical or host.cpu.cores_logical) > 16 else _FEW_CHANNELS), False


def decode(host: Host, settings: Settings, *, read: float, params: float, kind: str, runtime: str, method: str) -> Rate:
    """Time of one token.

    Args:
        host: cores and bandwidth.
        settings: threads.
        read: bytes of weights and cache that the token reads from host memory.
        params: weights that take part.
        kind: the type of most of them.
        runtime: the engine.
        method: quantization method; some have no CPU kernels.
    """
    figures = engines().cpu
    factor, fixed = _RUNTIMES.get(runtime, (1.0, figures.fixed_ms.value))
    factor *= _NO_KERNEL.get(method, 1.0) * isa_factor(host)
    if method == "gguf":
        factor *= _TYPES.get(kind, 0.7)
    elif runtime not in _RUNTIMES:
        factor *= 0.4
    arithmetic = 2 * params / (figures.decode_gflops_per_core.value * 1e9 * factor * cores(host, settings))
    bandwidth, known = _bandwidth(host)
    reading = read / (figures.read_efficiency.value * bandwidth)
    share = reading / max(arithmetic, reading)
    low, high = (0.6, 1.5) if known and share > 0.99 else (0.45, 1.8)
    if not known:
        low, high = 0.3, 2.5
    return Rate(
        seconds=max(arithmetic, reading) + fixed / 1000,
        low=low,
        high=high,
        known=known,
        source=f"cores: {figures.decode_gflops_per_core.source}; memory: {figures.read_efficiency.source}",
    )


def prefill(host: Host, settings: Settings, *, params: float, kind: str, runtime: str, method: str) -> Rate:
    """Time of one token of a prompt, read in whole batches: arithmetic alone."""
    figures = engines().cpu
    factor = _RUNTIMES.get(runtime, (1.0, 0.0))[0] * _NO_KERNEL.get(method, 1.0) * isa_factor(host)
    if method == "gguf":
        factor *= _TYPES.get(kind, 0.7)
    seconds = 2 * params / (figures.prefill_gflops_per_core.value * 1e9 * factor * cores(host, settings))
    return Rate(seconds, 0.45, 2.2, True, figures.prefill_gflops_per_core.source)
