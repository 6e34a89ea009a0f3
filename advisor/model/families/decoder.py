"""Plain decoders: attention and a feed-forward network or experts in every layer, as llama has them, and variants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Family, Part, gated, matrix, normed, prediction
from advisor.model.families.styles import BY_TYPE, PLAIN, STYLES, Style
from advisor.model.fields import MAX_HEADS, MAX_LAYERS, Fields

# Converters that write down for each layer whether it has a window; others leave it to a fixed pattern.
_BY_LAYER: Final = ("exaone4", "exaone-moe", "olmo2")
_EXAONE_WINDOWED: Final = 64  # layers of the one EXAONE 4.0 that llama.cpp gives windows
_HUNYUAN: Final = ("hunyuan_v1_dense", "hunyuan_v1_moe")
_NORM_FLAGS: Final = ("use_qk_norm", "qk_layernorm")


def style(m: ModelFacts) -> Style:
    """The style of an architecture; of an unknown one, llama's."""
    return BY_TYPE.get(m.model_type) or STYLES.get(m.architecture, PLAIN)


def _scaled(raw: dict[str, Any]) -> bool:
    """Whether a Hunyuan configuration has the dynamic scaling with ``alpha``, whose context its converter knows."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters")
    if not isinstance(rope, dict):
        return False
    return "dynamic" in (rope.get("type"), rope.get("rope_type")) and rope.get("alpha") is not None


def prepare(raw: dict[str, Any]) -> None:
    """Names and defaults that only some configurations have."""
    kind = raw.get("model_type")
    if kind == "falcon":
        if not raw.get("new_decoder_architecture") and raw.get("multi_query", True) and "n_head_kv" not in raw:
            raw.setdefault("num_key_value_heads", 1)
        raw.setdefault("num_key_value_heads", raw.get("num_kv_heads", raw.get("n_head_kv")))
    if kind == "chatglm":
        raw["vocab_size"] = raw.get("padded_vocab_size", raw.get("vocab_size"))
        raw.setdefault("head_dim", raw.get("kv_channels"))
    if kind in ("falcon", "gpt2", "bloom", "gpt_neox") and all(
        raw.get(k) is None for k in ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim")
    ):
        hidden = raw.get("hidden_size", raw.get("n_embd"))
        raw["intermediate_size"] = 4 * hidden if isinstance(hidden, int) and not isinstance(hidden, bool) else None
    if kind == "falcon":
        raw.setdefault("max_position_embeddings", 2048)  # what its converter writes; few configurations say it
    if kind == "cohere" and isinstance(raw.get("model_max_length"), int):
        raw["max_position_embeddings"] = raw["model_max_length"]  # the other is of the first training stage
    if kind in _HUNYUAN and _scaled(raw):
        raw["max_position_embeddings"] = 262_144
    if kind == "starcoder2":
        raw.setdefault("mlp_bias", raw.get("use_bias", True))
    if kind == "exaone4" and isinstance(raw.get("sliding_window_pattern"), str):
        raw["sliding_window_pattern"] = len(raw["sliding_window_pattern"]) or None  # such as LLLG
    if kind == "hunyuan_v1_moe":  # one value a layer, all the same in every model there is
        for key in ("moe_topk", "moe_intermediate_size", "num_shared_expert"):
            value = raw.get(key)
            if isinstance(value, list) and value and all(v == value[0] for v in value):
                raw[key] = value[0]
        if raw.get("num_shared_expert") == 1:
            raw.setdefault("shared_expert_intermediate_size", raw.get("intermediate_size"))


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Norms of queries and keys, windows by layer, layers that predict further tokens."""
    s = style(m)
    found: dict[str, Any] = {}
    if s.qk_norm:
        found["qk_norm"] = not s.optional_norm or any(f.flag(name, False) for name in _NORM_FLAGS)
    types = f.words("layer_types", m.layers)
    if m.architecture == "exaone4" and m.layers != _EXAONE_WINDOWED:
        found |= {"sliding_window": None, "sliding_pattern": None}
    elif types and m.architecture in _BY_LAYER and m.sliding_window:
        found["layer_kinds"] = tuple("window" if t == "sliding_attention" else "full" for t in types)
    if m.architecture == "exaone-moe" and (n := f.whole("num_nextn_predict_layers", low=0, high=MAX_LAYERS)):
        found["widths"] = {"nextn_predict_layers": n}
    if m.architecture == "ernie4_5-moe":
        found["widths"] = {"interleave_moe_layer_step": f.whole("moe_layer_interval", high=MAX_LAYERS) or 1}
    if m.architecture == "falcon":
        two = m.kv_heads > 1 and (f.whole("num_ln_in_parallel_attn", low=1, high=MAX_HEADS) or 2) > 1
        found["widths"] = {"attention.norm_count": 2 if two else 1}
    return found


