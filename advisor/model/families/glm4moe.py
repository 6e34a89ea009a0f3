"""GLM-4.5, GLM-4.6 and what is built like them: leading dense layers, then experts, and a layer that predicts ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Family, Part, attention, experts, gated, prediction
from advisor.model.fields import MAX_LAYERS, Fields

# GLM-4.5 was published with copies of embedding and output in its last layer; GLM-4.6 (of 202,752 tokens) without.
_WITH_COPIES: Final = 131_072


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Norms of queries and keys (the large model has them, Air has not) and layers that predict further tokens."""
    ahead = f.whole("num_nextn_predict_layers", low=0, high=MAX_LAYERS)
    widths = {"leading_dense_block_count": m.dense_layers}
    if ahead:
        widths["nextn_predict_layers"] = ahead
    return {"qk_norm": f.flag("use_qk_norm", False), "widths": widths}


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield from attention(m, p, bias=m.attention_bias)
    if m.qk_norm:
        yield f"{p}attn_q_norm.weight", (m.head_dim,)
        yield f"{p}attn_k_norm.weight", (m.head_dim,)
    yield f"{p}post_attention_norm.weight", (m.hidden,)
    if m.experts and layer >= m.dense_layers:
        yield from experts(m, p, probs_bias=True)
    else:
        yield from gated(m, p)
    if layer >= m.layers:
        yield from prediction(m, p, copies=(m.context_max or 0) <= _WITH_COPIES and m.model_type == "glm4_moe")


FAMILY: Final = Family(read=read, blocks=blocks)
