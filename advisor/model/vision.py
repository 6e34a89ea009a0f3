"""Weights of the parts for images: the tower and the projector, from ``vision_config``.

Each formula follows the modules of transformers' model of that name; sums agree with what checkpoints hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from advisor.model.fields import MAX_LAYERS, MAX_WIDTH, Fields

_MAX_IMAGE: Final = 1 << 16
_MAX_POSITIONS: Final = 1 << 22


def _size(f: Fields, default: int, *names: str, high: int = MAX_WIDTH) -> int:
    return f.whole(*names, high=high) or default


def _linear(rows: int, columns: int, bias: bool = True) -> int:
    return rows * columns + (rows if bias else 0)


def _plain_block(d: int, inner: int) -> int:
    """Attention and a network of two matrices, all with biases, two norms with biases."""
    return 4 * _linear(d, d) + _linear(inner, d) + _linear(d, inner) + 4 * d


def _merger(d: int, square: int, out: int, norm: int) -> int:
    wide = d * square
    return norm + _linear(wide, wide) + _linear(out, wide)


def _qwen2_vl(v: Fields, text: int) -> int:
    d = _size(v, 1280, "embed_dim")
    depth, patch = _size(v, 32, "depth", high=MAX_LAYERS), _size(v, 14, "patch_size", high=_MAX_IMAGE)
    square = _size(v, 2, "spatial_merge_size", high=64) ** 2
    stem = d * 3 * _size(v, 2, "temporal_patch_size", high=64) * patch**2
    return stem + depth * _plain_block(d, 4 * d) + _merger(d, square, text, 2 * d)


def _qwen2_5_vl(v: Fields, text: int) -> int:
    d, inner = _size(v, 1280, "hidden_size"), _size(v, 3420, "intermediate_size")
    depth, patch = _size(v, 32, "depth", high=MAX_LAYERS), _size(v, 14, "patch_size", high=_MAX_IMAGE)
    square = _size(v, 2, "spatial_merge_size", high=64) ** 2
    stem = d * 3 * _size(v, 2, "temporal_patch_size", high=64) * patch**2
    block = 4 * _linear(d, d) + 2 * _linear(inner, d) + _linear(d, inner) + 2 * d
    return stem + depth * block + _merger(d, square, _size(v, text, "out_hidden_size"), d)


def _qwen3(v: Fields, text: int, extra: int) -> int:
    """``extra``: mergers beside the last, for features that earlier layers of the language model get."""
    d, inner = _size(v, 1152, "hidden_size"), _size(v, 4304, "intermediate_size")
    depth, patch = _size(v, 27, "depth", high=MAX_LAYERS), _size(v, 16, "patch_size", high=_MAX_IMAGE)
    square, out = _size(v, 2, "spatial_merge_size", high=64) ** 2, _size(v, text, "out_hidden_size")
    stem = d * 3 * _size(v, 2, "temporal_patch_size", high=64) * patch**2 + d
    positions = d * _size(v, 2304, "num_position_embeddings", high=_MAX_POSITIONS)
    mergers = _merger(d, square, out, 2 * d) + extra * _merger(d, square, out, 2 * d * square)
    return stem + positions + depth * _plain_block(d, inner) + mergers


def _qwen3_vl(v: Fields, text: int) -> int:
    deep = v.raw.get("deepstack_visual_indexes")
    return _qwen3(v, text, min(len(deep), MAX_LAYERS) if isinstance(deep, list) else 3)


def _qwen3_5(v: Fields, text: int) -> int:
    return _qwen3(v, text, 0)


def _pixtral(v: Fields, text: int) -> int:
    d, inner = _size(v, 1024, "hidden_size"), _size(v, 4096, "intermediate_size")
    depth, patch = _size(v, 24, "num_hidden_layers", high=MAX_LAYERS), _size(v, 14, "patch_size", high=_MAX_IMAGE)
    tower = d * 3 * patch**2 + d + depth * (4 * d * d + 3 * d * inner + 2 * d)
    return tower + d + _linear(d, 4 * d, False) + _linear(text, d, False) + _linear(text, text, False)


def _siglip(v: Fields) -> int:
    d, inner = _size(v, 1152, "hidden_size"), _size(v, 4304, "intermediate_size")
    depth, patch = _size(v, 27, "num_hidden_layers", high=MAX_LAYERS), _size(v, 14, "patch_size", high=_MAX_IMAGE)
    positions = (_size(v, 896, "image_size", high=_MAX_IMAGE) // patch) ** 2
    return _linear(d, 3 * patch**2) + positions * d + depth * _plain_block(d, inner) + 2 * d


def _gemma3(v: Fields, text: int) -> int:
    d = _size(v, 1152, "hidden_size")
    return _siglip(v) + d * text + d


def _llama4(v: Fields, text: int) -> int:
    d, inner = _size(v, 1408, "hidden_size"), _size(v, 5632, "intermediate_size")
    depth, patch = _size(v, 34, "num_hidden_layers", high=MAX_LAYERS), _size(v, 14, "patch_size", high=_MAX_IMAGE)
    positions = (_size(v, 336, "image_size", high=_MAX_IMAGE) // patch) ** 2 + 1
    tower = d * 3 * patch**2 + d + positions * d + 4 * d + depth * _plain_block(d, inner)
    first, last = _size(v, 4096, "projector_input_dim"), _size(v, 4096, "projector_output_dim")
    out = _size(v, 4096, "vision_output_dim")
    return tower + first * inner + last * first + text * out


def _gemma4(v: Fields, text: int) -> int:
    d, inner = _size(v, 768, "hidden_size"), _size(v, 3072, "intermediate_size")
    depth, patch = _size(v, 16, "num_hidden_layers", high=MAX_LAYERS), _size(v, 16, "patch_size", high=_MAX_IMAGE)
    heads, kv = _size(v, 12, "num_attention_heads"), _size(v, 12, "num_key_value_heads")
    dim = _size(v, 64, "head_dim")
    block = (2 * heads + 2 * kv) * dim * d + 3 * d * inner + 2 * dim + 4 * d
    positions = 2 * d * _size(v, 10_240, "position_embedding_size", high=_MAX_POSITIONS)
    return d * 3 * patch**2 + positions + depth * block + text * d + (2 * d if v.flag("standardize", False) else 0)


def _llava(v: Fields, text: int) -> int:
    d, inner = _size(v, 1024, "hidden_size"), _size(v, 4096, "intermediate_size")
    depth, patch = _size(v, 24, "num_hidden_layers", high=MAX_LAYERS), _size(v, 14, "patch_size", high=_MAX_IMAGE)
    positions = (_size(v, 336, "image_size", high=_MAX_IMAGE) // patch) ** 2 + 1
    tower = d * 3 * patch**2 + d + positions * d + 4 * d + depth * _plain_block(d, inner)
    return tower + _linear(text, d) + _linear(text, text)


def _first(v: Fields, name: str, default: int) -> int:
    """Height and width are given as a pair by some."""
    value = v.raw.get(name)
    if isinstance(value, list) and value:
        return _size(Fields({name: value[0]}, v.where), default, name, high=_MAX_IMAGE)
    return _size(v, default, name, high=_MAX_IMAGE)


def _internvl(v: Fields, text: int) -> int:
    d, inner = _size(v, 1024, "hidden_size"), _size(v, 4096, "intermediate_size")
    depth, patch = _size(v, 24, "num_hidden_layers", high=MAX_LAYERS), _first(v, "patch_size", 14)
    positions = (_first(v, "image_size", 448) // patch) ** 2 + 1
    tower = _linear(d, 3 * patch**2) + d + positions * d + depth * (_plain_block(d, inner) + 2 * d)
    return tower + 8 * d + _linear(text, 4 * d) + _linear(text, text)


# By the vision part's own model_type, or the whole model's where the part names none.
_KINDS: Final[dict[str, Callable[[Fields, int], int]]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": _qwen3_5,
    "pixtral": _pixtral,
    "mistral3": _pixtral,
    "gemma3": _gemma3,
    "clip_vision_model": _llava,
    "internvl_vision": _internvl,
    "gemma4_vision": _gemma4,
    "llama4_vision_model": _llama4,
    "llama4": _llama4,
}
# Towers that several models have, and the models whose projector the formula counts.
_PROJECTORS: Final = {"pixtral": ("mistral3", "ministral3"), "clip_vision_model": ("llava",)}


def params(config: Fields, text_hidden: int) -> int | None:
    """Weights of tower and projector of a whole configuration; ``None`` where there is none or its kind is unknown.

    Args:
        config: the whole configuration.
        text_hidden: width of the language model.

    Raises:
        AdvisorError: ``untrusted-model-config`` naming the field of ``vision_config``.
    """
    vision = config.part("vision_config")
    if vision is None:
        return None
    whole = config.text("model_type") or ""
    kind = vision.text("model_type") or whole
    if whole in ("idefics3", "smolvlm"):
        wide = _size(vision, 1152, "hidden_size") * (config.whole("scale_factor", high=64) or 2) ** 2
        return _siglip(vision) + text_hidden * wide
    if kind == "siglip_vision_model":
        kind = whole
    if kind in _PROJECTORS and whole not in _PROJECTORS[kind]:
        return None  # the tower is known, and what follows it is another
    compute = _KINDS.get(kind)
    return compute(vision, text_hidden) if compute else None
