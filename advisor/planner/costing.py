"""What a candidate costs, whether it fits, and the facts that follow from both. Each cost is worked out once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Goal, PlanRequest, Settings
from advisor.facts.protocols import EngineOracle
from advisor.planner.candidate import LLAMA_ENGINES, TENSOR_PARALLEL, Candidate
from advisor.planner.devices import device_capacity
from advisor.planner.facts import Facts
from advisor.planner.targets import Target, targets

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost
    from advisor.planner.learned import Learned

CostFn = Callable[..., "Cost"]
LayersFn = Callable[..., int]
TuneFn = Callable[[Candidate, Settings], Settings]
ExpertsFn = Callable[..., int | None]

# Share of each memory that is left free.
HEADROOM: Final = 0.05
# vLLM's own default share of the device; SGLang and TGI take as much up front, each by an option of its own.
VLLM_UTILIZATION: Final = 0.92
_TRIES: Final = 5  # times that layers are moved between devices


class Fit(NamedTuple):
    """``short_by``: missing bytes on the tightest memory, 0 where it fits. ``None`` where the memory is unknown."""

    fits: bool | None
    short_by: int | None
    headroom: float | None


def host_capacity(machine: Machine) -> int:
    """Host memory that may be used: the least of what is there, what the limit grants and what is available."""
    memory = machine.host.memory
    return min(v for v in (memory.total_bytes, memory.limit_bytes, memory.available_bytes) if v is not None)


def threads(machine: Machine) -> int:
    """Threads to start: what is granted, whole, at least one, not more than physical cores (fast ones of two kinds)."""
    cpu = machine.host.cpu
    granted = math.floor(cpu.cores_granted)
    if cpu.cores_physical is not None:
        granted = min(granted, cpu.cores_physical)
    if cpu.cores_performance is not None:
        granted = min(granted, cpu.cores_performance)
    return max(1, granted)


def utilization(machine: Machine, target: Target) -> float | None:
    """The share of the device that vLLM, SGLang and TGI may ask for: vLLM's default, or less where less is free."""
    shares = []
    for d in target.devices:
        free, total = device_capacity(d), d.memory.total_bytes
        if free is not None and total:
            shares.append(math.floor(min(1.0, free / total) * 97) / 100)
    return max(0.1, min([VLLM_UTILIZATION, *shares])) if target.devices else None


