"""Everything one choice costs, in one object."""

from __future__ import annotations

from typing import Final

from advisor.cost import effort, repack
from advisor.cost.formats import checkpoint
from advisor.cost.gguf_file import stored_types, weight_map
from advisor.cost.gguf_mix import fallbacks
from advisor.cost.llama_memory import is_mapped
from advisor.cost.memory import memory
from advisor.cost.placement import HOST
from advisor.cost.quality import known, quality
from advisor.cost.speed import DEPTH, speed
from advisor.facts.base import Shape
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Disk, Memory, Quality, Settings, Speed, Time
from advisor.facts.protocols import EngineOracle
from advisor.facts.quantity import Quantity

_FLOATS: Final = frozenset(("f32", "f16", "bf16"))


class Cost(Shape, frozen=True, kw_only=True):
    """What one choice costs. ``fallbacks``: tensors that got another type because of their row width, by type."""

    memory: Memory
    speed: Speed
    quality: Quality
    time: Time
    disk: Disk
    file_bytes: int | None
    fallbacks: dict[str, int]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    making_memory: Quantity | None = None


def cost(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    runtime: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool = False,
    engine: EngineOracle | None = None,
    as_is: bool | None = None,
    provider: str = "wheel",
    build_isa: tuple[str, ...] | None = None,
    depth: int = DEPTH,
) -> Cost:
    """Memory, speed, quality, time and disk of running ``model`` in one format on one runtime.

    Args:
        model: architecture facts.
        tensors: the model's tensors; pass the same tuple for all candidates of a model, so that sizes are found again.
        method: quantization method.
        fmt: format of the method.
        runtime: what serves it.
        settings: what the runtime is started with.
        machine: where.
        devices: ``("host",)``, ``("gpu0",)``, or with both for a split (``settings.gpu_layers`` on the device).
        imatrix: an importance matrix is used for a GGUF file.
        engine: asked for cache and work buffer of a GGUF file.
        as_is: the model's own file is served unchanged; ``None``: decided by its types.
        provider: how llama.cpp came to the machine: ``wheel``, ``build`` or ``path``.
        build_isa: CPU features llama.cpp was compiled for.
        depth: tokens in the cache at which decode speed is stated.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format (of a file that is not served ``as_is``).
        KeyError: an unknown device or cache type.
    """
    repacked, mapped = 0, True
    if method == "gguf":
        weights = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
        size, narrow = weights.file, fallbacks(weights.assigned)
        if devices == (HOST,):
            types = repack.here(machine, provider if runtime == "llama.cpp" else "build", build_isa)
            repacked = sum(repack.copied_bytes(weights, types).values())
            mapped = is_mapped(settings)
    else:
        size, narrow = checkpoint(model, tensors, method, fmt).total, {}
    need = memory(
        model,
        tensors,
        method=method,
        fmt=fmt,
        runtime=runtime,
        settings=settings,
        machine=machine,
        devices=devices,
        imatrix=imatrix,
        as_is=as_is,
        engine=engine,
        provider=provider,
        build_isa=build_isa,
    )
    fast = speed(
        model,
        tensors,
        method=method,
        fmt=fmt,
        runtime=runtime,
        settings=settings,
        machine=machine,
        devices=devices,
        imatrix=imatrix,
        as_is=as_is,
        depth=depth,
    )
    assumptions = list(fast.assumptions)
    if narrow:
        many = sum(narrow.values())
        assumptions.append(f"{many} of {len(tensors)} tensors have rows too narrow for {fmt} and get a larger type")
    if model.confidence == "low":
        assumptions.append(f"the shapes of {model.name} are taken from its size alone")
    if model.sliding_window and model.sliding_pattern is None:
        assumptions.append("the sliding window is not used: the cache is counted for the whole context")
    warnings = list(fast.warnings)
    same = method == "gguf" and model.weights_format == "gguf"
    same = same and (stored_types(model, tensors, fmt) if as_is is None else as_is)
    if same and not set(model.source_types) <= _FLOATS:
        assumptions.append("what the file had lost before it was named is not counted: it is lost however it is served")
    if method == "gguf" and not same and not known(method, fmt):  # a file of an unusual type, served as it is
        lost = Quality(kld=None, perplexity_ratio=None, recovery=None)
        warnings.append(f"there are no published losses for {fmt}, so quality is not predicted")
    elif method == "gguf" and ":" in fmt:
        from advisor.cost import mixes

        lost = mixes.lost(model, tensors, fmt, imatrix, settings.kv_type)
    else:
        lost = quality(model, method, fmt, imatrix, settings.kv_type, as_is=same)
    return Cost(
        memory=need,
        speed=fast.speed,
        quality=lost,
        time=effort.time(
            model,
            tensors,
            method=method,
            fmt=fmt,
            runtime=runtime,
            machine=machine,
            load_bytes=float(need.weights.value),
            imatrix=imatrix,
            as_is=as_is,
            repacked_bytes=float(repacked),
            mapped=mapped,
        ),
        disk=effort.disk(
            model,
            tensors,
            method=method,
            fmt=fmt,
            imatrix=imatrix,
            artifact_bytes=int(size.value),
            as_is=as_is,
        ),
        file_bytes=int(size.value),
        fallbacks=narrow,
        assumptions=tuple(assumptions),
        warnings=tuple(warnings),
        making_memory=effort.making_memory(model, tensors, method, fmt, as_is=as_is),
    )
