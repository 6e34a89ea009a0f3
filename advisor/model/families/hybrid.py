"""Recurrent layers that several families share: Mamba, Mamba-2, gated delta net, and what each keeps of the past.

Shapes are those of llama.cpp's converter: the projection into a Mamba-2 layer holds gate, input, B, C and time step in
one matrix; a gated delta net has query, key and value in ``attn_qkv`` and its output gate in ``attn_gate``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Part, matrix
from advisor.model.fields import MAX_WIDTH, Fields

CONV, INNER, STATE, RANK, GROUPS = (
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
)
NEXTN = "nextn_predict_layers"
ATTENTION = frozenset({"attention", "full_attention", "*"})


def kinds(types: Iterable[str], *, recurrent: str = "recurrent", other: str = "full") -> tuple[str, ...]:
    """A kind a layer: ``other`` where the type is attention, ``recurrent`` elsewhere."""
    return tuple(other if t in ATTENTION else recurrent for t in types)


def recurrent(m: ModelFacts, layer: int) -> bool:
    """Whether the layer keeps a state of fixed size and nothing else."""
    return layer < len(m.layer_kinds) and m.layer_kinds[layer] == "recurrent"


def steps(f: Fields, hidden: int, *names: str) -> int:
    """The rank of the time step; ``auto`` and absence mean a sixteenth of the model's width, rounded up."""
    if any(f.raw.get(name) == "auto" for name in names):
        return -(-hidden // 16)
    return f.whole(*names, high=MAX_WIDTH) or -(-hidden // 16)


def mamba(m: ModelFacts, p: str, *, norms: bool = False) -> Iterator[Part]:
    """A Mamba layer (state matrix a row for each inner channel); ``norms``: time step, B and C are normed."""
    w = m.widths
    inner, state, rank = w[INNER], w[STATE], w[RANK]
    yield f"{p}ssm_in.weight", (2 * inner, m.hidden)
    yield f"{p}ssm_conv1d.weight", (inner, w[CONV])
    yield f"{p}ssm_conv1d.bias", (inner,)
    yield f"{p}ssm_x.weight", (rank + 2 * state, inner)
    if norms:
        yield f"{p}ssm_dt_norm.weight", (rank,)
        yield f"{p}ssm_b_norm.weight", (state,)
        yield f"{p}ssm_c_norm.weight", (state,)
    yield f"{p}ssm_dt.weight", (inner, rank)
    yield f"{p}ssm_dt.bias", (inner,)
    yield f"{p}ssm_a", (inner, state)
    yield f"{p}ssm_d", (inner,)
    yield f"{p}ssm_out.weight", (m.hidden, inner)


def mamba2(m: ModelFacts, p: str, *, norm: bool = True, conv_bias: bool = True) -> Iterator[Part]:
    """A Mamba-2 layer (one state factor a head)."""
    w = m.widths
    inner, heads, groups = w[INNER], w[RANK], w[GROUPS]
    channels = inner + 2 * groups * w[STATE]
    yield f"{p}ssm_in.weight", (inner + channels + heads, m.hidden)
    yield f"{p}ssm_conv1d.weight", (channels, w[CONV])
    if conv_bias:
        yield f"{p}ssm_conv1d.bias", (channels,)
    yield f"{p}ssm_dt.bias", (heads,)
    yield f"{p}ssm_a", (heads, 1)
    yield f"{p}ssm_d", (heads, 1)
    if norm:
        yield f"{p}ssm_norm.weight", (groups, inner // groups)
    yield f"{p}ssm_out.weight", (m.hidden, inner)


def delta_net(m: ModelFacts, p: str, *, fused: bool) -> Iterator[Part]:
    """A gated delta net; ``fused``: the factors of forgetting and writing come from one matrix."""
    w = m.widths
    heads, value = w[RANK], w[INNER]
    channels = 2 * w[GROUPS] * w[STATE] + value
    yield from matrix(p, "attn_qkv", channels, m.hidden)
    yield from matrix(p, "attn_gate", value, m.hidden)
    yield f"{p}ssm_conv1d.weight", (channels, w[CONV])
    yield f"{p}ssm_dt.bias", (heads,)
    yield f"{p}ssm_a", (heads,)
    if fused:
        yield from matrix(p, "ssm_ba", 2 * heads, m.hidden)
    else:
        yield from matrix(p, "ssm_beta", heads, m.hidden)
        yield from matrix(p, "ssm_alpha", heads, m.hidden)
    yield f"{p}ssm_norm.weight", (w[STATE],)
    yield from matrix(p, "ssm_out", m.hidden, value)
