"""The tensors of a model under their GGUF names, with exact shapes for the architectures listed here.

Shapes follow what llama.cpp's converter writes and its loader expects for each architecture. A model read from a GGUF
file has the tensors of its own header instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from advisor.facts.model import ModelFacts, TensorRole, TensorSpec


class Family(NamedTuple):
    """How the blocks of an architecture are built.

    ``norms`` are the weight vectors of the model's width in each block. ``qk_norm`` says whether queries and keys are
    normed by head (``head``), over their whole width (``full``) or not at all; ``fused`` that query, key and value are
    one matrix, and gate and up another.
    """

    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    qk_norm: str | None = None
    fused: bool = False
    norm_bias: bool = False
    output_bias: bool = True  # where attention has biases at all
    shared_gate: bool = False
    oss: bool = False  # gpt-oss: attention sinks, biases on router and experts


_PLAIN: Final = Family()
FAMILIES: Final[dict[str, Family]] = {
    "llama": _PLAIN,
    "mistral3": _PLAIN,
    "granite": _PLAIN,
    "smollm3": _PLAIN,
    "gemma": _PLAIN,
    "internlm2": _PLAIN,
    "qwen2": Family(output_bias=False),
    "qwen2vl": Family(output_bias=False),
    "qwen2moe": Family(output_bias=False, shared_gate=True),
    "qwen3": Family(qk_norm="head"),
    "qwen3vl": Family(qk_norm="head"),
    "qwen3moe": Family(qk_norm="head"),
    "qwen3vlmoe": Family(qk_norm="head"),
    "gemma2": Family(norms=("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")),
    "gemma3": Family(norms=("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), qk_norm="head"),
    "phi3": Family(fused=True),
    "olmo2": Family(norms=("post_attention_norm", "post_ffw_norm"), qk_norm="full"),
    "stablelm": Family(norm_bias=True, output_bias=False),
    "gpt-oss": Family(norms=("attn_norm", "post_attention_norm"), oss=True),
}

# Tables that converters add; they are loaded but are not weights of the model.
_TABLES: Final = re.compile(r"(?:^|\.)(?:rope_freqs|rope_factors_(?:long|short))\.")
_EXPERTS: Final = re.compile(r"_exps\.|\.ffn_(?:gate|up|down)\.\d+\.")
_LAYER: Final = re.compile(r"^blk\.(\d{1,6})\.(.+)$")
_ROLES: Final[dict[str, TensorRole]] = {
    "token_embd": "token_embd",
    "output": "output",
    "attn_q": "attn_q",
    "attn_k": "attn_k",
    "attn_v": "attn_v",
    "attn_qkv": "attn_qkv",
    "attn_output": "attn_output",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
    "ffn_gate_shexp": "ffn_gate",
    "ffn_up_shexp": "ffn_up",
    "ffn_down_shexp": "ffn_down",
    "ffn_gate_exps": "ffn_gate_exps",
    "ffn_up_exps": "ffn_up_exps",
    "ffn_down_exps": "ffn_down_exps",
    "ffn_gate_inp": "ffn_gate_inp",
    "ffn_gate_inp_shexp": "ffn_gate_inp",
}


def role_of(name: str) -> tuple[TensorRole, int | None]:
    """The role and the layer of a tensor by its GGUF name; shared experts have the roles of a dense network."""
    layer: int | None = None
    rest = name
    if found := _LAYER.match(name):
        layer, rest = int(found[1]), found[2]
    base, _, last = rest.rpartition(".")
    if last == "bias":
        return "bias", layer
    if base.endswith("norm"):
        return "norm", layer
    if old := re.fullmatch(r"ffn_(gate|up|down)\.\d+", base):  # one tensor an expert, as early files have it
        return _ROLES[f"ffn_{old[1]}_exps"], layer
    return (_ROLES.get(base, "other") if last == "weight" else "other"), layer


def spec(name: str, shape: tuple[int, ...], gguf_type: str | None = None) -> TensorSpec:
    """A tensor of that name and shape, its role and layer read from the name."""
    role, layer = role_of(name)
    return TensorSpec(name=name, shape=shape, role=role, layer=layer, gguf_type=gguf_type)


def is_table(tensor: TensorSpec) -> bool:
    """Whether the tensor is a table that converters add, not weights of the model."""
    return _TABLES.search(tensor.name) is not None


def count(tensors: Iterable[TensorSpec], experts: int, used: int) -> tuple[int, int]:
    """Number of weights in all, and of those that take part in one token (embeddings included)."""
    total = routed = 0
    for t in tensors:
        if is_table(t):
            continue
        total += t.elements
        if _EXPERTS.search(t.name):
            routed += t.elements
    idle = routed * (experts - used) // experts if experts > used > 0 else 0
    return total, total - idle


def _attention(m: ModelFacts, f: Family, p: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    if f.fused:
        yield f"{p}attn_qkv.weight", (q + 2 * kv, m.hidden)
    else:
        for part, rows in (("q", q), ("k", kv), ("v", kv)):
            yield f"{p}attn_{part}.weight", (rows, m.hidden)
            if m.attention_bias:
                yield f"{p}attn_{part}.bias", (rows,)
    if f.qk_norm == "head":
        yield f"{p}attn_q_norm.weight", (m.head_dim,)
        yield f"{p}attn_k_norm.weight", (m.head_dim,)
    elif f.qk_norm == "full":
        yield f"{p}attn_q_norm.weight", (q,)
        yield f"{p}attn_k_norm.weight", (kv,)
    yield f"{p}attn_output.weight", (m.hidden, q)
    if m.attention_bias and f.output_bias:
        yield f"{p}attn_output.bias", (m.hidden,)
    if f.oss:
        yield f"{p}attn_sinks.weight", (m.heads,)


def _dense(m: ModelFacts, f: Family, p: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if f.fused:
        yield f"{p}ffn_up.weight", (2 * m.intermediate, m.hidden)
        yield f"{p}ffn_down.weight", (m.hidden, m.intermediate)
        return
    for part, rows, columns in (
        ("gate", m.intermediate, m.hidden),
        ("up", m.intermediate, m.hidden),
        ("down", m.hidden, m.intermediate),
    ):
        yield f"{p}ffn_{part}.weight", (rows, columns)
        if m.mlp_bias:
            yield f"{p}ffn_{part}.bias", (rows,)


def _experts(m: ModelFacts, f: Family, p: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = m.expert_intermediate
    yield f"{p}ffn_gate_inp.weight", (m.experts, m.hidden)
    if f.oss:
        yield f"{p}ffn_gate_inp.bias", (m.experts,)
    for part, rows, columns in (("gate", width, m.hidden), ("up", width, m.hidden), ("down", m.hidden, width)):
        yield f"{p}ffn_{part}_exps.weight", (m.experts, rows, columns)
        if f.oss:
            yield f"{p}ffn_{part}_exps.bias", (m.experts, rows)
    if shared := m.shared_expert_intermediate:
        if f.shared_gate:
            yield f"{p}ffn_gate_inp_shexp.weight", (m.hidden,)
        yield f"{p}ffn_gate_shexp.weight", (shared, m.hidden)
        yield f"{p}ffn_up_shexp.weight", (shared, m.hidden)
        yield f"{p}ffn_down_shexp.weight", (m.hidden, shared)


def computed(m: ModelFacts) -> tuple[TensorSpec, ...]:
    """The tensors as they follow from the architecture; of an unknown one, those of a gated network like llama's."""
    f = FAMILIES.get(m.architecture, _PLAIN)
    parts: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (m.vocab, m.hidden))]
    if m.rope_factors:
        names = ("rope_factors_long", "rope_factors_short") if m.architecture == "phi3" else ("rope_freqs",)
        parts += [(f"{name}.weight", (m.rope_factors,)) for name in names]
    for layer in range(m.layers):
        p = f"blk.{layer}."
        for norm in f.norms:
            parts.append((f"{p}{norm}.weight", (m.hidden,)))
            if f.norm_bias:
                parts.append((f"{p}{norm}.bias", (m.hidden,)))
        parts += _attention(m, f, p)
        parts += _experts(m, f, p) if m.experts and layer >= m.dense_layers else _dense(m, f, p)
    parts.append(("output_norm.weight", (m.hidden,)))
    if f.norm_bias:
        parts.append(("output_norm.bias", (m.hidden,)))
    if not m.tie_embeddings:
        parts.append(("output.weight", (m.vocab, m.hidden)))
    return tuple(spec(name, shape) for name, shape in parts)


def tensors(model: ModelFacts) -> tuple[TensorSpec, ...]:
    """All tensors of ``model``: from the GGUF header where its file is at hand, otherwise computed.

    Raises:
        AdvisorError: the file is there but its header cannot be used, or a part of a split file is missing.
    """
    if model.weights_format == "gguf" and model.path and model.path.endswith(".gguf") and Path(model.path).is_file():
        from advisor.model.gguf_facts import load

        return load(Path(model.path)).tensors
    return computed(model)
