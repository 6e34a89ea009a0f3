"""Gemma 3n: several streams of hidden states (AltUp), low-rank detours (LAuReL), an embedding for every layer, and last
layers that use the cache of earlier ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from advisor.facts.model import ModelFacts
from advisor.model.families.base import Family, Part, attention, gated
from advisor.model.fields import MAX_LAYERS, MAX_WIDTH, Fields

_OWN: Final = 20  # layers with a cache of their own, whatever the file says: llama.cpp's gemma3n
_STREAMS: Final = "altup.num_inputs"
_PER_LAYER: Final = "embedding_length_per_layer_input"
_RANK: Final = "laurel_rank"
_MAX_STREAMS: Final = 64


def prepare(raw: dict[str, Any]) -> None:
    """The width of the feed-forward network is given for each layer, and is the same in all of them."""
    width = raw.get("intermediate_size")
    if isinstance(width, list) and width and all(v == width[0] for v in width):
        raw["intermediate_size"] = width[0]


def read(f: Fields, m: ModelFacts) -> dict[str, Any]:
    """Streams, ranks, and which layers have a window, the whole context, or no cache of their own."""
    shared = f.whole("num_kv_shared_layers", low=0, high=MAX_LAYERS)
    types = f.words("layer_types", m.layers) or tuple(
        "full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(m.layers)
    )
    own = min(_OWN, m.layers)
    kinds = ["window" if t == "sliding_attention" else "full" for t in types]
    return {
        "qk_norm": True,
        "layer_kinds": (*kinds[:own], *("none",) * (m.layers - own)),
        "widths": {
            _STREAMS: f.whole("altup_num_inputs", high=_MAX_STREAMS) or 4,
            _PER_LAYER: f.whole("hidden_size_per_layer_input", high=MAX_WIDTH) or 256,
            _RANK: f.whole(_RANK, high=MAX_WIDTH) or 64,
            "attention.shared_kv_layers": 15 if shared is None else min(shared, m.layers),
        },
    }


def _sizes(m: ModelFacts) -> tuple[int, int, int]:
    """Streams, width of embeddings by layer, rank of detours."""
    return m.widths.get(_STREAMS, 4), m.widths.get(_PER_LAYER, 256), m.widths.get(_RANK, 64)


def blocks(m: ModelFacts, layer: int) -> Iterator[Part]:
    """The tensors of one layer; those without a cache of their own have keys and values all the same."""
    p, (n, e, r) = f"blk.{layer}.", _sizes(m)
    yield f"{p}attn_norm.weight", (m.hidden,)
    yield from attention(m, p)
    yield f"{p}attn_q_norm.weight", (m.head_dim,)
    yield f"{p}attn_k_norm.weight", (m.head_dim,)
    yield f"{p}post_attention_norm.weight", (m.hidden,)
    yield f"{p}ffn_norm.weight", (m.hidden,)
    yield from gated(m, p)
    yield f"{p}post_ffw_norm.weight", (m.hidden,)
    yield f"{p}inp_gate.weight", (e, m.hidden)
    yield f"{p}proj.weight", (m.hidden, e)
    yield f"{p}post_norm.weight", (m.hidden,)
    yield f"{p}altup_correct_coef.weight", (n, n)
    yield f"{p}altup_correct_scale.weight", (m.hidden,)
    yield f"{p}altup_predict_coef.weight", (n * n, n)
    yield f"{p}altup_router.weight", (n, m.hidden)
    yield f"{p}altup_router_norm.weight", (m.hidden,)
    yield f"{p}laurel_l.weight", (r, m.hidden)
    yield f"{p}laurel_r.weight", (m.hidden, r)
    yield f"{p}laurel_post_norm.weight", (m.hidden,)


def outside(m: ModelFacts) -> Iterator[Part]:
    """The embedding of every layer, and how the streams are joined."""
    n, e, _ = _sizes(m)
    yield "per_layer_token_embd.weight", (m.vocab, e * m.layers)
    yield "per_layer_model_proj.weight", (e * m.layers, m.hidden)
    yield "per_layer_proj_norm.weight", (e,)
    if n > 1:
        yield "altup_proj.weight", (n - 1, m.hidden, m.hidden)
        yield "altup_unembd_proj.weight", (n - 1, m.hidden, m.hidden)


FAMILY: Final = Family(read=read, blocks=blocks, outside=outside, prepare=prepare)
