"""The engine's largest work buffer on the host.

llama.cpp reserves buffers for its worst graph, so their size follows from which intermediate results are alive at once.
The graph is laid out from the model's tensors and the allocator replayed (``host_layers``, ``graph``): with logits of
one row a slot, as its server sets them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from advisor.cost.host_layers import Batch, HostGraph, LayerShape, Widths
from advisor.cost.kv import Cells, blocks, layers
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity

SOURCE: Final = "llama.cpp's graph laid out from the model's tensors, and its allocator replayed"
GATED: Final = frozenset(
    {"llama", "mistral3", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "gemma", "gemma2", "gemma3", "granite", "smollm3"}
    | {"internlm2", "phi3", "olmo2", "stablelm"}
)
# Architectures whose work buffer was held against the engine's own, within 3.5 % and mostly to the last kilobyte.
HELD: Final = GATED | {
    *("bloom", "chatglm", "cohere2", "command-r", "deepseek", "deepseek2", "exaone4", "falcon", "falcon-h1", "gemma3n"),
    *("gemma4", "glm4", "glm4moe", "gpt-oss", "gpt2", "gptneox", "granitehybrid", "granitemoe", "hunyuan-dense"),
    *("jamba", "kimi-linear", "lfm2", "lfm2moe", "llama4", "mamba", "mamba2", "minicpm", "minimax-m2", "nemotron_h"),
    *("nemotron_h_moe", "phi2", "qwen2moe", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vlmoe"),
    *("smollm3", "stablelm", "starcoder2"),
}
_SPARSE: Final = ("deepseek32", "glm-dsa")  # what picks the cells to attend to is not laid out
_FOURFOLD: Final = ("qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe")  # a place in time, height and width
_SHOWN: Final = 2  # times that a layer of one kind after one of another is laid out
_MOST_SHOWN: Final = 96
_MOST_USED: Final = 512
_ROTARY: Final = 64  # heads of a multiple of this are turned before they are quantized into the cache


def work_buffer(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings, room: Cells) -> Quantity:
    """Bytes of the work buffer on one device that computes all layers."""
    slots = max(settings.parallel, 1)
    tokens = min(settings.ubatch, room.sequence * room.streams)
    tokens = -(-tokens // slots) * slots
    shown = _shown(model, tensors)
    if not shown:
        return _guessed(model, settings, room)
    arch = model.architecture
    widths = Widths(
        hidden=model.hidden,
        heads=model.heads,
        vocab=model.vocab,
        used=min(max(model.experts_used, 1), _MOST_USED),
        turned=settings.kv_type not in ("f32", "f16", "bf16") and model.head_dim % _ROTARY == 0,
        positions=4 if arch in _FOURFOLD else 1,
        attention_first=arch == "phi2",
        rotated_windows_only=arch in ("cohere2", "exaone-moe"),
        weighed_before=arch == "llama4",
        per_layer=model.widths.get("embedding_length_per_layer_input", 0) * model.layers,
    )
    batch = Batch(tokens, slots, min(slots, tokens), room.full, room.window)
    value = _replayed(shown, widths, batch)
    if value is None:
        return _guessed(model, settings, room)
    low, high = (0.96, 1.04) if arch in HELD else (0.9, 2.5) if arch in _SPARSE else (0.7, 1.4)
    return Quantity(
        value=value,
        low=int(value * low),
        high=int(value * high) + 1_000_000,
        unit="bytes",
        method="formula" if high < 1.2 else "guess",
        source=SOURCE,
    )


_Shown = tuple[LayerShape, ...]
_SEEN: Final[dict[tuple[object, ...], tuple[object, _Shown]]] = {}


def _shown(model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> _Shown:
    """Layers to lay out: of those that are alike, and come after alike ones, two; and the last."""
    key = (id(tensors), model.ref, model.layers, model.sliding_window, model.sliding_pattern, model.layer_kinds)
    known = _SEEN.get(key)
    if known is not None and known[0] is tensors:
        return known[1]
    cached = {one.layer: one.window for one in layers(model, tensors)[0]}
    count: dict[tuple[LayerShape | None, LayerShape], int] = {}
    out: list[LayerShape] = []
    before: LayerShape | None = None
    found = blocks(model, tensors)
    last = max(found, default=0)
    for i, block in sorted(found.items()):
        shapes = tuple(sorted((name, t.shape) for name, t in block.items()))
        one = LayerShape(shapes, window=cached.get(i, False), cached=i in cached)
        count[before, one] = count.get((before, one), 0) + 1
        if (count[before, one] <= _SHOWN and len(out) < _MOST_SHOWN) or i == last:
            out.append(one)
        before = one
    if len(_SEEN) > 256:
        _SEEN.clear()
    _SEEN[key] = (tensors, tuple(out))
    return tuple(out)


@lru_cache(maxsize=512)
def _replayed(shown: tuple[LayerShape, ...], widths: Widths, batch: Batch) -> int | None:
    """Bytes of the buffer; ``None`` for tensors that belong to no kind of layer known here."""
    try:
        return HostGraph(shown, widths, batch).bytes()
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def _guessed(model: ModelFacts, settings: Settings, room: Cells) -> Quantity:
    """Five rows of the model's width (residual, input, norms) and the widest result, where no tensors are known."""
    n = min(settings.ubatch, room.sequence)
    wide = 3 * max(model.intermediate, model.experts_used * model.expert_intermediate)
    value = 4 * n * (5 * model.hidden + max(wide, 2 * model.heads * model.head_dim))
    value += 2 * settings.ubatch * room.full
    return Quantity(
        value=value,
        low=value // 2,
        high=2 * value + 1_000_000,
        unit="bytes",
        method="guess",
        source="4 * ubatch * (5 * hidden + widest result) + mask",
    )
