"""GGUF files whose tensors of one kind have another type than the file type gives them (``llama-quantize
--tensor-type``): between two file types in size and in what is lost.

Such a mix is written ``q4_k_m:ffn_down=q6_k``: the file type, then names and types as ``--tensor-type`` takes them.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec

from advisor.cost.gguf_file import weight_map
from advisor.cost.gguf_mix import split
from advisor.cost.quality import quality
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Quality
from advisor.facts.quantity import Quantity
from advisor.facts.words import mixed

# File types from few bits to many, each with the next larger one.
LADDER: Final = ("q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0")
# Of each what may have more bits: all of attention, or the second matrix of the feed-forward network, which lose most
# when they have few (llama.cpp gives exactly these more bits in its own medium mixes).
_ATTENTION: Final = ("attn_k", "attn_output", "attn_q", "attn_v")
_TYPES: Final[dict[str, tuple[dict[str, str], dict[str, str]]]] = {
    "q3_k_m": ({"attn_k": "q4_k", "attn_q": "q4_k", "attn_v": "q6_k"}, {"ffn_down": "q5_k"}),
    "q4_k_m": (
        {"attn_k": "q5_k", "attn_output": "q5_k", "attn_q": "q5_k", "attn_v": "q6_k"},
        {"ffn_down": "q6_k"},
    ),
    "q5_k_m": (dict.fromkeys(_ATTENTION, "q6_k"), {"ffn_down": "q6_k"}),
    "q6_k": (dict.fromkeys(_ATTENTION, "q8_0"), {"ffn_down": "q8_0"}),
}


class Mix(NamedTuple):
    """A file type, the types of named tensors, and the bytes of all tensors that are loaded."""

    base: str
    types: tuple[str, ...]
    loaded: int


def raised(model: ModelFacts, tensors: tuple[TensorSpec, ...], base: str, *, imatrix: bool) -> tuple[Mix, ...]:
    """The mixes over ``base``, the largest first; none that is no larger than ``base`` or not smaller than the next
    file type."""
    if base not in _TYPES or not tensors:
        return ()
    attention, down = _TYPES[base]
    least = weight_map(model, tensors, base, imatrix=imatrix).loaded
    most = weight_map(model, tensors, above(base), imatrix=imatrix).loaded
    out = []
    for chosen in ({**attention, **down}, down, attention):
        types = tuple(f"{name}={kind}" for name, kind in sorted(chosen.items()))
        size = weight_map(model, tensors, mixed(base, types), imatrix=imatrix).loaded
        if least < size < most:
            out.append(Mix(base, types, size))
    return tuple(sorted(out, key=lambda m: (-m.loaded, m.types)))


def above(base: str) -> str:
    """The next larger file type.

    Raises:
        ValueError: there is none, or ``base`` is no step of the ladder.
    """
    return LADDER[LADDER.index(base) + 1]


def lost(model: ModelFacts, tensors: tuple[TensorSpec, ...], fmt: str, imatrix: bool, kv_type: str = "f16") -> Quality:
    """What a mix loses: between its file type and the next larger one, by its size; nobody has measured it.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the file type.
    """
    base, _ = split(fmt)
    low = quality(model, "gguf", base, imatrix, kv_type)
    if base not in LADDER[:-1]:
        return low
    high = quality(model, "gguf", above(base), imatrix, kv_type)
    sizes = [weight_map(model, tensors, f, imatrix=imatrix).loaded for f in (base, fmt, above(base))]
    share = min(1.0, max(0.0, (sizes[1] - sizes[0]) / max(1, sizes[2] - sizes[0])))
    source = f"between {base} and {above(base)} by size; no measurement of such a mix was published"

    def between(a: Quantity | None, b: Quantity | None) -> Quantity | None:
        if a is None or b is None:
            return None
        value = math.exp((1 - share) * math.log(max(a.value, 1e-9)) + share * math.log(max(b.value, 1e-9)))
        least, most = min(a.low, b.low), max(a.high, b.high)
        return msgspec.structs.replace(a, value=value, low=least, high=most, method="guess", source=source)

    return Quality(
        kld=between(low.kld, high.kld),
        perplexity_ratio=between(low.perplexity_ratio, high.perplexity_ratio),
        recovery=between(low.recovery, high.recovery),
    )