class Costing:
    """Costs of candidates of one model on one machine for one goal.

    ``learned``: what was measured on this very machine; it says nothing of another, or of this one with a change.
    """

    def __init__(
        self,
        model: ModelFacts,
        tensors: tuple[TensorSpec, ...],
        machine: Machine,
        goal: Goal,
        request: PlanRequest,
        *,
        cost_fn: CostFn | None = None,
        layers_fn: LayersFn | None = None,
        experts_fn: ExpertsFn | None = None,
        engine: EngineOracle | None = None,
        tune: TuneFn | None = None,
        learned: Learned | None = None,
    ) -> None:
        if cost_fn is None:
            from advisor.cost.estimate import cost

            cost_fn = cost
        if layers_fn is None:
            from advisor.cost.offload import expert_layers_on_host, gpu_layers_that_fit

            layers_fn = gpu_layers_that_fit
            experts_fn = experts_fn or expert_layers_on_host
        self.model, self.tensors, self.machine, self.goal, self.request = model, tensors, machine, goal, request
        self.cost_fn: CostFn = cost_fn
        self.layers_fn: LayersFn = layers_fn
        self.experts_fn: ExpertsFn | None = experts_fn
        self.engine, self.tune = engine, tune
        self.threads = request.threads or threads(machine)
        self.learned = learned if learned is not None and learned.of(machine) else None
        self._costs: dict[tuple[object, ...], Cost] = {}

    def settings(self, c: Candidate) -> Settings | None:
        """What the runtime would be started with; ``None`` where a split leaves no or every layer on the device."""
        llama = c.runtime in LLAMA_ENGINES and c.method == "gguf"
        on_device = c.target.placement == "gpu"
        base = Settings(
            context=self.goal.context * self.goal.parallel,
            parallel=self.goal.parallel,
            kv_type=c.kv_type or self.request.kv_type or "f16",
            gpu_layers=self.model.blocks + 1 if llama and on_device else 0,
            threads=self.threads,
            tensor_parallel=c.tensor_parallel,
            pipeline_parallel=c.pipeline,
            tensor_split=self._split(c.target) if llama else None,
            load_mode="mmap" if llama else None,
            gpu_memory_utilization=utilization(self.machine, c.target)
            if c.runtime in TENSOR_PARALLEL and on_device
            else None,
        )
        if self.tune is not None:
            base = self.tune(c, base)
        if c.target.placement != "split":
            return base
        if (moe := self._experts_on_host(c, base)) is not None:
            return moe
        held = [
            self.layers_fn(
                self.model,
                self.tensors,
                fmt=c.made_as,
                settings=base,
                machine=self.machine,
                device=d.id,
                as_is=c.unchanged,
            )
            for d in c.target.devices
        ]
        layers = sum(held)
        if not 0 < layers <= self.model.blocks:
            return None
        split = base.tensor_split if len(set(held)) == 1 else tuple(float(n) for n in held)
        return msgspec.structs.replace(base, gpu_layers=layers, tensor_split=split)

    def _experts_on_host(self, c: Candidate, base: Settings) -> Settings | None:
        """All layers on the one device, the experts of the first ones on the host, where that is what it takes."""
        if self.experts_fn is None or not self.model.experts or len(c.target.devices) != 1:
            return None
        (device,) = c.target.devices
        held = self.experts_fn(
            self.model,
            self.tensors,
            fmt=c.made_as,
            settings=base,
            machine=self.machine,
            device=device.id,
            as_is=c.unchanged,
        )
        if not held:
            return None
        return msgspec.structs.replace(base, gpu_layers=self.model.blocks + 1, cpu_moe_layers=held)

    @staticmethod
    def _split(target: Target) -> tuple[float, ...] | None:
        """Shares of several devices, by their memory."""
        if len(target.devices) < 2:
            return None
        sizes = [float(device_capacity(d) or 0) for d in target.devices]
        whole = sum(sizes)
        return tuple(round(s / whole, 4) for s in sizes) if whole else None

    def cost(self, c: Candidate, settings: Settings, *, imatrix: bool) -> Cost:
        """The cost of a candidate under ``settings``."""
        key = (
            *(c.method, c.made_as, c.runtime, c.target.keys, c.pipeline, imatrix, c.unchanged),
            *(settings.gpu_layers, settings.cpu_moe_layers, settings.load_mode, settings.tensor_split),
            *(settings.kv_type, settings.gpu_memory_utilization),
        )
        found = self._costs.get(key)
        if found is None:
            found = self.cost_fn(
                self.model,
                self.tensors,
                method=c.method,
                fmt=c.made_as,
                runtime=c.runtime,
                settings=settings,
                machine=self.machine,
                devices=c.target.keys,
                imatrix=imatrix,
                engine=self.engine,
                as_is=c.unchanged,
            )
            if self.learned is not None:
                found = self.learned.corrected(
                    found,
                    self.model,
                    self.tensors,
                    method=c.method,
                    fmt=c.made_as,
                    runtime=c.runtime,
                    settings=settings,
                    devices=c.target.keys,
                    imatrix=imatrix,
                    as_is=c.unchanged,
                    threads_named=self.request.threads is not None,
                )
            self._costs[key] = found
        return found

    def settle(self, c: Candidate, *, imatrix: bool) -> tuple[Settings, Cost, Fit] | None:
        """Settings, cost and fit; of a split, layers are taken off the device until the headroom stays free there.

        ``None`` where a split leaves no or every layer on the device: that is another candidate.
        """
        settings = self.settings(c)
        if settings is None:
            return None
        cost = self.cost(c, settings, imatrix=imatrix)
        if c.target.placement == "gpu":
            settings, cost = self.balanced(c, settings, cost, imatrix=imatrix)
        if c.target.placement == "split":
            while over := max((need - limit for _, need, limit in self._devices(c, cost, settings) or ()), default=0):
                if over <= 0:
                    break
                if settings.cpu_moe_layers:
                    if settings.cpu_moe_layers >= self.model.layers:
                        return None
                    settings = msgspec.structs.replace(settings, cpu_moe_layers=settings.cpu_moe_layers + 1)
                    cost = self.cost(c, settings, imatrix=imatrix)
                    continue
                on_devices = sum(int(q.value) for key, q in cost.memory.by_device.items() if key != "host")
                layers = settings.gpu_layers - max(1, math.ceil(over * settings.gpu_layers / max(1, on_devices)))
                if layers < 1:
                    return None
                settings = msgspec.structs.replace(settings, gpu_layers=layers)
                cost = self.cost(c, settings, imatrix=imatrix)
        fit = self.fit(c, cost, settings)
        if settings.gpu_memory_utilization is not None and fit.fits:
            settings, cost = self._capped(c, settings, cost, imatrix=imatrix)
        return settings, cost, fit

    def _capped(self, c: Candidate, settings: Settings, cost: Cost, *, imatrix: bool) -> tuple[Settings, Cost]:
        """Settings with which a runtime that fills its devices stays below ``--max-memory``, and their cost.

        What the plan itself needs on each device stays; where that leaves too much the plan is left as it is.
        """
        most, share = self.request.max_memory_bytes, settings.gpu_memory_utilization
        whole = sum(d.memory.total_bytes or 0 for d in c.target.devices)
        if most is None or share is None or not whole or not int(cost.memory.total.value) <= most < _taken(cost):
            return settings, cost
        over = _taken(cost) - most
        smaller = math.floor((share - (over + len(c.target.devices)) / whole) * 10**4) / 10**4
        capped = msgspec.structs.replace(settings, gpu_memory_utilization=smaller)
        less = self.cost(c, capped, imatrix=imatrix)
        return (capped, less) if _taken(less) <= most else (settings, cost)

    def cache_bytes(self, c: Candidate) -> int | None:
        """Bytes of the KV cache of a candidate that was costed before, on all its devices; ``None`` without one."""
        settings = self.settings(c)
        if settings is None:
            return None
        return int(self.cost(c, settings, imatrix=False).memory.kv_cache.value)

    def balanced(self, c: Candidate, settings: Settings, cost: Cost, *, imatrix: bool) -> tuple[Settings, Cost]:
        """Layers moved from devices that they are too many for to those that have room; as it was where that fails.

        Shares by memory alone overlook what each device needs whatever its layers are (driver, work buffer), and the
        output matrix, which is on the last one.
        """
        if settings.tensor_split is None:
            return settings, cost
        from advisor.planner.sharing import shared_out

        first = settings, cost
        each = (cost.memory.weights.value + cost.memory.kv_cache.value) / (self.model.blocks + 1)
        for _ in range(_TRIES):
            parts = self._devices(c, cost, settings)
            if parts is None or all(need <= limit for _, need, limit in parts):
                return settings, cost
            counts = shared_out(self.model.blocks, settings, self.machine, parts, each)
            if counts is None:
                return first
            settings = msgspec.structs.replace(settings, tensor_split=tuple(float(n) for n in counts))
            cost = self.cost(c, settings, imatrix=imatrix)
            each *= 1.05
        return first if not self.fit(c, cost, settings).fits else (settings, cost)

    def _devices(self, c: Candidate, cost: Cost, settings: Settings) -> list[tuple[str, int, int]] | None:
        """(device, bytes needed, bytes that may be used) of each accelerator; ``None`` where a memory is unknown."""
        parts = []
        for device in c.target.devices:
            needed = cost.memory.by_device.get(device.id)
            limit = device_capacity(device)
            if needed is None:
                continue
            if limit is None:
                return None
            if settings.gpu_memory_utilization is not None and device.memory.total_bytes:
                usable = int(device.memory.total_bytes * settings.gpu_memory_utilization)
            else:
                usable = int(limit * (1 - HEADROOM))
            parts.append((device.id, int(needed.value), usable))
        return parts

    def fit(self, c: Candidate, cost: Cost, settings: Settings) -> Fit:
        """Compare what is needed with each memory, headroom left free."""
        devices = self._devices(c, cost, settings)
        if devices is None:
            return Fit(None, None, None)
        parts = [(need, limit) for _, need, limit in devices]
        needed = {key: int(q.value) for key, q in cost.memory.by_device.items()} or {
            c.target.keys[0]: int(cost.memory.total.value)
        }
        host = int(host_capacity(self.machine) * (1 - HEADROOM))
        unified = any(d.unified_memory for d in c.target.devices)
        on_host = sum(needed.values()) if unified else needed.get("host", 0)
        if on_host:
            parts.append((on_host, host))
        short = max((need - limit for need, limit in parts), default=0)
        if c.target.placement == "split" and on_host and short <= 0:
            # A split fills the device on purpose: what stays free is what stays free of all that it runs on.
            parts = [(sum(need for need, _ in parts), sum(limit for _, limit in parts))]
        free = min(((limit - need) / limit if limit else -1.0 for need, limit in parts), default=1.0)
        return Fit(short <= 0, max(0, short), round(free, 4))

    def late_facts(self, cost: Cost, fit: Fit, source: str) -> Facts:
        """Facts that follow from the cost."""
        request = self.request
        decode = cost.speed.decode.value if cost.speed.decode is not None else None
        quality = quality_share(cost)
        took = [cost.time.fetch, cost.time.quantize, cost.time.start]
        seconds = sum(q.value for q in took if q is not None) if cost.time.quantize is not None else None
        if source in ("as-is", "load-time", "prequantized") and seconds is None:
            seconds = sum(q.value for q in took if q is not None)
        download = cost.disk.download_bytes
        if download is None and self.model.path is None and self.model.weights_format == "none":
            download = self.model.params * 2

        def at_least(value: float | None, wanted: float | None) -> bool | None:
            return True if wanted is None else None if value is None else value >= wanted

        return {
            "fit.fits": fit.fits,
            "fit.headroom_ratio": fit.headroom,
            "fit.within_max_memory": request.max_memory_bytes is None or _taken(cost) <= request.max_memory_bytes,
            "speed.decode_tps": decode,
            "speed.above_min": at_least(decode, request.min_tps),
            "speed.above_goal": at_least(decode, self.goal.min_decode_tps),
            "quality.kld": cost.quality.kld.value if cost.quality.kld is not None else None,
            "quality.above_min": at_least(quality, request.min_quality),
            "time.quantize_s": cost.time.quantize.value if cost.time.quantize is not None else None,
            "time.within_deadline": at_least(
                -seconds if seconds is not None else None, -request.within_s if request.within_s is not None else None
            ),
            "disk.download_bytes": download,
            "disk.needs_download": None if download is None else download > 0,
        }

    def anchors(self) -> Facts:
        """Whether 16, 8 and 4 bits fit the accelerator and the host: from llama.cpp's cost of f16, q8_0 and q4_k_m."""
        out: Facts = {}
        places = targets(self.machine)
        for where, placement in (("gpu", "gpu"), ("host", "cpu")):
            here = [t for t in places if t.placement == placement]
            for bits, fmt in ((16, "f16"), (8, "q8_0"), (4, "q4_k_m")):
                verdicts = []
                for t in here:
                    c = Candidate("gguf", fmt, "llama.cpp", t, None, "quantize")
                    settings = self.settings(c)
                    if settings is not None:
                        verdicts.append(self.fit(c, self.cost(c, settings, imatrix=False), settings).fits)
                fits = True if True in verdicts else None if None in verdicts else False
                out[f"fit.{where}_{bits}bit_fits"] = fits
        return out


def _taken(cost: Cost) -> int:
    """Bytes that a plan needs and that its runtime takes up front beyond that."""
    return sum(int(q.value) for q in (cost.memory.total, cost.memory.reserved) if q is not None)


def quality_share(cost: Cost) -> float | None:
    """The share of the original's quality that is kept: recovery of task scores, else inverse perplexity ratio."""
    quality = cost.quality
    if quality.recovery is not None:
        return float(quality.recovery.value)
    if quality.perplexity_ratio is not None and quality.perplexity_ratio.value > 0:
        return min(1.0, 1.0 / float(quality.perplexity_ratio.value))
    if quality.kld is not None:
        return math.exp(-max(0.0, float(quality.kld.value)))
    return None
