"""Gemma 4: other head sizes in layers with the whole context, shared caches and embeddings for every layer (E2B, E4B),
experts beside a dense network (26B)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Family, Part, gated
from advisor.model.fields import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Fields

_PER_LAYER: Final = "embedding_length_per_layer_input"
_SHARED: Final = "attention.shared_kv_layers"
_WINDOW_DIM: Final = "attention.key_length_swa"
_FULL_KV: Final = "attention.head_count_kv_full"
_SAME: Final = "attention.k_eq_v"
_WIDE: Final = "use_double_wide_mlp"


def prepare(raw: dict[str, Any]) -> None:
    """Sizes that overrides by layer name (``per_layer_config``) belong to layers with the whole context."""
    types, overrides = raw.get("layer_types"), raw.get("per_layer_config")
    if not isinstance(overrides, dict) or not isinstance(types, list):
        return
    whole = [
        values
        for layer, values in overrides.items()
        if isinstance(values, dict) and str(layer).isdecimal() and len(str(layer)) < 6 and int(layer) < len(types)
        if types[int(layer)] == "full_attention"
    ]
    for key, to in (("head_dim", "global_head_dim"), ("num_key_value_heads", "num_global_key_value_heads")):
        if raw.get(to) is None:
            raw[to] = next((v[key] for v in whole if v.get(key) is not None), None)


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Head sizes, shared layers, embeddings for every layer and the kind of every layer."""
    shared = min(f.whole("num_kv_shared_layers", low=0, high=MAX_LAYERS) or 0, m.layers - 1)
    types = f.words("layer_types", m.layers) or tuple(
        "full_attention" if (i + 1) % 6 == 0 or i == m.layers - 1 else "sliding_attention" for i in range(m.layers)
    )
    kinds = ["window" if t == "sliding_attention" else "full" for t in types]
    own = m.layers - shared
    same = f.flag("attention_k_eq_v", False)
    full_kv = f.whole("num_global_key_value_heads", high=MAX_HEADS) if same else None
    if full_kv and m.heads % full_kv:
        raise f.fail("num_global_key_value_heads", f"is {full_kv}, which does not divide {m.heads} attention heads")
    per_layer = f.whole("hidden_size_per_layer_input", low=0, high=MAX_WIDTH)
    changes: dict[str, Any] = {
        "qk_norm": True,
        "head_dim": f.whole("global_head_dim", high=MAX_WIDTH) or 512,
        "layer_kinds": (*kinds[:own], *("none",) * shared),
        "widths": {
            _PER_LAYER: 256 if per_layer is None else per_layer,
            _SHARED: shared,
            _WINDOW_DIM: m.head_dim,
            _FULL_KV: full_kv or m.kv_heads,
            _SAME: int(same),
            _WIDE: int(f.flag(_WIDE, False)),
        },
    }
    period = (types.index("full_attention") if "full_attention" in types else m.layers - 1) + 1
    changes["sliding_pattern"] = period
    if shared and any(_in_period(period, i) != (kinds[i] == "full") for i in range(m.layers)):
        changes["notes"] = ("low confidence: layers with the whole context do not come at regular distances",)
    if not f.flag("enable_moe_block", m.experts > 0):
        changes |= {"experts": 0, "experts_used": 0, "expert_intermediate": 0, "shared_expert_intermediate": 0}
    return changes


def _in_period(period: int, layer: int) -> bool:
    return (layer + 1) % period == 0


def _is_full(m: ModelFacts, layer: int) -> bool:
    kind = m.layer_kinds[layer] if layer < len(m.layer_kinds) else "full"
    return kind == "full" or (kind == "none" and _in_period(m.sliding_pattern or 1, layer))


def _routed(m: ModelFacts, p: str) -> Iterator[Part]:
    width = m.expert_intermediate
    yield f"{p}ffn_gate_inp.weight", (m.experts, m.hidden)
    yield f"{p}ffn_gate_inp.scale", (m.hidden,)
    for norm in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
        yield f"{p}{norm}.weight", (m.hidden,)
    yield f"{p}ffn_gate_up_exps.weight", (m.experts, 2 * width, m.hidden)
    yield f"{p}ffn_down_exps.weight", (m.experts, m.hidden, width)
    yield f"{p}ffn_down_exps.scale", (m.experts,)


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer; with ``attention_k_eq_v`` the values of layers with the whole context are the keys."""
    p, w, full = f"blk.{layer}.", m.widths, _is_full(m, layer)
    dim = m.head_dim if full else w.get(_WINDOW_DIM, m.head_dim)
    kv = (w.get(_FULL_KV, m.kv_heads) if full else m.kv_heads) * dim
    own = layer < m.layers - w.get(_SHARED, 0)
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield f"{p}attn_q.weight", (m.heads * dim, m.hidden)
    yield f"{p}attn_q_norm.weight", (dim,)
    # Layers that use another's cache have keys and values all the same, which nothing reads.
    yield f"{p}attn_k.weight", (kv, m.hidden)
    yield f"{p}attn_k_norm.weight", (dim,)
    if not (full and w.get(_SAME)):
        yield f"{p}attn_v.weight", (kv, m.hidden)
    yield f"{p}attn_output.weight", (m.hidden, m.heads * dim)
    for norm in ("post_attention_norm", "ffn_norm", "post_ffw_norm"):
        yield f"{p}{norm}.weight", (m.hidden,)
    yield f"{p}layer_output_scale.weight", (1,)
    yield from gated(m, p, width=m.intermediate * (2 if w.get(_WIDE) and not own else 1))
    if m.experts:
        yield from _routed(m, p)
    if e := w.get(_PER_LAYER):
        yield f"{p}inp_gate.weight", (e, m.hidden)
        yield f"{p}proj.weight", (m.hidden, e)
        yield f"{p}post_norm.weight", (m.hidden,)


def outside(m: ModelFacts) -> Iterator[Part]:
    """The embedding of every layer; the table of rotary factors of layers with the whole context."""
    yield "rope_freqs.weight", (m.head_dim // 2 or 1,)
    if e := m.widths.get(_PER_LAYER):
        yield "per_layer_token_embd.weight", (m.vocab, e * m.layers)
        yield "per_layer_model_proj.weight", (e * m.layers, m.hidden)
        yield "per_layer_proj_norm.weight", (e,)


FAMILY: Final = Family(read=read, blocks=blocks, outside=outside, prepare=prepare)
