"""Speed of a CPU: a fixed time a token, and the slower of arithmetic and of reading the weights."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.devices import CpuEngine, kernel, speeds
from advisor.cost.work import Kinds
from advisor.facts.machine import Host
from advisor.facts.plan import Settings

_FEW_CHANNELS: Final = 40e9  # bytes/s: two channels of DDR4-3200 read at about four fifths of 51 GB/s
_MANY_CHANNELS: Final = 150e9  # eight channels, as machines with more than 16 cores have
# Engines that are another's in a new dress, and engines that are taken to be like another; what is in neither is taken
# to be as slow as transformers.
_SAME: Final = dict.fromkeys(("llama-cpp-python", "ollama", "lmstudio"), "llama.cpp")
_LIKE: Final = dict.fromkeys(("sglang", "tgi"), "vllm")


class Rate(NamedTuple):
    """``seconds`` for what was asked; factors on the speed; ``known``: the memory's bandwidth was known.

    ``least``: seconds that reading alone takes at the full bandwidth. ``fitted``: the kernels were measured.
    """

    seconds: float
    low: float
    high: float
    known: bool
    fitted: bool
    least: float
    source: str


def cores(host: Host, settings: Settings) -> float:
    """Cores that will really work: the threads asked for, within what is granted.

    Threads beyond the granted cores do not help: all wait at every matrix for the one that is not running.
    """
    granted = max(host.cpu.cores_granted, 0.1)
    if not settings.threads:
        return granted
    if not crowded(host, settings):
        return min(float(settings.threads), granted)
    return granted * speeds().cpu.oversubscription.value


def crowded(host: Host, settings: Settings) -> bool:
    """Whether more threads are asked for than cores are granted; a quota may end in a fraction of a core."""
    return bool(settings.threads) and float(settings.threads or 0) >= max(host.cpu.cores_granted, 0.1) + 1


def isa_factor(host: Host) -> float:
    """Arithmetic rate relative to AVX2."""
    have = set(host.cpu.isa)
    if not have and host.arch in ("arm64", "aarch64"):
        have = {"asimddp"}
    return max((f for name, f in speeds().cpu.isa.items() if not name or name in have), default=0.2)


def shared(host: Host) -> bool:
    """Whether others compute on the same processor: fewer cores are granted than there are."""
    return host.cpu.cores_granted < 0.9 * (host.cpu.cores_physical or host.cpu.cores_logical)


def _bandwidth(host: Host) -> tuple[float, bool]:
    if host.bandwidth is not None and host.bandwidth.value > 0:
        return float(host.bandwidth.value), True
    return (_MANY_CHANNELS if (host.cpu.cores_physical or host.cpu.cores_logical) > 16 else _FEW_CHANNELS), False


def _engine(runtime: str) -> tuple[CpuEngine, bool]:
    """The figures of an engine, and whether they were measured with it."""
    found = speeds().cpu.engines
    name = _SAME.get(runtime, _LIKE.get(runtime, runtime))
    return (found[name], runtime not in _LIKE) if name in found else (found["transformers"], False)


def _mixed(rates: dict[str, float], kinds: Kinds, method: str) -> tuple[float, bool]:
    """The rate over all types, and whether all that count were measured."""
    total = sum(share for _, share in kinds) or 1.0
    inverse, sure = 0.0, True
    for kind, share in kinds:
        rate, known = _pick(rates, kind, method)
        inverse += share / total / rate
        sure = sure and (known or share < 0.1 * total)
    return (1 / inverse if inverse else min(rates.values())), sure


def _pick(rates: dict[str, float], kind: str, method: str) -> tuple[float, bool]:
    """The rate of the narrowest key that is there, and whether one is; else the slowest of all, a guess: what has no
    kernel is unpacked first."""
    for key in (kind, method, kernel(kind, method), ""):
        if key in rates:
            return rates[key], True
    return min(rates.values()), False


def _range(
    host: Host, settings: Settings, *, known: bool, fitted: bool, own: bool, memory_bound: bool
) -> tuple[float, float]:
    low, high = (0.6, 1.5) if known and memory_bound else (0.5, 1.7)
    if not known:
        low, high = 0.3, 2.5
    if not fitted or not own:
        low, high = low * 0.5, high * 1.5
    waiting = speeds().cpu.oversubscription
    if crowded(host, settings) and waiting.low is not None and waiting.high is not None:
        low, high = low * waiting.low / waiting.value, high * waiting.high / waiting.value
    return (low * 0.75 if shared(host) else low), high


def decode(
    host: Host,
    settings: Settings,
    *,
    read: float,
    params: float,
    kinds: Kinds,
    runtime: str,
    method: str,
    layers: float = 0.0,
    attention: float = 0.0,
) -> Rate:
    """Time of one token.

    Args:
        host: cores and bandwidth.
        settings: threads.
        read: bytes of weights and cache that the token reads from host memory.
        params: weights that take part.
        kinds: their types.
        runtime: the engine.
        method: quantization method; some have no CPU kernels.
        layers: layers on the host, for the fixed time.
        attention: operations on the cache.
    """
    figures = speeds().cpu
    engine, own = _engine(runtime)
    rate, fitted = _mixed(engine.decode, kinds, method)
    working = isa_factor(host) * cores(host, settings) * 1e9
    arithmetic = 2 * params / (rate * working) + attention / (figures.attention_gflops_per_core.value * working)
    bandwidth, known = _bandwidth(host)
    reading = read / (figures.read_efficiency.value * bandwidth)
    fixed = engine.fixed_ms / 1000 * layers / speeds().decode.reference_layers
    low, high = _range(host, settings, known=known, fitted=fitted, own=own, memory_bound=reading > arithmetic)
    return Rate(
        seconds=max(arithmetic, reading) + fixed,
        low=low,
        high=high,
        known=known,
        fitted=fitted and own,
        least=read / bandwidth if known else 0.0,
        source=f"cores: {engine.source}; memory: {figures.read_efficiency.source}",
    )


def prefill(
    host: Host, settings: Settings, *, params: float, kinds: Kinds, runtime: str, method: str, attention: float = 0.0
) -> Rate:
    """Time of one token of a prompt, read in whole batches: arithmetic alone."""
    engine, own = _engine(runtime)
    rates = engine.prefill or speeds().cpu.engines["transformers"].prefill
    rate, fitted = _mixed(rates, kinds, method)
    working = isa_factor(host) * cores(host, settings) * 1e9
    seconds = 2 * params / (rate * working) + attention / (speeds().cpu.attention_gflops_per_core.value * working)
    fitted = fitted and own and bool(engine.prefill)
    low, high = _range(host, settings, known=True, fitted=fitted, own=own, memory_bound=False)
    return Rate(seconds, low * 0.9, high * 1.3, True, fitted, 0.0, engine.source)