def _attention(m: ModelFacts, s: Style, p: str) -> Iterator[Part]:
    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    if s.fused_qkv:
        yield from matrix(p, "attn_qkv", q + 2 * kv, m.hidden, bias=m.attention_bias)
    else:
        for part, rows in (("q", q), ("k", kv), ("v", kv)):
            yield from matrix(p, f"attn_{part}", rows, m.hidden, bias=m.attention_bias)
    if s.qk_norm == "head":
        yield f"{p}attn_q_norm.weight", (m.head_dim,)
        yield f"{p}attn_k_norm.weight", (m.head_dim,)
    elif s.qk_norm == "heads" and m.qk_norm:
        yield f"{p}attn_q_norm.weight", (m.heads, m.head_dim)
        yield f"{p}attn_k_norm.weight", (m.kv_heads, m.head_dim)
    elif s.qk_norm == "full":
        yield f"{p}attn_q_norm.weight", (q,)
        yield f"{p}attn_k_norm.weight", (kv,)
    yield from matrix(p, "attn_output", m.hidden, q, bias=m.attention_bias and s.output_bias)
    if s.oss:
        yield f"{p}attn_sinks.weight", (m.heads,)


def _dense(m: ModelFacts, s: Style, p: str) -> Iterator[Part]:
    if s.gate and not s.fused_ffn:
        yield from gated(m, p, bias=m.mlp_bias)
        return
    rows = 2 * m.intermediate if s.fused_ffn else m.intermediate
    yield from matrix(p, "ffn_up", rows, m.hidden, bias=m.mlp_bias)
    yield from matrix(p, "ffn_down", m.hidden, m.intermediate, bias=m.mlp_bias)


def _experts(m: ModelFacts, s: Style, p: str) -> Iterator[Part]:
    width = m.expert_intermediate
    yield f"{p}ffn_gate_inp.weight", (m.experts, m.hidden)
    if s.oss:
        yield f"{p}ffn_gate_inp.bias", (m.experts,)
    if s.probs_bias:
        yield f"{p}exp_probs_b.bias", (m.experts,)
    for part, rows, columns in (("gate", width, m.hidden), ("up", width, m.hidden), ("down", m.hidden, width)):
        yield f"{p}ffn_{part}_exps.weight", (m.experts, rows, columns)
        if s.oss:
            yield f"{p}ffn_{part}_exps.bias", (m.experts, rows)
    if shared := m.shared_expert_intermediate:
        if s.shared_gate:
            yield f"{p}ffn_gate_inp_shexp.weight", (m.hidden,)
        yield from gated(m, p, width=shared, suffix="_shexp")


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    s, p = style(m), f"blk.{layer}."
    norms = (*s.norms, "attn_norm_2") if m.widths.get("attention.norm_count", 1) > 1 else s.norms
    for norm in norms:
        yield from normed(p, norm, m.hidden, bias=s.norm_bias)
    yield from _attention(m, s, p)
    routed = m.experts and m.dense_layers <= layer < m.layers
    yield from _experts(m, s, p) if routed else _dense(m, s, p)
    if layer >= m.layers:
        yield from prediction(m, p)


def outside(m: ModelFacts) -> Iterator[Part]:
    """Tables of rotary factors and positions; biases of the last norm and of the output."""
    s = style(m)
    if m.rope_factors:
        names = ("rope_factors_long", "rope_factors_short") if m.architecture.startswith("phi") else ("rope_freqs",)
        for name in names:
            yield f"{name}.weight", (m.rope_factors,)
    if s.positions:
        yield "position_embd.weight", (m.context_max or 1024, m.hidden)
    if s.embedding_norm:
        yield from normed("", "token_embd_norm", m.hidden, bias=True)
    if s.norm_bias:
        yield "output_norm.bias", (m.hidden,)
    if s.last_bias:
        yield "output.bias", (m.vocab,)


FAMILY: Final = Family(read=read, blocks=blocks, outside=outside, prepare=prepare)
