"""Nemotron-H and Nemotron 3: layers that are either Mamba-2, or attention, or a network without a gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families import hybrid
from advisor.model.families.base import Family, Part, attention, matrix, prediction
from advisor.model.fields import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Fields

_LETTERS: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_KINDS: Final = {
    "mamba": "recurrent",
    "linear_attention": "recurrent",
    "attention": "full",
    "full_attention": "full",
    "mlp": "none",
    "moe": "none",
}
_LATENT: Final = "moe_latent_size"


def prepare(raw: dict[str, Any]) -> None:
    """Layers by name, as many as the pattern has; the shared expert under its usual name."""
    pattern = raw.get("hybrid_override_pattern") or raw.get("layers_block_type") or raw.get("layer_types")
    if isinstance(pattern, str):
        pattern = [_LETTERS.get(letter, letter) for letter in pattern]
    raw.pop("layer_types", None)
    if isinstance(pattern, list) and pattern:
        raw["layers_block_type"] = pattern
        raw["num_hidden_layers"] = len(pattern)
        if "moe" not in pattern:
            raw["n_routed_experts"] = 0
    if "moe_shared_expert_intermediate_size" in raw:
        raw["shared_expert_intermediate_size"] = raw["moe_shared_expert_intermediate_size"]
    raw.setdefault("head_dim", raw.get("attention_head_dim") or 128)


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Kinds of layers, widths of the state, and how wide experts see the model."""
    types = f.words("layers_block_type", m.layers)
    if types is None:
        raise f.fail("layers_block_type", "is missing; it names the kind of each layer")
    for t in types:
        if t not in _KINDS:
            raise f.fail("layers_block_type", f'names "{t}", but knows only {", ".join(sorted(_KINDS))}')
    heads = f.whole("mamba_num_heads", high=MAX_HEADS) or 128
    widths = {
        hybrid.CONV: f.whole("conv_kernel", "mamba_d_conv", high=MAX_WIDTH) or 4,
        hybrid.INNER: heads * (f.whole("mamba_head_dim", high=MAX_WIDTH) or 64),
        hybrid.STATE: f.whole("ssm_state_size", high=MAX_WIDTH) or 128,
        hybrid.RANK: heads,
        hybrid.GROUPS: f.whole("n_groups", "mamba_n_groups", high=MAX_HEADS) or 8,
        _LATENT: f.whole(_LATENT, high=MAX_WIDTH) or 0,
        hybrid.NEXTN: (f.whole("num_nextn_predict_layers", low=0, high=MAX_LAYERS) or 0) if m.experts else 0,
    }
    if not f.flag("use_conv_bias", True):
        widths["ssm.no_conv_bias"] = 1
    return {
        "architecture": "nemotron_h_moe" if m.experts else "nemotron_h",
        "layer_kinds": tuple(_KINDS[t] for t in types),
        "widths": {**m.widths, **widths},
    }


def _experts(m: ModelFacts, p: str) -> Iterator[Part]:
    width, seen = m.expert_intermediate, m.widths.get(_LATENT) or m.hidden
    yield f"{p}ffn_gate_inp.weight", (m.experts, m.hidden)
    yield f"{p}exp_probs_b.bias", (m.experts,)
    if seen != m.hidden:
        yield from matrix(p, "ffn_latent_down", seen, m.hidden)
        yield from matrix(p, "ffn_latent_up", m.hidden, seen)
    yield f"{p}ffn_up_exps.weight", (m.experts, width, seen)
    yield f"{p}ffn_down_exps.weight", (m.experts, seen, width)
    if shared := m.shared_expert_intermediate:
        yield from matrix(p, "ffn_up_shexp", shared, m.hidden)
        yield from matrix(p, "ffn_down_shexp", m.hidden, shared)


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer; one behind the last, for multi-token prediction, has attention and experts."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    if layer >= m.layers:
        yield f"{p}post_attention_norm.weight", (m.hidden,)
        yield from attention(m, p)
        yield from _experts(m, p)
        yield from prediction(m, p)
        return
    kind = m.layer_kinds[layer]
    if kind == "recurrent":
        yield from hybrid.mamba2(m, p, conv_bias="ssm.no_conv_bias" not in m.widths)
    elif kind == "full":
        yield from attention(m, p, bias=m.attention_bias, output_bias=m.attention_bias)
    elif m.experts:
        yield from _experts(m, p)
    else:
        yield from matrix(p, "ffn_up", m.intermediate, m.hidden, bias=m.mlp_bias)
        yield from matrix(p, "ffn_down", m.hidden, m.intermediate, bias=m.mlp_bias)


FAMILY: Final = Family(read=read, blocks=blocks, prepare=prepare)
