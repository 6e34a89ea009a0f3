"""Kimi Linear: Kimi delta attention (a gated delta net with a gate a channel), and latent attention in some layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families import hybrid
from advisor.model.families.base import Family, Part, experts, gated, matrix
from advisor.model.fields import MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, Fields

LATENT, ROPE, KEY, VALUE, DIM = (
    "attention.kv_lora_rank",
    "rope.dimension_count",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "kda.head_dim",
)


def prepare(raw: dict[str, Any]) -> None:
    """The usual names of experts and heads."""
    raw.setdefault("num_experts_per_tok", raw.get("num_experts_per_token"))
    raw["n_shared_experts"] = raw.get("num_shared_experts", raw.get("n_shared_experts", 0))
    raw["num_key_value_heads"] = raw.get("num_attention_heads")


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Kinds of layers and the widths of both kinds of attention."""
    linear = f.part("linear_attn_config")
    if linear is None:
        raise f.fail("linear_attn_config", "is missing; it names the kind of each layer")
    full = linear.places("full_attn_layers", 1, m.layers)
    if full is None:
        raise linear.fail("full_attn_layers", "is missing; it lists the layers with attention")
    latent, rope = f.need("kv_lora_rank", high=MAX_WIDTH), f.need("qk_rope_head_dim", high=MAX_WIDTH)
    dense = f.whole("first_k_dense_replace", low=0, high=MAX_LAYERS) or 0
    return {
        "layer_kinds": tuple("latent" if i + 1 in full else "recurrent" for i in range(m.layers)),
        "kv_heads": 1,
        "head_dim": latent + rope,
        "dense_layers": dense,
        "widths": {
            **m.widths,
            LATENT: latent,
            ROPE: rope,
            KEY: f.need("qk_nope_head_dim", high=MAX_WIDTH) + rope,
            VALUE: f.need("v_head_dim", high=MAX_WIDTH),
            "attention.value_length": latent,
            DIM: linear.whole("head_dim", high=MAX_WIDTH) or 128,
            hybrid.CONV: linear.whole("short_conv_kernel_size", high=MAX_WIDTH) or 4,
            "leading_dense_block_count": dense,
            "expert_shared_count": f.whole("n_shared_experts", low=0, high=MAX_EXPERTS) or 0,
        },
    }


def _delta(m: ModelFacts, p: str) -> Iterator[Part]:
    dim, taps = m.widths[DIM], m.widths[hybrid.CONV]
    inner = m.heads * dim
    for part in ("q", "k", "v"):
        yield f"{p}ssm_conv1d_{part}.weight", (1, inner, 1, taps)
        yield from matrix(p, f"attn_{part}", inner, m.hidden)
    for gate in ("f", "g"):
        yield from matrix(p, f"ssm_{gate}_a", dim, m.hidden)
        yield from matrix(p, f"ssm_{gate}_b", inner, dim)
    yield from matrix(p, "ssm_beta", m.heads, m.hidden)
    yield f"{p}ssm_a", (m.heads, 1)
    yield f"{p}ssm_dt.bias", (inner,)
    yield f"{p}ssm_norm.weight", (dim,)
    yield from matrix(p, "attn_output", m.hidden, inner)


def _latent(m: ModelFacts, p: str) -> Iterator[Part]:
    w = m.widths
    latent, rope = w[LATENT], w[ROPE]
    yield from matrix(p, "attn_q", m.heads * w[KEY], m.hidden)
    yield from matrix(p, "attn_kv_a_mqa", latent + rope, m.hidden)
    yield f"{p}attn_kv_a_norm.weight", (latent,)
    yield f"{p}attn_k_b.weight", (m.heads, latent, w[KEY] - rope)
    yield f"{p}attn_v_b.weight", (m.heads, w[VALUE], latent)
    yield from matrix(p, "attn_output", m.hidden, m.heads * w[VALUE])


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield from _delta(m, p) if hybrid.recurrent(m, layer) else _latent(m, p)
    yield f"{p}ffn_norm.weight", (m.hidden,)
    yield from experts(m, p, probs_bias=True) if m.experts and layer >= m.dense_layers else gated(m, p)


FAMILY: Final = Family(read=read, blocks=blocks, prepare=prepare)
