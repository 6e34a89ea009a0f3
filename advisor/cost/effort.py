"""Time to make and start a model, and the disk it takes."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.formats import checkpoint, packing
from advisor.cost.gguf_file import stored_types, weight_map
from advisor.facts.machine import Machine, Storage
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Disk, Time
from advisor.facts.quantity import Method, Quantity


class Work(NamedTuple):
    """Seconds = fixed + core seconds a billion weights / cores; factors on the whole; where from."""

    fixed: float
    core_seconds: float
    low: float
    high: float
    method: Method
    source: str


_MEASURED: Final = "SmolLM2-135M on two cores of an AMD EPYC"
# Reading a checkpoint and writing it as 16-bit GGUF: mostly import time for a small model, then disk speed.
CONVERT: Final = Work(12, 12, 0.3, 4.0, "fit", f"conversion to GGUF: 15 s for {_MEASURED}")
# Back from GGUF to a 16-bit checkpoint.
RESTORE: Final = Work(18, 40, 0.3, 4.0, "fit", f"restoring from GGUF: 24 s for {_MEASURED}")
# Twelve chunks of 512 tokens through the 16-bit model on busy cores.
IMATRIX: Final = Work(5, 1000, 0.15, 2.5, "fit", f"importance matrix of 12 chunks: 100 s for {_MEASURED}")
_K: Final = Work(1, 60, 0.3, 3.0, "fit", f"llama.cpp's quantizer: 5 to 7 s for {_MEASURED}")
_LEGACY: Final = Work(1, 25, 0.3, 4.0, "fit", f"llama.cpp's quantizer: 1.4 to 6 s for {_MEASURED}")
_IQ: Final = Work(1, 400, 0.3, 2.5, "fit", f"llama.cpp's quantizer: 28 to 42 s for {_MEASURED}")
_COPY: Final = Work(1, 8, 0.3, 5.0, "fit", f"llama.cpp's quantizer: 1.6 s (Q8_0) for {_MEASURED}")
_GGUF: Final = {
    **dict.fromkeys(("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"), _K),
    **dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1"), _LEGACY),
    **dict.fromkeys(("iq4_xs", "iq4_nl"), _IQ),
    **dict.fromkeys(("q8_0", "f16", "bf16", "mxfp4"), _COPY),  # experts in MXFP4 are copied as they are
}
# On the cores of the host.
_METHODS: Final = {
    "awq": Work(20, 1650, 0.3, 2.5, "fit", f"llm-compressor AWQ: 131 s (g64) to 158 s (g32) for {_MEASURED}"),
    "gptq": Work(20, 2600, 0.3, 2.0, "fit", f"gptqmodel: 198 s (g64) for {_MEASURED}"),
    "w8a8": Work(15, 100, 0.3, 8.0, "fit", f"SmoothQuant and rounding: 9 s for {_MEASURED}; with GPTQ weights longer"),
    "fp8": Work(12, 45, 0.3, 4.0, "fit", f"llm-compressor FP8_DYNAMIC: 3 s for {_MEASURED}"),
    "nvfp4": Work(12, 200, 0.3, 4.0, "fit", f"llm-compressor NVFP4A16: 14 s for {_MEASURED}"),
    "mxfp4": Work(12, 200, 0.2, 5.0, "guess", "as NVFP4"),
    "hqq": Work(12, 450, 0.3, 3.0, "fit", f"hqq, while loading: 38 s for {_MEASURED}"),
    "rtn": Work(12, 60, 0.3, 5.0, "fit", f"rounding to nearest: seconds for {_MEASURED}"),
}
# Peak resident memory of making a checkpoint: bytes, and times the model in 16 bits; by method, and by quantizer where
# another than the usual one is named.
_PEAK: Final = (840e6, 1.34)
_PEAKS: Final = {
    "w8a8": (840e6, 1.58),
    "awq": (840e6, 2.25),
    "gptq": (910e6, 2.56),
    "autoawq": (840e6, 2.83),
}
_PEAK_SOURCE: Final = (
    "peaks for SmolLM2-135M (0.27 GB in 16 bits), whole and cut to two layers: llm-compressor without calibration 1.16 "
    "to 1.2 and 0.92 to 0.94 GB, W8A8 1.27, AWQ 1.45; gptqmodel 1.60 and 1.09; AutoAWQ a third more than without "
    "calibration"
)
# Quantized while the runtime loads: nothing is made before, and the 16-bit checkpoint lies on disk. For HQQ that
# takes long enough to be counted.
_AT_LOAD: Final = ("nf4", "int8", "hqq")
# On one NVIDIA card, which does the arithmetic: seconds a billion weights, whatever the cores of the host.
_ON_GPU: Final = {
    "awq": Work(
        20, 110, 0.4, 3.0, "fit", "AutoAWQ's read-me: 10 to 15 minutes for 7B, about an hour for 70B, on one GPU"
    ),
    "gptq": Work(
        20,
        200,
        0.35,
        10.0,
        "fit",
        "GPTQ (arXiv 2210.17323) on one A100 with 128 samples: 10 minutes for 7.1B, 4.2 hours for 175B; more samples "
        "and other cards take longer, up to 4 hours for 7B (text 000, section 6)",
    ),
    "w8a8": Work(15, 20, 0.3, 8.0, "guess", "SmoothQuant looks at activations as AWQ does, without a search"),
    "nvfp4": Work(12, 10, 0.3, 5.0, "guess", "rounding on a GPU, with reading and writing"),
    "mxfp4": Work(12, 10, 0.3, 5.0, "guess", "rounding on a GPU, with reading and writing"),
    "hqq": Work(12, 4, 0.3, 4.0, "fit", "HQQ's authors: Llama-2-70B in under five minutes on one GPU"),
}
# Seconds until the server answers, without reading the weights: value, low, high.
_START: Final = {
    "llama.cpp": (1.5, 0.5, 6.0),
    "llama-cpp-python": (3.0, 1.0, 10.0),
    "vllm": (45.0, 20.0, 240.0),
    "transformers": (15.0, 6.0, 60.0),
}
_FLOATS: Final = frozenset(("f32", "f16", "bf16", "f64"))  # types of GGUF tensors that nothing was lost in
_READ: Final = (600e6, 120e6, 4000e6)  # bytes/s from disk: SATA SSD; a hard disk to NVMe or page cache
# bytes/s on one core of an AMD EPYC, by its CPU time (docs/measured/load-mode.md): into the layout of the CPU, and from
# the page cache into memory of its own. A slow core does half, a fast one twice as much.
_REPACK: Final = 1.1e9
_COPY_OUT: Final = 3.5e9


def seconds(work: Work, params: int, cores: float, *, share: float = 1.0) -> Quantity:
    """Time of one step for ``params`` weights on ``cores`` cores.

    A tenth of the work is taken not to run in parallel: reading, writing and the interpreter.
    """
    serial = 0.1
    busy = work.core_seconds * share * params / 1e9
    value = work.fixed + busy * (serial + (1 - serial) / max(cores, 0.25))
    return Quantity(
        value=value,
        low=value * work.low,
        high=value * work.high,
        unit="s",
        method=work.method,
        source=work.source,
    )


def _sum(parts: list[Quantity]) -> Quantity | None:
    if not parts:
        return None
    guess = any(p.method == "guess" for p in parts)
    return Quantity(
        value=sum(p.value for p in parts),
        low=sum(p.low for p in parts),
        high=sum(p.high for p in parts),
        unit="s",
        method="guess" if guess else "fit",
        source="; ".join(dict.fromkeys(p.source for p in parts)),
    )


def _already(model: ModelFacts, tensors: tuple[TensorSpec, ...], method: str, fmt: str, as_is: bool | None) -> bool:
    if as_is is not None:
        return as_is
    if method == "none":  # a runtime of checkpoints takes no GGUF file: it is restored first
        return model.weights_format != "gguf"
    return method == "gguf" and stored_types(model, tensors, fmt)


def quantize_time(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    method: str,
    fmt: str,
    machine: Machine,
    *,
    imatrix: bool,
    as_is: bool | None = None,
) -> Quantity | None:
    """Seconds from the weights on disk to the artifact, conversion and importance matrix included.

    0 where nothing is made; ``None`` where no figure is known for the method.
    """
    if _already(model, tensors, method, fmt, as_is):
        return Quantity(value=0.0, low=0.0, high=0.0, unit="s", method="exact", source="nothing is quantized")
    cores = machine.host.cpu.cores_granted
    parts: list[Quantity] = []
    if method == "gguf":
        fmt = fmt.partition(":")[0]
        if fmt not in _GGUF:
            return None
        if model.weights_format != "gguf":
            parts.append(seconds(CONVERT, model.params, cores))
        if imatrix:
            parts.append(seconds(IMATRIX, model.active_params, cores))
        parts.append(seconds(_GGUF[fmt], model.params, cores))
        return _sum(parts)
    if method in ("nf4", "int8", "none"):
        nothing = Quantity(value=0.0, low=0.0, high=0.0, unit="s", method="exact", source="quantized while loading")
        return _sum([seconds(RESTORE, model.params, cores)]) if model.weights_format == "gguf" else nothing
    work = _METHODS.get(method)
    if work is None:
        return None
    if model.weights_format == "gguf":
        parts.append(seconds(RESTORE, model.params, cores))
    usable = any(d.unusable is None and d.vendor == "nvidia" for d in machine.devices)
    if usable and method in _ON_GPU:
        parts.append(seconds(_ON_GPU[method], model.params, 1.0))
    else:
        parts.append(seconds(work, model.params, cores, share=0.5 if usable else 1.0))
    return _sum(parts)


def making_memory(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    method: str,
    fmt: str,
    *,
    as_is: bool | None = None,
    quantizer: str | None = None,
) -> Quantity | None:
    """Bytes of host memory that making a checkpoint takes at its peak: the libraries, and the 16-bit model with copies.

    ``None`` for GGUF files, whose tensors pass through memory one after the other, and where nothing is made.
    ``quantizer``: by default the one that advisor takes for the method.
    """
    if method in ("gguf", *_AT_LOAD) or _already(model, tensors, method, fmt, as_is):
        return None
    size = float(checkpoint(model, tensors, "none", "bf16").total.value)
    fixed, times = _PEAKS.get(quantizer or "", _PEAKS.get(method, _PEAK))
    return Quantity(
        value=fixed + times * size,
        low=0.85 * fixed + min(1.0, times) * size,
        high=1.3 * fixed + 1.6 * times * size,
        unit="bytes",
        method="fit",
        source=_PEAK_SOURCE,
    )


def start_time(
    runtime: str,
    load_bytes: float,
    store: Storage | None = None,
    *,
    repacked_bytes: float = 0.0,
    mapped: bool = True,
) -> Quantity:
    """Seconds from the start of the runtime to its first answer: its own start, and reading ``load_bytes``.

    Of these ``repacked_bytes`` are put into another layout; where the file is not ``mapped`` all are copied once.

    Args:
        store: the disk of the weights. Where its speed was measured, that counts; what was just written may still be
            in the page cache, so that the best case stays what a cache gives.
    """
    value, low, high = _START.get(runtime, (10.0, 2.0, 60.0))
    rate, slow, fast = _READ
    disk = "the speed of an unknown disk"
    if store is not None and store.read is not None and store.read.low > 0:
        rate, slow = float(store.read.value), float(store.read.low)
        fast = max(fast, float(store.read.high))
        disk = "the measured speed of the store's disk"
    work = repacked_bytes / _REPACK + (0.0 if mapped else load_bytes / _COPY_OUT)
    return Quantity(
        value=value + load_bytes / rate + work,
        low=low + load_bytes / fast + work / 2,
        high=high + load_bytes / slow + work * 2,
        unit="s",
        method="guess",
        source=f"time to start the runtime, and reading the weights at {disk}",
    )


def time(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    runtime: str,
    machine: Machine,
    load_bytes: float,
    imatrix: bool,
    as_is: bool | None = None,
    repacked_bytes: float = 0.0,
    mapped: bool = True,
) -> Time:
    """Seconds of all steps. ``fetch`` is 0 for weights that are here and ``None`` otherwise: no speed is known."""
    fetch = None
    if model.path is not None:
        fetch = Quantity(value=0.0, low=0.0, high=0.0, unit="s", method="exact", source="the weights are on disk")
    return Time(
        fetch=fetch,
        quantize=quantize_time(model, tensors, method, fmt, machine, imatrix=imatrix, as_is=as_is),
        start=start_time(runtime, load_bytes, machine.host.store, repacked_bytes=repacked_bytes, mapped=mapped),
    )


def _published_bytes(model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> int:
    """Size of a checkpoint that is not here: in the format it is quantized in, where that is known, or 16 bits."""
    method, fmt = model.quantized_method, model.quantized_format
    if method is None or fmt is None or not tensors or packing(method, fmt) is None:
        return 2 * model.params
    return int(checkpoint(model, tensors, method, fmt).total.value)


def disk(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    imatrix: bool,
    artifact_bytes: int,
    as_is: bool | None = None,
) -> Disk:
    """Bytes to download and the most that lies on disk at once: weights, the 16-bit GGUF between, the artifact."""
    local = model.path is not None and model.weights_format != "none"
    source = model.weights_bytes or _published_bytes(model, tensors)
    download = 0 if local else source
    if _already(model, tensors, method, fmt, as_is):
        return Disk(download_bytes=download, peak_bytes=download)
    # A quantized file is restored to a checkpoint first, and converted from that.
    packed = model.weights_format == "gguf" and bool(set(model.source_types) - _FLOATS)
    between = int(checkpoint(model, tensors, "none", "bf16").total.value) if packed and method == "gguf" else 0
    if method == "gguf" and (packed or model.weights_format != "gguf"):
        if fmt == "mxfp4":  # what is converted keeps its experts
            between += int(checkpoint(model, tensors, fmt, fmt).total.value)
        else:
            between += int(weight_map(model, tensors, "f16", imatrix=False, as_is=False).file.value)
    elif method != "gguf" and model.weights_format == "gguf":
        between = int(checkpoint(model, tensors, "none", "bf16").total.value)
    if method in (*_AT_LOAD, "none"):  # the 16-bit checkpoint is what is served
        return Disk(download_bytes=download, peak_bytes=download + between)
    kept = 0 if local else source
    return Disk(download_bytes=download, peak_bytes=kept + between + artifact_bytes)
