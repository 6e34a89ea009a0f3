"""Mamba and Mamba-2 alone, and beside attention: Jamba, Granite 4 and Bamba, Falcon-H1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families import hybrid
from advisor.model.families.base import Family, Part, attention, experts, gated
from advisor.model.fields import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Fields

_PURE: Final = ("mamba", "mamba2", "falcon_mamba")


def prepare(raw: dict[str, Any]) -> None:
    """The usual terms: models without attention have no heads, and Granite's shared network has a name of its own."""
    kind = raw.get("model_type")
    if kind in _PURE:
        raw["num_attention_heads"] = raw["num_key_value_heads"] = 1
        hidden = raw.get("hidden_size", raw.get("d_model"))
        expand = raw.get("expand", 2)
        if isinstance(hidden, int) and isinstance(expand, int):
            raw.setdefault("intermediate_size", expand * hidden)
        raw["head_dim"] = 1
    elif kind in ("granitemoehybrid", "bamba") and raw.get("shared_intermediate_size"):
        if raw.get("num_local_experts"):
            raw["shared_expert_intermediate_size"] = raw["shared_intermediate_size"]
        else:
            raw["intermediate_size"] = raw["shared_intermediate_size"]


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Kinds of layers and widths of the state."""
    if m.architecture in ("mamba", "mamba2"):
        return _pure(f, m)
    if m.architecture == "jamba":
        return _jamba(f, m)
    return _falcon(f, m) if m.architecture == "falcon-h1" else _granite(f, m)


def _pure(f: Fields, m: ModelFacts) -> dict[str, Any]:
    inner = f.need("intermediate_size", "d_inner", high=MAX_WIDTH)
    widths = {
        hybrid.CONV: f.whole("conv_kernel", "d_conv", high=MAX_WIDTH) or 4,
        hybrid.INNER: inner,
    }
    if m.architecture == "mamba":
        widths[hybrid.STATE] = f.whole("state_size", "d_state", high=MAX_WIDTH) or 16
        widths[hybrid.RANK] = hybrid.steps(f, m.hidden, "time_step_rank", "dt_rank")
    else:
        widths[hybrid.STATE] = f.whole("state_size", "d_state", high=MAX_WIDTH) or 128
        # prepare() set head_dim to that of the attention that is not there.
        widths[hybrid.RANK] = f.whole("num_heads", high=MAX_HEADS) or inner // 64
        widths[hybrid.GROUPS] = f.whole("n_groups", high=MAX_HEADS) or 1
    return {
        "layer_kinds": ("recurrent",) * m.layers,
        "widths": {**m.widths, **widths},
        "heads": 0,
        "kv_heads": 0,
        "head_dim": 0,
        "intermediate": 0,
    }


def _jamba(f: Fields, m: ModelFacts) -> dict[str, Any]:
    period = f.whole("attn_layer_period", high=MAX_LAYERS) or 8
    offset = f.whole("attn_layer_offset", low=0, high=MAX_LAYERS)
    offset = 4 if offset is None else offset
    attends = [i >= offset and (i - offset) % period == 0 for i in range(m.layers)]
    first = f.whole("expert_layer_offset", low=0, high=MAX_LAYERS)
    return {
        "layer_kinds": tuple("full" if a else "recurrent" for a in attends),
        "widths": {
            **m.widths,
            hybrid.CONV: f.whole("mamba_d_conv", high=MAX_WIDTH) or 4,
            hybrid.INNER: (f.whole("mamba_expand", high=64) or 2) * m.hidden,
            hybrid.STATE: f.whole("mamba_d_state", high=MAX_WIDTH) or 16,
            hybrid.RANK: hybrid.steps(f, m.hidden, "mamba_dt_rank"),
            "expert_layer_period": f.whole("expert_layer_period", high=MAX_LAYERS) or 2,
            "expert_layer_offset": 1 if first is None else first,
        },
    }


def _mamba2_widths(f: Fields, hidden: int) -> dict[str, int]:
    return {
        hybrid.CONV: f.whole("mamba_d_conv", high=MAX_WIDTH) or 4,
        hybrid.INNER: f.whole("mamba_d_ssm", high=MAX_WIDTH) or (f.whole("mamba_expand", high=64) or 2) * hidden,
        hybrid.STATE: f.whole("mamba_d_state", high=MAX_WIDTH) or 256,
        hybrid.RANK: f.whole("mamba_n_heads", high=MAX_HEADS) or 128,
        hybrid.GROUPS: f.whole("mamba_n_groups", high=MAX_HEADS) or 1,
    }


def _falcon(f: Fields, m: ModelFacts) -> dict[str, Any]:
    widths = _mamba2_widths(f, m.hidden)
    if f.flag("mamba_rms_norm", False):
        widths["ssm.norm"] = 1
    if not f.flag("mamba_conv_bias", True):
        widths["ssm.no_conv_bias"] = 1
    return {"layer_kinds": ("both",) * m.layers, "widths": {**m.widths, **widths}}


def _granite(f: Fields, m: ModelFacts) -> dict[str, Any]:
    types = f.words("layer_types", m.layers) or f.words("layers_block_type", m.layers)
    if types is None:
        listed = f.places("attn_layer_indices", 0, m.layers - 1)
        if listed is not None:
            types = tuple("attention" if i in listed else "mamba" for i in range(m.layers))
        else:
            period = f.whole("attn_layer_period", high=MAX_LAYERS)
            offset = f.whole("attn_layer_offset", low=0, high=MAX_LAYERS) or 0
            types = tuple("attention" if period and i % period == offset else "mamba" for i in range(m.layers))
    kinds = hybrid.kinds(types)
    if "recurrent" not in kinds:  # llama.cpp's converter writes these as its other Granite architectures
        return {"architecture": "granitemoe" if m.experts else "granite"}
    return {"layer_kinds": kinds, "widths": {**m.widths, **_mamba2_widths(f, m.hidden)}}


def _has_experts(m: ModelFacts, layer: int) -> bool:
    if m.experts < 2:
        return False
    offset, period = m.widths.get("expert_layer_offset", 0), m.widths.get("expert_layer_period", 1)
    return layer >= offset and (layer - offset) % period == 0


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer."""
    p = f"blk.{layer}."
    yield f"{p}attn_norm.weight", (m.hidden,)
    if m.architecture == "mamba":
        yield from hybrid.mamba(m, p)
        return
    if m.architecture == "mamba2":
        yield from hybrid.mamba2(m, p)
        return
    if m.architecture == "falcon-h1":
        norm, bias = "ssm.norm" in m.widths, "ssm.no_conv_bias" not in m.widths
        yield from hybrid.mamba2(m, p, norm=norm, conv_bias=bias)
        yield from attention(m, p, bias=m.attention_bias, output_bias=m.attention_bias)
        yield f"{p}ffn_norm", (m.hidden,)  # the converter writes this name without ".weight"
        yield from gated(m, p, bias=m.mlp_bias)
        return
    if hybrid.recurrent(m, layer):
        yield from (hybrid.mamba(m, p, norms=True) if m.architecture == "jamba" else hybrid.mamba2(m, p))
    else:
        yield from attention(m, p, bias=m.attention_bias, output_bias=m.attention_bias)
    yield f"{p}ffn_norm.weight", (m.hidden,)
    yield from experts(m, p) if _has_experts(m, layer) else gated(m, p)


FAMILY: Final = Family(read=read, blocks=blocks, prepare=prepare)
