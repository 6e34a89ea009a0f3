"""Multi-head latent attention (DeepSeek V2, V3 and R1, Kimi K2, GLM-4.7 Flash and GLM-5): a compressed cache.

llama.cpp keeps the compressed keys and values and one rotary key a token; the matrix that expands them is split into
``attn_k_b``, transposed, and ``attn_v_b``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Family, Part, experts, gated, prediction
from advisor.model.fields import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Fields

# Converters of these write the layers that predict further tokens; that of deepseek2 leaves them out.
_PREDICTING: Final = ("glm4_moe_lite", "deepseek_v32", "glm_moe_dsa")
_INDEXED: Final = ("deepseek32", "glm-dsa")


def prepare(raw: dict[str, Any]) -> None:
    """Head sizes follow from the latent ranks; ``head_dim`` means the rotary part only."""
    raw["head_dim"] = None
    if raw.get("n_routed_experts") is not None and raw.get("model_type") in ("deepseek_v3", "kimi_k2", "deepseek_v32"):
        raw.setdefault("first_k_dense_replace", 3)
    heads = raw.get("num_attention_heads")
    raw["num_key_value_heads"] = heads
    if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0:
        raw["head_dim"] = _head(raw, "qk_nope_head_dim", 128) + _head(raw, "qk_rope_head_dim", 64) or None


def _head(raw: dict[str, Any], key: str, default: int) -> int:
    value = raw.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_WIDTH else default


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Ranks, head sizes and the kind of every layer."""
    rank = f.whole("kv_lora_rank", high=MAX_WIDTH) or 512
    nope = f.whole("qk_nope_head_dim", high=MAX_WIDTH) or 128
    rope = f.whole("qk_rope_head_dim", low=0, high=MAX_WIDTH)
    rope = 64 if rope is None else rope
    value = f.whole("v_head_dim", high=MAX_WIDTH) or 128
    widths = {
        "attention.kv_lora_rank": rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": value,
        "rope.dimension_count": rope,
        "leading_dense_block_count": m.dense_layers if m.experts else m.layers,
    }
    if q := f.whole("q_lora_rank", high=MAX_WIDTH):
        widths["attention.q_lora_rank"] = q
    if m.model_type in _PREDICTING and (n := f.whole("num_nextn_predict_layers", low=0, high=MAX_LAYERS)):
        widths["nextn_predict_layers"] = n
    if m.architecture in _INDEXED:
        widths["attention.indexer.head_count"] = f.whole("index_n_heads", high=MAX_HEADS) or 64
        widths["attention.indexer.key_length"] = f.whole("index_head_dim", high=MAX_WIDTH) or 128
    return {
        "widths": widths,
        "layer_kinds": ("latent",) * m.layers,
        "kv_heads": 1,
        "head_dim": rank + rope,
        "attention_bias": False,
    }


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    w, p = m.widths, f"blk.{layer}."
    rank, rope = w.get("attention.kv_lora_rank", 512), w.get("rope.dimension_count", 64)
    value = w.get("attention.value_length_mla", 128)
    key = max(w.get("attention.key_length_mla", 192), rope + 1)
    yield f"{p}attn_norm.weight", (m.hidden,)
    if q := w.get("attention.q_lora_rank"):
        yield f"{p}attn_q_a.weight", (q, m.hidden)
        yield f"{p}attn_q_a_norm.weight", (q,)
        yield f"{p}attn_q_b.weight", (m.heads * key, q)
    else:
        yield f"{p}attn_q.weight", (m.heads * key, m.hidden)
    yield f"{p}attn_kv_a_mqa.weight", (rank + rope, m.hidden)
    yield f"{p}attn_kv_a_norm.weight", (rank,)
    yield f"{p}attn_k_b.weight", (m.heads, rank, key - rope)
    yield f"{p}attn_v_b.weight", (m.heads, value, rank)
    yield f"{p}attn_output.weight", (m.hidden, m.heads * value)
    if index := w.get("attention.indexer.head_count"):
        size = w.get("attention.indexer.key_length", 128)
        yield f"{p}indexer.k_norm.weight", (size,)
        yield f"{p}indexer.k_norm.bias", (size,)
        yield f"{p}indexer.proj.weight", (index, m.hidden)
        yield f"{p}indexer.attn_k.weight", (size, m.hidden)
        yield f"{p}indexer.attn_q_b.weight", (index * size, q or m.hidden)
    yield f"{p}ffn_norm.weight", (m.hidden,)
    if m.experts and layer >= m.dense_layers:
        # The first generation chooses experts by softmax, without a correction.
        yield from experts(m, p, probs_bias=m.model_type != "deepseek_v2")
    else:
        yield from gated(m, p)
    if layer >= m.layers:
        yield from prediction(m, p)


FAMILY: Final = Family(read=read, blocks=blocks, prepare=prepare)
