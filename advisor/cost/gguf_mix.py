"""Which type llama.cpp's quantizer gives each tensor of a file type, before anything is quantized.

The rules restate the behaviour of ``llama-quantize`` (llama.cpp, src/llama-quant.cpp, builds of 2026); tests hold every
file type against the quantizer itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from advisor.cost.gguf_types import BLOCKS
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.model import ModelFacts, TensorSpec

# file type -> the type a tensor gets where no rule says otherwise
DEFAULTS: Final[dict[str, str]] = {
    "q2_k": "q2_k",
    "q3_k_s": "q3_k",
    "q3_k_m": "q3_k",
    "q3_k_l": "q3_k",
    "iq4_xs": "iq4_xs",
    "iq4_nl": "iq4_nl",
    "q4_0": "q4_0",
    "q4_1": "q4_1",
    "q4_k_s": "q4_k",
    "q4_k_m": "q4_k",
    "q5_0": "q5_0",
    "q5_1": "q5_1",
    "q5_k_s": "q5_k",
    "q5_k_m": "q5_k",
    "q6_k": "q6_k",
    "q8_0": "q8_0",
    "f16": "f16",
    "bf16": "bf16",
}
# what is taken where a row does not hold whole blocks of the wanted type
SMALLER_BLOCKS: Final[dict[str, str]] = {
    "iq4_xs": "iq4_nl",
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}
_PLAIN: Final = ("f32", "f16", "bf16")
_KEPT: Final = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_lerp_fused.weight",
    ".position_embd",
    ".patch_embd",
)
_KEPT_RWKV: Final = re.compile(r"time_mix_(?:[wvag][012]|decay_w[12])\.weight")
_WHOLE_KEPT: Final = ("position_embd.weight", "token_types.weight")
_LAYER: Final = re.compile(r"^blk\.(\d+)\.")
_MIXED: Final = frozenset(("q4_k_m", "q5_k_m"))


class Assigned(NamedTuple):
    """A tensor, the type it gets, the type the file type asks for, and whether they differ because of the row width."""

    tensor: TensorSpec
    type: str
    wanted: str
    fallback: bool


class _Row(NamedTuple):
    """A tensor in the quantizer's order: where it stands in the model's own order, and what rules ask of it."""

    at: int
    tensor: TensorSpec
    kept: bool
    category: str
    width: int


class _Shape(NamedTuple):
    arch: str
    gqa: int
    experts: int
    big: bool
    tied: bool
    layers: int
    values: int


def imatrix_need(fmt: str) -> Literal["required", "recommended", "none"]:
    """Whether a file type wants an importance matrix.

    The quantizer refuses ``iq1``, ``iq2`` and ``iq3_xxs`` types (and ``q2_k_s``) without one. Below five bits a matrix
    lowers the loss measurably (Llama-3-8B, mean KL divergence: Q2_K .445 to .332, Q3_K_M .102 to .084, Q4_K_M .031 to
    .028; llama.cpp tools/perplexity/README.md).
    """
    if fmt.startswith(("iq1", "iq2", "iq3_xxs")) or fmt == "q2_k_s":
        return "required"
    if fmt.startswith(("q2", "q3", "q4", "iq3", "iq4")):
        return "recommended"
    return "none"


def makes_imatrix(fmt: str) -> bool:
    """Whether advisor makes an importance matrix for a file type when nobody says: where it is required, and below
    four bits or for IQ types, where it gains much. K types of four bits and more gain little and the guide makes them
    without one.
    """
    need = imatrix_need(fmt)
    return need == "required" or (need == "recommended" and not fmt.startswith("q4"))


def more_bits(i: int, n: int) -> bool:
    """Whether layer ``i`` of ``n`` is one of those that the medium mixes give more bits."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _kept(t: TensorSpec) -> bool:
    name = t.name
    if not any(d > 1 for d in t.shape[:-1]):  # the engine counts (1, n) as one-dimensional
        return True
    if not name.endswith("weight") or name in _WHOLE_KEPT:
        return True
    return any(part in name for part in _KEPT) or _KEPT_RWKV.search(name) is not None


