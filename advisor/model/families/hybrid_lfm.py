"""LFM2 and its variant with experts: short convolutions, and grouped attention in some layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families import hybrid
from advisor.model.families.base import Family, Part, attention, experts, gated
from advisor.model.fields import MAX_LAYERS, MAX_WIDTH, Fields

TAPS: Final = "shortconv.l_cache"


def prepare(raw: dict[str, Any]) -> None:
    """The usual names of the tied embedding and of the leading dense layers."""
    if "tie_embedding" in raw:
        raw.setdefault("tie_word_embeddings", raw["tie_embedding"])
    if "block_ff_dim" in raw:
        raw["intermediate_size"] = raw["block_ff_dim"]
    if "num_dense_layers" in raw:
        raw["first_k_dense_replace"] = raw["num_dense_layers"]
    elif raw.get("model_type") == "lfm2_moe":
        raw["first_k_dense_replace"] = 2


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Kinds of layers, taps of the convolution, and the width of the network, which LFM2 derives."""
    types = f.words("layer_types", m.layers)
    if types is None:
        attends = f.places("full_attn_idxs", 0, m.layers - 1)
        types = tuple("full_attention" if attends is None or i in attends else "conv" for i in range(m.layers))
    out: dict[str, Any] = {
        "layer_kinds": hybrid.kinds(types),
        "qk_norm": True,
        "widths": {**m.widths, TAPS: f.whole("conv_L_cache", high=MAX_WIDTH) or 3},
    }
    # Liquid's own configurations give the width before it is cut; ones that name only the result leave out the switch.
    if m.architecture == "lfm2" and f.flag("block_auto_adjust_ff_dim", "block_ff_dim" in f.raw):
        factor, step = f.raw.get("block_ffn_dim_multiplier"), f.whole("block_multiple_of", high=MAX_WIDTH) or 256
        width = int(2 * m.intermediate / 3)
        if isinstance(factor, int | float) and not isinstance(factor, bool) and 0 < factor <= 64:
            width = int(factor * width)
        out["intermediate"] = -(-width // step) * step
    if m.experts:
        dense = f.whole("first_k_dense_replace", low=0, high=MAX_LAYERS) or 0
        out["dense_layers"] = dense
        out["widths"]["leading_dense_block_count"] = dense
    return out


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield f"{p}ffn_norm.weight", (m.hidden,)
    if hybrid.recurrent(m, layer):
        yield f"{p}shortconv.conv.weight", (m.hidden, m.widths[TAPS])
        yield f"{p}shortconv.in_proj.weight", (3 * m.hidden, m.hidden)
        yield f"{p}shortconv.out_proj.weight", (m.hidden, m.hidden)
    else:
        yield from attention(m, p)
        yield f"{p}attn_q_norm.weight", (m.head_dim,)
        yield f"{p}attn_k_norm.weight", (m.head_dim,)
    yield from experts(m, p, probs_bias=True) if m.experts and layer >= m.dense_layers else gated(m, p)


FAMILY: Final = Family(read=read, blocks=blocks, prepare=prepare, last_norm="token_embd_norm")
