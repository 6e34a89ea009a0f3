"""What a GGUF header says of each layer: windows, shared and compressed caches, recurrent states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from advisor.facts.model import TensorSpec
from advisor.model.fields import MAX_LAYERS

# Window patterns that llama.cpp takes where the file names none, and the window where it has one of its own.
PATTERNS: Final = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma4": 6,
    "gpt-oss": 2,
    "olmo2": 4,
    "cohere2": 4,
    "llama4": 4,
    "exaone4": 4,
    "exaone-moe": 4,
}
WINDOWS: Final = {"gemma2": 4_096, "llama4": 8_192}
# Layers from this one on have no cache of their own: llama.cpp's gemma3n, whatever the file says.
_GEMMA3N_OWN: Final = 20
_PREFIXES: Final = ("attention.", "ssm.", "shortconv.", "kda.", "wkv.", "altup.", "rope.dimension_count")
_OTHERS: Final = (
    "nextn_predict_layers",
    "leading_dense_block_count",
    "interleave_moe_layer_step",
    "embedding_length_per_layer_input",
    "expert_shared_count",
    "token_shift_count",
)
_GENERAL: Final = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.sliding_window",
)
MAX_WIDTHS: Final = 64
_STATE: Final = ("ssm_", "shortconv.", "time_mix_")


def widths(metadata: Mapping[str, Any], arch: str) -> dict[str, int]:
    """Whole numbers that only some architectures have, under the suffix of their key; sane ones only."""
    start = f"{arch}."
    found: dict[str, int] = {}
    for key, value in metadata.items():
        suffix = key.removeprefix(start)
        if not key.startswith(start) or suffix in _GENERAL or not (suffix.startswith(_PREFIXES) or suffix in _OTHERS):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 and len(found) < MAX_WIDTHS:
            found[suffix] = value
    return found


def pattern(metadata: Mapping[str, Any], arch: str) -> int:
    """Every how many layers one has the whole context."""
    named = metadata.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(named, int) and not isinstance(named, bool) and 0 < named <= MAX_LAYERS:
        return named
    if isinstance(named, tuple) and not all(named):
        return next(i for i, windowed in enumerate(named) if not windowed) + 1
    return PATTERNS[arch]


def kinds(
    metadata: Mapping[str, Any],
    arch: str,
    layers: int,
    tensors: Iterable[TensorSpec],
    window: tuple[int | None, int | None],
) -> tuple[str, ...]:
    """A word a layer as ``ModelFacts.layer_kinds`` has them; empty where a fixed pattern of windows tells it all."""
    names: list[set[str]] = [set() for _ in range(layers)]
    for t in tensors:
        if t.layer is not None and t.layer < layers:
            names[t.layer].add(t.name.split(".", 2)[2])
    listed = metadata.get(f"{arch}.attention.sliding_window_pattern")
    flags = listed if isinstance(listed, tuple) and len(listed) >= layers and window[0] else None
    found = []
    for i, held in enumerate(names):
        kind = _kind(held)
        if kind == "full" and flags is not None:
            kind = "window" if flags[i] else "full"
        elif kind == "full" and window[0] and window[1]:
            kind = "full" if (i + 1) % window[1] == 0 else "window"
        found.append(kind)
    shared = metadata.get(f"{arch}.attention.shared_kv_layers")
    if arch == "gemma3n":
        shared = max(layers - _GEMMA3N_OWN, 0)
    if isinstance(shared, int) and not isinstance(shared, bool) and 0 < shared < layers:
        found[layers - shared :] = ["none"] * shared
    special = flags is not None or not set(found) <= {"full", "window"}
    return tuple(found) if special else ()


def _kind(held: set[str]) -> str:
    state = any(n.startswith(_STATE) for n in held)
    if "attn_kv_a_mqa.weight" in held:
        return "both" if state else "latent"
    keys = "attn_k.weight" in held
    if state:  # a gated delta net has attn_qkv too, and no attention
        return "both" if keys else "recurrent"
    return "full" if keys or "attn_qkv.weight" in held or not held else "none"
