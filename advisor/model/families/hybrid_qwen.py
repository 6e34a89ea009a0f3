"""Qwen3-Next and Qwen3.5: gated delta nets, and full attention with an output gate in every fourth layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families import hybrid
from advisor.model.families.base import Family, Part, experts, gated, matrix, prediction
from advisor.model.fields import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Fields

# Defaults of transformers' Qwen3NextConfig, Qwen3_5TextConfig and Qwen3_5MoeTextConfig.
_DEFAULTS: Final[dict[str, int]] = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_MOE: Final[dict[str, int]] = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}


def prepare(raw: dict[str, Any]) -> None:
    """Fill in what these configurations may leave out; those with experts have no dense network."""
    for key, value in _DEFAULTS.items():
        raw.setdefault(key, value)
    if "moe" in str(raw.get("model_type")) or raw.get("model_type") == "qwen3_next":
        for key, value in _MOE.items():
            raw.setdefault(key, value)
        raw.setdefault("intermediate_size", raw["moe_intermediate_size"])


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Kinds of layers, widths of the delta net, and blocks for multi-token prediction."""
    types = f.words("layer_types", m.layers)
    if types is None:
        interval = f.whole("full_attention_interval", high=MAX_LAYERS) or 4
        types = tuple("linear_attention" if (i + 1) % interval else "full_attention" for i in range(m.layers))
    heads = f.need("linear_num_value_heads", high=MAX_HEADS)
    state = f.need("linear_key_head_dim", high=MAX_WIDTH)
    if f.need("linear_value_head_dim", high=MAX_WIDTH) != state:
        raise f.fail("linear_value_head_dim", "differs from linear_key_head_dim, which llama.cpp does not support")
    share = f.share("partial_rotary_factor", f.share("partial_rotary_factor", 0.25, f.rope()))
    return {
        "layer_kinds": hybrid.kinds(types),
        "qk_norm": True,
        "widths": {
            **m.widths,
            hybrid.CONV: f.need("linear_conv_kernel_dim", high=MAX_WIDTH),
            hybrid.INNER: heads * state,
            hybrid.STATE: state,
            hybrid.RANK: heads,
            hybrid.GROUPS: f.need("linear_num_key_heads", high=MAX_HEADS),
            "rope.dimension_count": int(m.head_dim * share),
            hybrid.NEXTN: f.whole("mtp_num_hidden_layers", low=0, high=MAX_LAYERS) or 0,
        },
    }


def _attention(m: ModelFacts, p: str) -> Iterator[Part]:
    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    yield from matrix(p, "attn_q", 2 * q, m.hidden, bias=m.attention_bias)  # queries and the gate of the output
    yield from matrix(p, "attn_k", kv, m.hidden, bias=m.attention_bias)
    yield from matrix(p, "attn_v", kv, m.hidden, bias=m.attention_bias)
    yield f"{p}attn_q_norm.weight", (m.head_dim,)
    yield f"{p}attn_k_norm.weight", (m.head_dim,)
    yield from matrix(p, "attn_output", m.hidden, q, bias=m.attention_bias)


def _network(m: ModelFacts, p: str) -> Iterator[Part]:
    if not m.experts:
        yield from gated(m, p)
        return
    yield from experts(m, p)
    if m.shared_expert_intermediate:
        yield f"{p}ffn_gate_inp_shexp.weight", (m.hidden,)


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer; those behind the last, for multi-token prediction, have full attention."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield f"{p}post_attention_norm.weight", (m.hidden,)
    if hybrid.recurrent(m, layer):
        yield from hybrid.delta_net(m, p, fused=m.architecture == "qwen3next")
    else:
        yield from _attention(m, p)
    yield from _network(m, p)
    if layer >= m.layers:
        yield from prediction(m, p)


FAMILY: Final = Family(read=read, blocks=blocks, prepare=prepare)
