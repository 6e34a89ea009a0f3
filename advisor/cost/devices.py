"""Speed classes of devices and kernels, and the fitted figures of profiles/speed.

A figure is a sum of parts: one for everything, one for the maker, one for the kind of memory, one for the generation,
one for the kernels. Parts of classes that nobody measured are absent, so that such a device has the figures of the
classes above it; parts that rest on few devices were drawn towards zero when they were fitted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from functools import cache
from typing import Final, NamedTuple

from advisor.datafiles import profiles_dir
from advisor.facts.base import Shape, loads
from advisor.facts.machine import Device
from advisor.facts.quantity import Method

_HBM_NAMES: Final = ("a100", "a30", "h100", "h200", "h20", "b200", "b300", "v100", "p100", "gh200")
# Compute capabilities of the chips that are sold with HBM alone: P100, V100, A100, Hopper, B200, B300.
_HBM_CAPABILITIES: Final = (6.0, 7.0, 8.0, 9.0, 10.0, 10.3)
_UNIFIED_NAMES: Final = ("gb10", "jetson", "thor", "orin", "dgx spark")
# A large carve-out of a processor's graphics counts as memory of its own; it is as slow as the rest all the same.
_APUS: Final = ("gfx1033", "gfx1035", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153")
_NVIDIA: Final = (
    (7.0, "pascal"),
    (7.5, "volta"),
    (8.0, "turing"),
    (8.9, "ampere"),
    (9.0, "ada"),
    (10.0, "hopper"),
)
_AMD: Final = (
    ("gfx12", "amd-rdna", "amd-rdna4"),
    ("gfx11", "amd-rdna", "amd-rdna3"),
    ("gfx103", "amd-rdna", "amd-rdna2"),
    ("gfx10", "amd-rdna", "amd-rdna1"),
    ("gfx908", "amd-cdna", "amd-cdna1"),
    ("gfx90a", "amd-cdna", "amd-cdna2"),
    ("gfx94", "amd-cdna", "amd-cdna3"),
    ("gfx95", "amd-cdna", "amd-cdna4"),
    ("gfx9", "amd-gcn", "amd-vega"),
    ("gfx8", "amd-gcn", "amd-polaris"),
)
_APPLE: Final = re.compile(r"\bm(\d)(?:[ -](pro|max|ultra))?", re.IGNORECASE)

# Kernel families: what a matrix is multiplied with. Types of one family unpack their weights in the same way.
_KERNELS: Final[dict[str, str]] = {
    **dict.fromkeys(("f32", "f16", "bf16", "fp16"), "plain"),
    **dict.fromkeys(("q8_0", "w8a8", "int8", "fp8"), "byte"),
    **dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1"), "block"),
    **dict.fromkeys(("q4_k", "q5_k", "q6_k"), "k"),
    **dict.fromkeys(("q2_k", "q3_k"), "k-low"),
    **dict.fromkeys(("nvfp4", "mxfp4"), "fp4"),
    **dict.fromkeys(("awq", "gptq", "rtn"), "int4"),
    **dict.fromkeys(("nf4", "hqq"), "table"),
}
# Parts of the name of an engine's figures; llama.cpp's are the base.
ENGINES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("vllm", "sglang", "tgi"), ("engine:python", "engine:vllm")),
    **dict.fromkeys(("exllama", "autoawq"), ("engine:python", "engine:fused")),
    **dict.fromkeys(("transformers", "textgen", "mlx"), ("engine:python",)),
}


class Range(Shape, frozen=True, kw_only=True):
    """Factors on a speed that enclose nine tenths of what was measured on devices held out of the fit."""

    low: float
    high: float
    devices: int
    rows: int


class Measured(Shape, frozen=True, kw_only=True):
    """What a class of devices rests on."""

    devices: int
    rows: int
    source: str


class DecodeFit(Shape, frozen=True, kw_only=True):
    """Seconds a token = bytes / bandwidth * (1 + exp(-sum of ``efficiency``)) + exp(sum of ``fixed``) ms *
    (layers / ``reference_layers``) ** ``layers_power`` (of its own for mixtures of experts). No device reads faster
    than its bandwidth."""

    efficiency: dict[str, float]
    fixed: dict[str, float]
    layers_power: float
    layers_power_experts: float
    reference_layers: int
    ranges: dict[str, Range]
    measured: dict[str, Measured]


class PrefillFit(Shape, frozen=True, kw_only=True):
    """Share of the dense FP16 tensor rate that a prompt reaches = exp(sum of ``share``).

    ``tflops_per_tbs``: 10^12 operations for each 10^12 bytes of bandwidth, reached where a device has no such rate.
    """

    share: dict[str, float]
    ranges: dict[str, Range]
    measured: dict[str, Measured]
    tflops_per_tbs: float


class CpuEngine(Shape, frozen=True, kw_only=True):
    """One engine on a CPU: fixed milliseconds a token at ``DecodeFit.reference_layers`` layers; 10^9 operations a
    second of one AVX2 core by tensor type, format, method or kernel family (the narrowest that is there), for one token
    and for a prompt."""

    fixed_ms: float
    decode: dict[str, float]
    prefill: dict[str, float]
    source: str


class Figure(Shape, frozen=True, kw_only=True):
    """One number and where it is from."""

    value: float
    source: str
    low: float | None = None
    high: float | None = None


class CpuFigures(Shape, frozen=True, kw_only=True):
    """What CPU cores do; ``isa`` are factors on the arithmetic by instruction set; of those that a CPU has, the largest
    counts."""

    read_efficiency: Figure
    attention_gflops_per_core: Figure
    oversubscription: Figure
    engines: dict[str, CpuEngine]
    isa: dict[str, float]


class Speeds(Shape, frozen=True, kw_only=True):
    """profiles/speed/engines.json, written by benchmarks/fit_speed.py."""

    about: str
    decode: DecodeFit
    prefill: PrefillFit
    cpu: CpuFigures


class Law(NamedTuple):
    """Decode on one class of device with one kernel: ``inverse`` is bytes' time over the time at full bandwidth,
    ``fixed`` seconds a token; factors of the range."""

    inverse: float
    fixed: float
    low: float
    high: float
    method: Method
    source: str


class Share(NamedTuple):
    """Reading a prompt: share of the tensor rate, and factors of the range."""

    share: float
    low: float
    high: float
    method: Method
    source: str


@cache
def speeds() -> Speeds:
    """The fitted figures.

    Raises:
        msgspec.ValidationError: the file is damaged.
        OSError: it cannot be read.
    """
    return loads(Speeds, (profiles_dir("speed") / "engines.json").read_bytes())


def classes(device: Device) -> tuple[str, ...]:
    """The speed classes of an accelerator, from its maker to its generation; the second is the kind of memory."""
    name = f"{device.profile or ''} {device.name}".lower()
    arch = (device.arch or "").lower()
    if device.vendor == "nvidia":
        return _nvidia(device, name)
    if device.vendor == "amd":
        if device.unified_memory or arch in _APUS:
            return "amd", "amd-apu"
        for start, kind, generation in _AMD:
            if arch.startswith(start):
                return "amd", kind, generation
        return "amd", "amd-cdna" if "instinct" in name else "amd-rdna"
    if device.vendor == "intel":
        return "intel", "intel-igpu" if device.unified_memory else "intel-arc"
    if device.vendor == "apple":
        found = _APPLE.search(name)
        if found is None:
            return "apple", "apple-unified"
        size = found[2].lower() if found[2] in ("max", "ultra") else "base"
        return "apple", "apple-unified", f"apple-{'from-m4' if int(found[1]) >= 4 else 'to-m3'}", f"apple-{size}"
    return (device.vendor,)


def _nvidia(device: Device, name: str) -> tuple[str, ...]:
    capability = device.compute_capability
    generation = next((g for below, g in _NVIDIA if capability is not None and capability < below), "blackwell")
    if capability in _HBM_CAPABILITIES or (capability is None and any(word in name for word in _HBM_NAMES)):
        kind = "nvidia-hbm"
    elif device.unified_memory or any(word in name for word in _UNIFIED_NAMES):
        kind = "nvidia-unified"
    else:
        kind = "nvidia-gddr"
    if capability is None:
        return "nvidia", kind
    return "nvidia", kind, f"{kind}-{generation}" if kind != "nvidia-gddr" else f"nvidia-{generation}"


def kernel(fmt: str, method: str) -> str:
    """The family of the kernels that multiply with most of a model's weights.

    Args:
        fmt: a GGUF tensor type (``q4_k``), else a format of the method.
        method: quantization method.
    """
    if method == "gguf" or fmt in _KERNELS:
        return _KERNELS.get(fmt, "iq" if fmt.startswith(("iq", "tq")) else "fp4" if "fp4" in fmt else "k")
    return _KERNELS.get(method, "plain" if method == "none" else "int4")


def parts(chain: tuple[str, ...], runtime: str, family: str, *, moe: bool = False) -> tuple[str, ...]:
    """Names of the parts that make up the efficiency of one kernel family on one class of device."""
    base = ("", *chain, *ENGINES.get(runtime, ()), f"kernel:{family}", f"kernel:{family}:{chain[-1]}")
    return (*base, *_expert_parts(chain), f"moe:kernel:{family}") if moe else base


def fixed_parts(chain: tuple[str, ...], runtime: str, *, moe: bool = False) -> tuple[str, ...]:
    """Names of the parts that make up the fixed time of a token."""
    base = ("", *chain, *ENGINES.get(runtime, ()))
    return (*base, *_expert_parts(chain)) if moe else base


def _expert_parts(chain: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("moe", f"moe:{chain[min(1, len(chain) - 1)]}", f"moe:{chain[-1]}")))


def basis(chain: tuple[str, ...], runtime: str, *, moe: bool = False) -> str:
    """The key of what was measured: engine, kind of memory, experts or not."""
    side = "python" if runtime in ENGINES else "llama.cpp"
    return f"{side} {chain[min(1, len(chain) - 1)]}{' moe' if moe else ''}"


def is_known(family: str, key: str, bases: Container[str], names: Container[str]) -> bool:
    """Whether the kind of memory (``basis``) and the kernel family were measured, with whatever else."""
    return key in bases and (f"kernel:{family}" in names or f"moe:kernel:{family}" in names)


def scope(
    table: dict[str, Range], chain: tuple[str, ...], *, known: bool, names: Container[str], moe: bool
) -> tuple[Range, float]:
    """The range of the narrowest class that has one of its own, and by what factor it is wider where the class or the
    kernel is unknown. A device of a generation that is not among ``names`` has the range of all devices."""
    prefix = "moe " if moe else ""
    own = reversed(chain) if known and chain[-1] in names else ()
    span = next((table[prefix + c] for c in own if prefix + c in table), table[f"{prefix}any"])
    return span, 1.0 if known else _UNKNOWN


# A class, or a kernel, of which nothing was measured: its range is that of all devices, widened by as much again.
_UNKNOWN: Final = 1.5
# Mixtures of experts differ more among themselves (number, width and share of experts) than dense models: fewer rows
# than this are of one model or two, and say little of another.
_FEW: Final = 10


def law(device: Device, *, runtime: str, family: str, moe: bool, layers: int) -> Law:
    """The decode law of a device. There is one for every device; what nobody measured is a guess with a wide range."""
    fit = speeds().decode
    chain = classes(device)
    # exp() is bounded: a fit that ran away gives an absurd speed, not an overflow.
    slope = sum(fit.efficiency.get(p, 0.0) for p in parts(chain, runtime, family, moe=moe))
    fixed = sum(fit.fixed.get(p, 0.0) for p in fixed_parts(chain, runtime, moe=moe))
    size = (max(layers, 1) / fit.reference_layers) ** (fit.layers_power_experts if moe else fit.layers_power)
    found = fit.measured.get(basis(chain, runtime, moe=moe))
    known = is_known(family, basis(chain, runtime, moe=moe), fit.measured, fit.efficiency)
    span, wider = scope(fit.ranges, chain, known=known, names=fit.efficiency, moe=moe)
    source = found.source if found is not None else f"devices of other classes than {chain[-1]}"
    if moe and found is not None and found.rows < _FEW:
        known, wider = False, wider * _UNKNOWN
    return Law(
        inverse=1 + math.exp(min(max(-slope, -30.0), 30.0)),
        fixed=math.exp(min(fixed, 30.0)) * size / 1000,
        low=span.low / wider,
        high=span.high * wider,
        method="fit" if known else "guess",
        source=source,
    )


def prompt_parts(device: Device, runtime: str, family: str, *, moe: bool) -> tuple[str, ...]:
    """Names of the parts that make up the share of the tensor rate.

    GeForce cards have half the rate of the same chip with FP32 accumulate, which quantized kernels do not need.
    """
    more: tuple[str, ...] = ("geforce",) if device.vendor == "nvidia" and "geforce" in device.name.lower() else ()
    more += ("moe",) if moe else ()
    return ("", *classes(device), *ENGINES.get(runtime, ()), *more, f"kernel:{family}")


def prompt_share(device: Device, *, runtime: str, family: str, moe: bool) -> Share:
    """The share of the tensor rate that a prompt reaches on a device."""
    fit = speeds().prefill
    chain = classes(device)
    names = prompt_parts(device, runtime, family, moe=moe)
    found = fit.measured.get(basis(chain, runtime))
    span, wider = scope(fit.ranges, chain, known=found is not None, names=fit.share, moe=False)
    return Share(
        share=min(math.exp(sum(fit.share.get(n, 0.0) for n in names)), 1.0),
        low=span.low / wider,
        high=span.high * wider,
        method="fit" if found else "guess",
        source=found.source if found else f"devices of other classes than {chain[-1]}",
    )
