"""Which type llama.cpp's quantizer gives each tensor of a file type, before anything is quantized.

The rules restate the behaviour of ``llama-quantize`` (llama.cpp, src/llama-quant.cpp, builds of 2026); tests hold every
file type against the quantizer itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from advisor.cost import gguf_rules as rules
from advisor.cost.gguf_rules import DEFAULTS as DEFAULTS
from advisor.cost.gguf_rules import EVERY as EVERY
from advisor.cost.gguf_rules import Shape
from advisor.cost.gguf_rules import more_bits as more_bits
from advisor.cost.gguf_types import BLOCKS
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.model import ModelFacts, TensorSpec

# what is taken where a row does not hold whole blocks of the wanted type
SMALLER_BLOCKS: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"),
        "iq4_nl",
    ),
    **dict.fromkeys(("q2_k", "q3_k", "q2_0", "tq1_0", "tq2_0"), "q4_0"),
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
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_RWKV: Final = re.compile(r"time_mix_(?:[wvag][012]|decay_w[12])\.weight")
_WHOLE_KEPT: Final = ("position_embd.weight", "token_types.weight")
# Files of these list the key/value heads by layer, and the quantizer asks the first layer: it has none where that layer
# keeps a state instead of keys.
_HEADS_BY_LAYER: Final = frozenset(
    ("granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2")
)
_LAYER: Final = re.compile(r"^blk\.(\d+)\.")


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


def split(fmt: str) -> tuple[str, tuple[tuple[re.Pattern[str], str], ...]]:
    """The file type of ``q4_k_m:ffn_down=q6_k``, and of each name that has a type of its own the pattern, as
    ``llama-quantize --tensor-type`` takes it: a regular expression that is found in a tensor's name.

    Raises:
        AdvisorError: ``bad-option`` for an unknown type, or what is no pattern.
    """
    base, _, own = fmt.partition(":")
    out = []
    for part in own.split(",") if own else ():
        name, _, kind = part.partition("=")
        if kind not in BLOCKS or not name:
            raise AdvisorError(
                "bad-option",
                f'"{part}" does not name tensors and their type.{did_you_mean(kind, list(BLOCKS))}',
                hint="advisor up MODEL --format q4_k_m",
            )
        out.append((_pattern(name), kind))
    return base, tuple(out)


@lru_cache(maxsize=64)
def _pattern(name: str) -> re.Pattern[str]:
    try:
        return re.compile(name)
    except re.error as e:
        raise AdvisorError(
            "bad-option", f'"{name}" is no regular expression: {e}.', hint="advisor up MODEL --format q4_k_m"
        ) from e


def imatrix_need(fmt: str) -> Literal["required", "recommended", "none"]:
    """Whether a file type wants an importance matrix.

    The quantizer refuses ``iq1`` and ``iq2`` types, ``iq3_xxs``, ``iq3_xs`` (and ``q2_k_s``) without one. Below five
    bits a matrix lowers the loss measurably (Llama-3-8B, mean KL divergence: Q2_K .445 to .332, Q3_K_M .102 to .084,
    Q4_K_M .031 to .028; llama.cpp tools/perplexity/README.md).
    """
    if fmt.startswith(("iq1", "iq2", "iq3_x")) or fmt == "q2_k_s":
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


def _kept(t: TensorSpec) -> bool:
    name = t.name
    if not any(d > 1 for d in t.shape[:-1]):  # the engine counts (1, n) as one-dimensional
        return True
    if not name.endswith("weight") or name in _WHOLE_KEPT:
        return True
    return any(part in name for part in _KEPT) or _KEPT_RWKV.search(name) is not None


def quantized(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Those that the quantizer quantizes; norms, routers and the like keep their type whatever is asked."""
    return tuple(t for t in tensors if not _kept(t))


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


def _shape(model: ModelFacts, rows: Sequence[_Row]) -> Shape:
    values = sum(r.category == "attn_v" for r in rows)
    top = max((r.tensor.layer for r in rows if r.tensor.layer is not None), default=model.layers - 1)
    layers = max(model.layers, top + 1)
    # Only these two architectures have a "70B" of 80 layers in the engine's own table.
    big = layers == 80 and (
        model.architecture in ("qwen2", "deci") or (model.architecture == "llama" and model.gqa > 1)
    )
    stateful = model.layer_kinds[:1] in (("recurrent",), ("none",)) and model.architecture in _HEADS_BY_LAYER
    return Shape(
        arch=model.architecture,
        gqa=0 if stateful else model.gqa,
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
        fmt: a file type in lower case, a key of ``EVERY``, perhaps with types of named tensors (``split``).
        imatrix: an importance matrix will be used (it changes a few types of IQ3_XXS, IQ4, Q4_0 and Q5_0 files).

    Raises:
        AdvisorError: ``bad-option`` for an unknown file type.
    """
    fmt, own = split(fmt)
    default = EVERY.get(fmt)
    if default is None:
        raise AdvisorError(
            "bad-option",
            f'"{fmt}" is not a GGUF file type.{did_you_mean(fmt, list(EVERY))}',
            hint="advisor recommend MODEL --method gguf",
        )
    rows = _rows(tensors)
    s = _shape(model, rows)
    block = BLOCKS[default][0]
    out: dict[int, Assigned] = {}
    seen = {"attn_v": 0, "ffn_down": 0, "ffn_up": 0, "ffn_gate": 0}
    for index, t, kept, what, width in rows:
        if kept:
            kind = t.gguf_type if t.gguf_type in _PLAIN else "f32"
            out[index] = Assigned(t, kind or "f32", kind or "f32", False)
            continue
        if default in _PLAIN:
            out[index] = Assigned(t, default, default, False)
            continue
        named = next((kind for pattern, kind in own if pattern.search(t.name)), None)
        if named is not None:  # the quantizer's own rules neither see nor count it
            kind = _fit(named, width)
            out[index] = Assigned(t, kind, named, kind != named)
            continue
        counted = seen.get(what, 0)
        if what in seen:
            seen[what] += 1
        # With experts the layer is read from the name; the smallest types count tensors all the same.
        place = (t.layer or 0) if s.experts > 1 and not fmt.startswith(("iq1", "iq2")) else counted
        wanted = promised = default
        if what == "output" or (what == "token_embd" and s.tied):
            wanted = rules.output(fmt, block, width, s)
            # Narrower than the block it skips the usual type altogether; the name still promised it.
            promised = rules.output(fmt, block, 0, s) if width % block else wanted
        elif fmt == "mxfp4":  # of experts; what every token reads has eight bits
            wanted = promised = "mxfp4" if len(t.shape) == 3 and t.shape[0] > 1 else "q8_0"
        elif what == "token_embd":
            wanted = promised = rules.embedding(fmt, default)
        elif what == "attn_v":
            wanted = promised = rules.value(fmt, default, counted, s, imatrix)
        elif what in ("attn_k", "attn_q"):
            wanted = promised = rules.key_or_query(fmt, default, what, s)
        elif what == "ffn_down":
            wanted = promised = rules.down(fmt, default, place, s, imatrix)
        elif what in ("ffn_up", "ffn_gate"):
            wanted = promised = rules.up_or_gate(fmt, default, place, s)
        elif what == "attn_output":
            wanted = promised = rules.attention_output(fmt, default, s)
        kind = _fit(wanted, width)
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
