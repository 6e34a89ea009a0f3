"""What the rules are told: facts of the machine, the model and the goal, then of each candidate, then of its cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from advisor.backends.base import RuntimeCapabilities
from advisor.facts.catalogue import FactValue
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Goal, PlanRequest
from advisor.facts.words import METHODS
from advisor.planner.candidate import (
    LLAMA_ENGINES,
    Candidate,
    bits_of,
    group_divides,
    group_of,
    nearest_engine,
    original_method,
    own_format,
)
from advisor.planner.parallel import columns_divide, heads_divide, machines_needed, rank_group_divides
from advisor.planner.targets import MIXED, Target, usable_devices

if TYPE_CHECKING:
    from advisor.facts.recovery import KernelLesson
    from advisor.planner.lacking import Lacking

Facts = dict[str, FactValue | None]
_PLAIN_TYPES = ("f32", "f16", "bf16")
_RELEASE: Final = re.compile(r"v?(\d{1,6}(?:\.\d{1,6}){1,3})(?![\d.])")
_BUILD: Final = re.compile(r"(?:\d+\.\d+\.\d+ )?b(\d{1,6})(?![\d.])")


def fixed_facts(
    model: ModelFacts, tensors: tuple[TensorSpec, ...], machine: Machine, goal: Goal, request: PlanRequest
) -> Facts:
    """Facts that are the same for every candidate."""
    devices = usable_devices(machine)
    memory = machine.host.memory
    widths = {t.width for t in tensors if len(t.shape) >= 2 and t.role not in ("norm", "bias", "ffn_gate_inp")}
    source_bits = _source_bits(model)
    return {
        "machine.has_gpu": bool(devices),
        "machine.gpu_vendors": tuple(sorted({d.vendor for d in devices})),
        "machine.gpu_count": len(devices),
        "machine.mixed_gpus": len({(d.vendor, d.name) for d in devices}) > 1,
        "machine.os": machine.host.os,
        "machine.arch": machine.host.arch,
        "host.isa": machine.host.cpu.isa,
        "host.cores_granted": machine.host.cpu.cores_granted,
        "host.memory_total_bytes": memory.total_bytes,
        "host.memory_limit_bytes": memory.limit_bytes,
        "host.memory_available_bytes": memory.available_bytes,
        "model.params": model.params,
        "model.active_params": model.active_params,
        "model.architecture": model.architecture,
        "model.is_moe": model.experts > 1,
        "model.experts": model.experts,
        "model.layers": model.layers,
        "model.kind": model.kind,
        "model.weights_format": model.weights_format,
        "model.weights_dtype": model.weights_dtype,
        "model.source_quantized": source_bits is not None and source_bits < 15,
        "model.packed_checkpoint": model.weights_format != "gguf"
        and any(note.startswith("already quantized") for note in model.notes),
        "model.source_bits": source_bits,
        "model.width_256_divisible": all(w % 256 == 0 for w in widths) if widths else None,
        **_cache_facts(model),
        "model.native_method": native_method(model),
        "model.original_method": original_method(model),
        "model.vision": model.vision_params is not None,
        "model.confidence": model.confidence,
        "model.context_max": model.context_max,
        "model.chat_template": model.chat_template,
        "goal.id": goal.id,
        "goal.context": goal.context,
        "goal.parallel": goal.parallel,
        "goal.min_decode_tps": goal.min_decode_tps,
        "request.method": request.method,
        "request.format": request.format,
        "request.runtime": request.runtime,
        "request.quantizer": request.quantizer,
        "request.kv_type": request.kv_type or "f16",
        "request.min_tps": request.min_tps,
        "request.max_memory_bytes": request.max_memory_bytes,
        "request.min_quality": request.min_quality,
        # no deadline is a deadline that is never reached
        "request.within_s": request.within_s if request.within_s is not None else float("inf"),
        "request.no_download": request.no_download,
        "request.adapter": request.adapter is not None,
    }


def native_method(model: ModelFacts) -> str | None:
    """The method whose number format the published weights have, where it is one (``mxfp4``, ``fp8`` ...)."""
    own = model.quantized_method or (model.weights_dtype or "").lower()
    return own if own in METHODS and model.weights_format != "gguf" else None


def _cache_facts(model: ModelFacts) -> Facts:
    """What decides which types of the cache a model takes."""
    latent = "latent" in model.layer_kinds or "attention.kv_lora_rank" in model.widths
    keys = model.widths.get("attention.key_length", model.head_dim)
    values = model.widths.get("attention.value_length", model.head_dim)
    return {
        "model.latent_attention": latent,
        "model.sliding_window": model.sliding_window is not None or "window" in model.layer_kinds,
        "model.heads_32_divisible": keys % 32 == 0 and values % 32 == 0 if keys and values else None,
    }


def _source_bits(model: ModelFacts) -> float | None:
    """Bits a weight takes on disk, where the weights are here."""
    if model.weights_format == "gguf":
        if model.source_types and all(t in _PLAIN_TYPES for t in model.source_types):
            return 16.0
        return round(model.weights_bytes * 8 / model.params, 2) if model.weights_bytes and model.params else None
    return None if model.weights_format == "none" else 16.0


def device_facts(target: Target) -> Facts:
    """Facts of the device that a candidate would run on; of devices of several makers the vendor is ``mixed``."""
    device = target.first
    if device is None:
        return {"device.kind": "cpu", "device.vendor": "none", "device.unified_memory": False, "device.count": 0}
    out: Facts = {
        "device.kind": target.kind,
        "device.vendor": target.kind if target.kind == MIXED else device.vendor,
        "device.arch": device.arch,
        "device.apis": device.apis,
        "device.compute_capability": min(
            (d.compute_capability for d in target.devices if d.compute_capability is not None), default=None
        ),
        "device.memory_total_bytes": device.memory.total_bytes,
        "device.memory_usable_bytes": device.memory.usable_bytes,
        "device.bandwidth_bytes_per_s": device.bandwidth.value if device.bandwidth else None,
        "device.unified_memory": device.unified_memory,
        "device.count": len(target.devices),
    }
    for name in ("fp8", "fp4", "bf16", "int8"):
        out[f"device.formats.{name}"] = device.formats.get(name)
    return out


class CandidateFacts:
    """Makes the facts of candidates; what several candidates share is worked out once."""

    def __init__(
        self,
        model: ModelFacts,
        tensors: tuple[TensorSpec, ...],
        request: PlanRequest,
        runtimes: Mapping[str, RuntimeCapabilities],
        machine: Machine,
        lacking: Lacking | None = None,
    ) -> None:
        from advisor.cost.gguf_mix import imatrix_need

        self._need = imatrix_need
        self.machine = machine
        self._repacked: dict[tuple[str, str, bool, bool], float | None] = {}
        self.model, self.tensors, self.request, self.runtimes = model, tensors, request, runtimes
        self.lacking = lacking
        self._versions = installed_versions(machine)
        self._columns: dict[int, bool | None] = {}
        self._ranks: dict[tuple[str, int], bool | None] = {}
        self._by_target: dict[tuple[str, ...], Facts] = {}
        self._by_format: dict[tuple[str, str, str], Facts] = {}
        self._engines: dict[tuple[str, ...], str | None] = {}
        self._own = own_format(model)
        self._source_bits = _source_bits(model)

    def imatrix_need(self, method: str, fmt: str) -> str:
        """``required``, ``recommended`` or ``none``.

        For K types of four bits and more a matrix gains little (Llama-3-8B Q4_K_M: KL divergence .031 to .028) and the
        guide makes them without one.
        """
        if method != "gguf" or fmt in ("f16", "bf16"):
            return "none"
        need = self._need(fmt)
        return "none" if need == "recommended" and fmt.startswith(("q4", "q5", "q6", "q8")) else need

    def imatrix(self, c: Candidate) -> bool:
        """Whether an importance matrix is made for the candidate."""
        return c.source == "quantize" and self.imatrix_need(c.method, c.format) in ("required", "recommended")

    def target(self, target: Target) -> Facts:
        """Facts of the device."""
        key = (target.placement, *target.keys)
        if key not in self._by_target:
            self._by_target[key] = device_facts(target)
        return self._by_target[key]

    def format(self, method: str, fmt: str, source: str) -> Facts:
        """Facts of the format."""
        key = (method, fmt, source)
        if key not in self._by_format:
            bits = bits_of(fmt)
            exceeds = None if bits is None or self._source_bits is None else bits > self._source_bits + 1.5
            self._by_format[key] = {
                "candidate.method": method,
                "candidate.format": fmt,
                "candidate.bits": bits,
                "candidate.group": group_of(fmt),
                "candidate.group_divides": group_divides(fmt, self.tensors),
                "candidate.source": source,
                "candidate.imatrix": source == "quantize" and self.imatrix_need(method, fmt) != "none",
                "candidate.imatrix_need": self.imatrix_need(method, fmt),
                "candidate.exceeds_source": exceeds if self._source_bits is not None else False,
            }
        return self._by_format[key]

    def of(self, c: Candidate) -> Facts:
        """All facts of the candidate that are known before its cost is."""
        caps = self.runtimes[c.runtime]
        kind = c.target.kind
        parallel = c.tensor_parallel
        return {
            **self.target(c.target),
            **self.format(c.method, c.format, c.source),
            "candidate.runtime": c.runtime,
            "candidate.quantizer": c.quantizer,
            "candidate.placement": c.target.placement,
            "candidate.supported": caps.loads(c.method, c.format),
            "candidate.device_supported": kind in caps.devices and self._capable(c, caps),
            "candidate.kv_type": c.kv_type or self.request.kv_type or "f16",
            "candidate.tensor_types": bool(c.types),
            "candidate.tensor_parallel": parallel,
            "candidate.pipeline_parallel": c.pipeline,
            "candidate.across_machines": parallel > 1 and machines_needed(self.machine, parallel) > 1,
            "candidate.heads_divide": heads_divide(self.model, parallel),
            "candidate.columns_divide": parallel == 1 or self.columns_divide(parallel),
            "candidate.rank_group_divides": self.rank_group_divides(c.format, parallel),
            "candidate.runtime_version": self._versions.get(c.runtime),
            "candidate.engine_duplicate": self._duplicate(c),
            "candidate.repacked_ratio": self.repacked(c),
            "candidate.kernels_lacked": self.lacked(c) is not None,
        }  # fmt: skip

    def lacked(self, c: Candidate, runtime: str | None = None) -> KernelLesson | None:
        """The lesson on kernels that the candidate, or it in another runtime, was seen to lack here."""
        if self.lacking is None:
            return None
        return self.lacking.find(runtime or c.runtime, c.method, c.format, c.target.keys)

    def columns_divide(self, parallel: int) -> bool | None:
        """``candidate.columns_divide``, worked out once."""
        if parallel not in self._columns:
            self._columns[parallel] = columns_divide(parallel, self.tensors)
        return self._columns[parallel]

    def rank_group_divides(self, fmt: str, parallel: int) -> bool | None:
        """``candidate.rank_group_divides``, worked out once."""
        key = (fmt, parallel)
        if key not in self._ranks:
            self._ranks[key] = rank_group_divides(group_of(fmt), parallel, self.tensors)
        return self._ranks[key]

    def repacked(self, c: Candidate) -> float | None:
        """Share of the weights that llama.cpp puts into a layout of this CPU; ``None`` where no tensors are known.

        0 beside an accelerator: there the engine keeps the host's share in memory of the accelerator's driver.
        """
        if c.method != "gguf" or c.target.placement != "cpu" or not c.runtime.startswith("llama"):
            return 0.0
        if not self.tensors or not self.runtimes[c.runtime].loads(c.method, c.format):
            return None
        key = (c.format, c.source, self.imatrix(c), c.runtime == "llama.cpp")
        if key not in self._repacked:
            from advisor.cost import repack
            from advisor.cost.gguf_file import weight_map

            weights = weight_map(self.model, self.tensors, c.format, imatrix=key[2], as_is=c.unchanged)
            types = repack.here(self.machine, "wheel" if key[3] else "build")
            self._repacked[key] = round(repack.ratio(weights, types), 4)
        return self._repacked[key]

    def _capable(self, c: Candidate, caps: RuntimeCapabilities) -> bool:
        have = self.target(c.target).get("device.compute_capability")
        if c.target.kind != "nvidia" or not isinstance(have, int | float):
            return True
        return all(have >= caps.min_compute_capability.get(word, 0.0) for word in (c.method, c.format, "*"))

    def _duplicate(self, c: Candidate) -> bool:
        if c.method != "gguf" or c.runtime not in LLAMA_ENGINES or self.request.runtime is not None:
            return False
        if self.lacked(c) is not None:
            return False
        key = (c.target.kind, *(c.target.keys if self.lacking is not None else ()))
        if key not in self._engines:
            able = {name: r for name, r in self.runtimes.items() if self.lacked(c, name) is None}
            self._engines[key] = nearest_engine(able, c.target.kind, self.request.runtime)
        nearest = self._engines[key]
        return nearest is not None and nearest != c.runtime


def installed_versions(machine: Machine) -> dict[str, str]:
    """The version of each runtime that is installed: the oldest where there are several; only what is a version.

    A build of llama.cpp counts by its build number (``b9190 1a2b3c4``, ``0.5.0 b11739 1a2b3c4``).
    """
    found: dict[str, list[str]] = {}
    for r in machine.runtimes:
        pattern = _BUILD if r.runtime == "llama.cpp" else _RELEASE
        known = pattern.match(r.version or "")
        if known is not None:
            found.setdefault(r.runtime, []).append(known[1])
    return {name: min(all_, key=lambda v: [int(p) for p in v.split(".")]) for name, all_ in sorted(found.items())}
