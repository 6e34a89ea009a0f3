"""Llama 4: chunked attention in three of four layers, experts in every layer (Scout) or in every second (Maverick)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Family, Part, attention, experts, gated
from advisor.model.fields import MAX_LAYERS, MAX_WIDTH, Fields

_STEP: Final = "interleave_moe_layer_step"


def prepare(raw: dict[str, Any]) -> None:
    """Chunks act as a window; llama.cpp takes 8,192 tokens whatever the configuration says."""
    types = raw.get("layer_types")
    whole = isinstance(types, list) and types and all(t == "full_attention" for t in types)
    raw["sliding_window"] = 0 if whole else None
    raw["sliding_window_pattern"] = None


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """``intermediate_size`` is an expert's; that of dense layers is ``intermediate_size_mlp``."""
    whole = f.raw.get("sliding_window") == 0
    step = f.whole(_STEP, low=1, high=MAX_LAYERS) or 1
    return {
        "intermediate": f.whole("intermediate_size_mlp", high=MAX_WIDTH) or m.intermediate,
        "expert_intermediate": m.intermediate if m.experts else 0,
        "shared_expert_intermediate": m.intermediate if m.experts else 0,
        "dense_layers": min(step - 1, m.layers) if m.experts else 0,
        "widths": {_STEP: step},
        "sliding_window": None if whole else m.sliding_window,
        "sliding_pattern": None if whole else m.sliding_pattern,
    }


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield from attention(m, p, bias=m.attention_bias, output_bias=m.attention_bias)
    yield f"{p}ffn_norm.weight", (m.hidden,)
    if m.experts and (layer + 1) % m.widths.get(_STEP, 1) == 0:
        yield from experts(m, p)
    else:
        yield from gated(m, p)


def outside(m: ModelFacts) -> Iterator[Part]:
    """The table of rotary factors."""
    if m.rope_factors:
        yield "rope_freqs.weight", (m.rope_factors,)


FAMILY: Final = Family(read=read, blocks=blocks, outside=outside, prepare=prepare)