def category(name: str) -> str:
    """The quantizer's broad category of a tensor name; ``other`` where no rule looks at it."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "token_embd"
    for part in ("attn_qkv", "attn_kv_b", "attn_v"):
        if f"{part}.weight" in name:
            return "attn_v"
    for part in ("attn_k", "attn_q", "attn_output"):
        if f"{part}.weight" in name:
            return part
    for part in ("ffn_up", "ffn_gate", "ffn_down"):
        if part in name:
            return part
    return "other"


def _value(fmt: str, default: str, i: int, s: _Shape) -> str:
    kind = default
    if fmt == "q2_k":
        kind = "q4_k" if s.gqa >= 4 else "q3_k"
    elif fmt == "q3_k_m":
        kind = "q5_k" if i < 2 else "q4_k"
    elif fmt == "q3_k_l" or (fmt in ("iq4_nl", "iq4_xs") and s.gqa >= 4):
        kind = "q5_k"
    elif fmt in _MIXED and more_bits(i, s.values):
        kind = "q6_k"
    elif fmt == "q4_k_s" and i < 4:
        kind = "q5_k"
    if s.big and kind in ("q3_k", "q4_k"):
        kind = "q5_k"
    return "q8_0" if s.experts == 8 else kind


def _down(fmt: str, default: str, i: int, s: _Shape, imatrix: bool) -> str:
    n, falcon = s.layers, s.arch == "falcon"
    early = i < n // 8
    if fmt == "q2_k":
        return "q3_k"
    if fmt == "q3_k_m":
        if i < n // 16:
            return "q5_k"
        return "q4_k" if not falcon or more_bits(i, n) else "q3_k"
    if fmt == "q3_k_l":
        return "q4_k" if falcon else "q5_k"
    if fmt == "q4_k_m" and falcon:
        return "q6_k" if i < n // 16 else ("q5_k" if more_bits(i, n) else "q4_k")
    if fmt in _MIXED and more_bits(i, n):
        return "q6_k"
    if early and ((fmt in ("iq4_nl", "iq4_xs") and not imatrix) or (fmt == "q4_k_s" and not falcon)):
        return "q5_k"
    if early and imatrix and fmt in ("q4_0", "q5_0"):
        return "q4_1" if fmt == "q4_0" else "q5_1"
    return default


def _attn_output(fmt: str, default: str, s: _Shape) -> str:
    if s.arch == "falcon":
        return "q4_k" if fmt == "q3_k_l" else default
    if s.experts == 8:
        five = ("q2_k", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq4_xs")
        return "q5_k" if fmt in five else default
    return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(fmt, default)


_ROWS: Final[dict[int, tuple[Sequence[TensorSpec], tuple[_Row, ...]]]] = {}


def _rows(tensors: Sequence[TensorSpec]) -> tuple[_Row, ...]:
    """The tensors in the order in which the quantizer visits them: by layer, then by name. Kept for the last models."""
    found = _ROWS.get(id(tensors))
    if found is not None and found[0] is tensors:
        return found[1]

    def key(row: _Row) -> tuple[int, str]:
        at = _LAYER.match(row.tensor.name)
        return (int(at[1]) if at else -1, row.tensor.name)

    rows = (_Row(i, t, _kept(t), category(t.name), t.width) for i, t in enumerate(tensors))
    built = tuple(sorted(rows, key=key))
    if len(_ROWS) >= 16:
        _ROWS.clear()
    _ROWS[id(tensors)] = (tensors, built)
    return built


def _shape(model: ModelFacts, rows: Sequence[_Row]) -> _Shape:
    values = sum(r.category == "attn_v" for r in rows)
    top = max((r.tensor.layer for r in rows if r.tensor.layer is not None), default=model.layers - 1)
    layers = max(model.layers, top + 1)
    # Only these two architectures have a "70B" of 80 layers in the engine's own table.
    big = layers == 80 and (
        model.architecture in ("qwen2", "deci") or (model.architecture == "llama" and model.gqa > 1)
    )
    return _Shape(
        arch=model.architecture,
        gqa=model.gqa,
        experts=model.experts,
        big=big,
        tied=all(r.category != "output" for r in rows),
        layers=layers,
        values=values,
    )


def _fit(wanted: str, width: int) -> str:
    if width % BLOCKS[wanted][0] == 0:
        return wanted
    smaller = SMALLER_BLOCKS.get(wanted, wanted)
    return smaller if width % BLOCKS[smaller][0] == 0 else "f16"


def assign(model: ModelFacts, tensors: Sequence[TensorSpec], fmt: str, *, imatrix: bool) -> tuple[Assigned, ...]:
    """The type of every tensor in a file of type ``fmt``, in the order of ``tensors``.

    Args:
        model: architecture, heads, experts and layers decide some types.
        tensors: under their GGUF names.
        fmt: a file type in lower case, a key of ``DEFAULTS``.
        imatrix: an importance matrix will be used (it changes a few types of IQ4, Q4_0 and Q5_0 files).

    Raises:
        AdvisorError: ``bad-option`` for an unknown file type.
    """
    default = DEFAULTS.get(fmt)
    if default is None:
        raise AdvisorError(
            "bad-option",
            f'"{fmt}" is not a GGUF file type that advisor can make.{did_you_mean(fmt, list(DEFAULTS))}',
            hint="advisor recommend MODEL --method gguf",
        )
    rows = _rows(tensors)
    s = _shape(model, rows)
    out: dict[int, Assigned] = {}
    values = downs = 0
    by_layer = s.experts > 1
    for index, t, kept, what, width in rows:
        if kept:
            kind = t.gguf_type if t.gguf_type in _PLAIN else "f32"
            out[index] = Assigned(t, kind or "f32", kind or "f32", False)
            continue
        if default in _PLAIN:
            out[index] = Assigned(t, default, default, False)
            continue
        wanted = default
        if what == "output" or (what == "token_embd" and s.tied):
            block = BLOCKS[default][0]
            if s.arch == "falcon" or width % block or default == "q8_0":
                wanted = "q8_0"
            else:
                wanted = "q6_k"
        elif what == "attn_v":
            wanted = _value(fmt, default, values, s)
            values += 1
        elif what == "attn_k":
            wanted = "q8_0" if s.experts == 8 else default
        elif what == "ffn_down":
            wanted = _down(fmt, default, t.layer or 0 if by_layer else downs, s, imatrix)
            downs += 1
        elif what == "attn_output":
            wanted = _attn_output(fmt, default, s)
        kind = _fit(wanted, width)
        # A tied or output matrix narrower than the block skips the usual type altogether; the name still promised it.
        promised = "q6_k" if wanted == "q8_0" and what in ("output", "token_embd") and default != "q8_0" else wanted
        out[index] = Assigned(t, kind, promised, kind != promised)
    return tuple(out[i] for i in range(len(tensors)))


def fallbacks(assigned: Sequence[Assigned]) -> dict[str, int]:
    """How many tensors got another type than wanted because of their width: ``{"q4_k->q5_0": 166}``."""
    out: dict[str, int] = {}
    for a in assigned:
        if a.fallback:
            key = f"{a.wanted}->{a.type}"
            out[key] = out.get(key, 0) + 1
    return dict(sorted(out.items()))
