"""Memory of vLLM and its like: a budget that is a share of the device, and a paged cache that gets what is left of it.

Formulas are vLLM 0.32's (``vllm/v1/worker/gpu_worker.py``, ``v1/worker/utils.py``, ``v1/kv_cache_interface.py``,
``config/vllm.py``): it asks for ``ceil(total * utilization)`` and does not start where less is free, runs one batch of
``max_num_batched_tokens`` to see its peak, estimates its CUDA graphs, and gives the rest to blocks of 16 tokens. The
driver's context and the buffers of several ranks are there before the budget is counted, so they come on top of it.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from advisor.cost.gguf_types import pad
from advisor.cost.kv import layers as cached_layers
from advisor.cost.kv import state_by_layer
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity, exact

MIB: Final = 1 << 20
UTILIZATION: Final = 0.92  # vLLM's default share of a device's memory
_BLOCK: Final = 16  # tokens in a block of the paged cache
_CPU_BLOCK: Final = 128  # the same on a CPU
KV_BYTES: Final = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "q8_0": 34 / 32, "int8": 1.0, "f32": 4.0}
# Bytes that sampling takes for each word of the vocabulary and each sequence: logits in 16 and 32 bits, sorted, with
# 64-bit positions, as probabilities and summed. Published peaks of profile runs give 38.7 to 41.2.
_SAMPLING: Final = 40
_GRAPH: Final = (9 * MIB, 1 * MIB, 24 * MIB)  # one captured graph: value, vLLM's own least, high
_RANKS: Final = (250 * MIB, 50 * MIB, 700 * MIB)  # buffers of one rank of several for exchanging results
_OUTSIDE: Final = (150 * MIB, 10 * MIB, 400 * MIB)  # workspaces that torch's allocator does not know of
PEAK_SOURCE: Final = (
    "peak of vLLM's profile run: 2 * tokens * (3 * intermediate + 4 * hidden) bytes, or 40 bytes a word of the "
    "vocabulary and sequence; as published start logs say (tests)"
)


class Ranks(NamedTuple):
    """How a model is spread: ``tensor`` devices share each layer, ``pipeline`` groups of them follow each other."""

    tensor: int
    pipeline: int


ALONE: Final = Ranks(1, 1)


def ranks(model: ModelFacts, settings: Settings, count: int) -> Ranks:
    """How ``count`` devices share the model: as the settings say, else in as large groups as divide its heads."""
    tensor = max(settings.tensor_parallel, 1)
    if count % tensor == 0 and (tensor > 1 or settings.pipeline_parallel == count):
        return Ranks(tensor, count // tensor)
    best = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or model.heads % n == 0))
    return Ranks(best, count // best)


def weights_of_rank(model: ModelFacts, tensors: tuple[TensorSpec, ...], weights: Quantity, spread: Ranks) -> Quantity:
    """Weights on one device: matrices and the rows of the embedding are split, norms, biases, routers and the
    compressing matrices of latent attention are on every rank, and so are key and value heads fewer than ranks."""
    if spread == ALONE:
        return weights
    whole = 0
    for t in tensors:
        if len(t.shape) == 1 or "ffn_gate_inp" in t.name or "attn_kv_a_mqa" in t.name or "attn_q_a." in t.name:
            whole += 2 * t.elements
        elif spread.tensor > model.kv_heads > 0 and (".attn_k." in t.name or ".attn_v." in t.name):
            whole += 2 * t.elements // model.kv_heads
    whole = min(whole, int(weights.low))

    def share(size: float | int) -> int:
        split = (size - whole) / spread.tensor + whole
        return math.ceil(split * _largest(model, spread))

    return Quantity(
        value=share(weights.value),
        low=share(weights.low),
        high=share(weights.high),
        unit=weights.unit,
        method=weights.method,
        source=weights.source,
    )


def _largest(model: ModelFacts, spread: Ranks) -> float:
    """The share of the layers in the largest group: where they do not divide evenly, some groups hold one more."""
    count = max(model.layers, 1)
    return math.ceil(count / spread.pipeline) / count


def cache_bytes(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    settings: Settings,
    *,
    on_cpu: bool = False,
    spread: Ranks = ALONE,
) -> int:
    """Bytes of blocks that one device needs for ``context`` tokens of all slots, recurrent states included.

    Each slot takes whole blocks, and one block more is never used (the null block). Window layers hold the window and
    one batch. Ranks share the heads; where there are fewer heads than ranks, and of latent attention, each has all.

    Args:
        on_cpu: of vLLM on a CPU, with blocks of 128 tokens.
    """
    per_element = KV_BYTES.get(settings.kv_type, 2.0)
    block, slots = _CPU_BLOCK if on_cpu else _BLOCK, max(settings.parallel, 1)
    each = max(1, settings.context // slots)
    full = pad(each, block) * slots + block
    size = 0.0
    for one in cached_layers(model, tensors)[0]:
        held = full
        if one.window and model.sliding_window:
            reach = model.sliding_window - 1 + max(settings.batch, settings.parallel)
            held = min(full, (pad(min(reach, each), block) + block) * slots + block)
        size += per_element * held * _on_rank(model, one.keys, one.values, spread.tensor)
    states = state_by_layer(model, tensors, settings)
    if states:  # one page a slot, and one that is never used
        size += sum(states.values()) * (slots + 1) / slots / spread.tensor
    return math.ceil(size * _largest(model, spread))


def _on_rank(model: ModelFacts, keys: int, values: int, ranks_: int) -> float:
    """Elements a token and layer on one of ``ranks_`` devices."""
    if values == 0 or ranks_ == 1:  # latent attention: one head, which every rank needs
        return keys + values
    heads = max(1, keys // max(model.head_dim, 1))
    return (keys + values) * math.ceil(heads / ranks_) / heads


def batch_peak(model: ModelFacts, settings: Settings, *, spread: Ranks = ALONE) -> Quantity:
    """Peak of the profile run on one device: the widest layer of a full batch, or sampling for all sequences."""
    tokens = max(settings.batch, settings.parallel, 1)
    wide = 3 * model.intermediate
    if model.experts:
        used, inner = model.experts_used, model.expert_intermediate
        # two workspaces of the fused kernel: gate and up (or the result) of all chosen experts, and what goes down
        wide = max(used * (max(2 * inner, model.hidden) + inner), 3 * model.shared_expert_intermediate)
    layer = 2 * tokens * (wide // spread.tensor + 4 * model.hidden)
    sampling = _SAMPLING * model.vocab * min(max(settings.parallel, 1), tokens)
    value = max(layer, sampling)
    return Quantity(
        value=value, low=value // 2, high=value * 2 + 256 * MIB, unit="bytes", method="formula", source=PEAK_SOURCE
    )


def capture_sizes(settings: Settings, *, largest: int = 512) -> tuple[int, ...]:
    """Batch sizes for which vLLM captures CUDA graphs: up to twice the number of sequences, at most ``largest``."""
    most = min(2 * max(settings.parallel, 1), largest, max(settings.batch, settings.parallel, 1))
    sizes = [n for n in (1, 2, 4) if n <= most]
    sizes += range(8, min(most + 1, 256), 8)
    sizes += range(256, most + 1, 16)
    return tuple(sizes)


def graphs(settings: Settings) -> Quantity:
    """CUDA graphs of one device: each size piecewise, and those up to the number of sequences as a whole as well."""
    sizes = capture_sizes(settings)
    count = len(sizes) + len([n for n in sizes if n <= max(settings.parallel, 1)])
    value, low, high = (count * size for size in _GRAPH)
    return Quantity(
        value=value,
        low=low,
        high=high,
        unit="bytes",
        method="guess",
        source=f"{count} CUDA graphs; published start logs give 5 to 22 MiB each",
    )


def outside(spread: Ranks) -> Quantity:
    """What one device needs beside torch's memory: workspaces of libraries, and of several ranks their exchange."""
    parts = [_OUTSIDE, *([_RANKS] if spread.tensor * spread.pipeline > 1 else [])]
    value, low, high = (sum(p[i] for p in parts) for i in range(3))
    return Quantity(
        value=value,
        low=low,
        high=high,
        unit="bytes",
        method="guess",
        source="libraries' workspaces; published start logs give 0.01 to 0.24 GiB of memory outside torch",
    )


def requested(total_bytes: int, utilization: float) -> int:
    """Bytes that vLLM asks of a device when it starts: it refuses to start where less is free."""
    return math.ceil(total_bytes * utilization)


def cache(size: int, *, on_cpu: bool) -> Quantity:
    """The cache as a quantity."""
    words = "keys and values of all tokens, set aside at start" if on_cpu else "16-bit keys and values of all tokens"
    return exact(size, "bytes", words)
