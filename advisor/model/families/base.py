"""What a family of architectures offers, and the parts that blocks of most architectures are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from advisor.facts.model import ModelFacts
from advisor.model.fields import Fields

# Name and shape of a tensor as GGUF has it; the shape is (rows, columns), of experts (experts, rows, columns).
Part = tuple[str, tuple[int, ...]]


def no_change(raw: dict[str, Any]) -> None:
    """A configuration that is in the usual terms."""


def nothing(m: ModelFacts) -> Iterator[Part]:
    """No tensors besides embedding, blocks, output norm and output."""
    yield from ()


class Family(NamedTuple):
    """How a group of architectures is read and built.

    ``read(f, m)``: further ``ModelFacts`` fields of a configuration, where ``m`` holds what was read in the usual terms
    (without ``params``). ``blocks(m, layer)``: the tensors of one layer, exactly those that llama.cpp's converter
    writes, named ``blk.LAYER.*``. ``outside(m)``: tensors outside the layers besides ``token_embd.weight``,
    ``output_norm.weight`` and ``output.weight``. ``prepare(raw)``: put a copy of the configuration into the usual terms
    before it is read (fill in defaults, rename keys). ``last_norm``: what the norm before the output is called.
    """

    read: Callable[[Fields, ModelFacts], dict[str, Any]]
    blocks: Callable[[ModelFacts, int], Iterator[Part]]
    outside: Callable[[ModelFacts], Iterator[Part]] = nothing
    prepare: Callable[[dict[str, Any]], None] = no_change
    last_norm: str = "output_norm"


def normed(p: str, name: str, width: int, *, bias: bool = False) -> Iterator[Part]:
    """A norm's weight, and bias where it has one."""
    yield f"{p}{name}.weight", (width,)
    if bias:
        yield f"{p}{name}.bias", (width,)


def matrix(p: str, name: str, rows: int, columns: int, *, bias: bool = False) -> Iterator[Part]:
    """A matrix, and its bias where it has one."""
    yield f"{p}{name}.weight", (rows, columns)
    if bias:
        yield f"{p}{name}.bias", (rows,)


def attention(
    m: ModelFacts,
    p: str,
    *,
    bias: bool = False,
    output_bias: bool = False,
    kv_heads: int | None = None,
    head_dim: int | None = None,
) -> Iterator[Part]:
    """Query, key, value and output of grouped attention."""
    dim = head_dim or m.head_dim
    q, kv = m.heads * dim, (kv_heads or m.kv_heads) * dim
    for part, rows in (("q", q), ("k", kv), ("v", kv)):
        yield from matrix(p, f"attn_{part}", rows, m.hidden, bias=bias)
    yield from matrix(p, "attn_output", m.hidden, q, bias=output_bias)


def gated(m: ModelFacts, p: str, *, width: int | None = None, bias: bool = False, suffix: str = "") -> Iterator[Part]:
    """A gated feed-forward network; ``suffix`` ``_shexp`` for experts that every token uses."""
    inner = width or m.intermediate
    yield from matrix(p, f"ffn_gate{suffix}", inner, m.hidden, bias=bias)
    yield from matrix(p, f"ffn_up{suffix}", inner, m.hidden, bias=bias)
    yield from matrix(p, f"ffn_down{suffix}", m.hidden, inner, bias=bias)


def experts(m: ModelFacts, p: str, *, probs_bias: bool = False) -> Iterator[Part]:
    """Router, routed experts and the shared one; ``probs_bias``: a correction of the router's choice by expert."""
    width = m.expert_intermediate
    yield f"{p}ffn_gate_inp.weight", (m.experts, m.hidden)
    if probs_bias:
        yield f"{p}exp_probs_b.bias", (m.experts,)
    yield f"{p}ffn_gate_exps.weight", (m.experts, width, m.hidden)
    yield f"{p}ffn_up_exps.weight", (m.experts, width, m.hidden)
    yield f"{p}ffn_down_exps.weight", (m.experts, m.hidden, width)
    if m.shared_expert_intermediate:
        yield from gated(m, p, width=m.shared_expert_intermediate, suffix="_shexp")


def prediction(m: ModelFacts, p: str, *, copies: bool = False) -> Iterator[Part]:
    """What a layer that predicts a further token has besides a layer's own; ``copies`` of embedding and output too."""
    yield f"{p}nextn.eh_proj.weight", (m.hidden, 2 * m.hidden)
    yield f"{p}nextn.enorm.weight", (m.hidden,)
    yield f"{p}nextn.hnorm.weight", (m.hidden,)
    yield f"{p}nextn.shared_head_norm.weight", (m.hidden,)
    if copies:
        yield f"{p}nextn.embed_tokens.weight", (m.vocab, m.hidden)
        yield f"{p}nextn.shared_head_head.weight", (m.vocab, m.hidden)
