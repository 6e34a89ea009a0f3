"""The quantizer's rules: which type a tensor of a category gets in a file type, before its width is looked at.

They restate the behaviour of ``llama-quantize`` (llama.cpp, src/llama-quant.cpp, builds of 2026).
"""

from __future__ import annotations

from typing import Final, NamedTuple

# File types that advisor makes -> the type a tensor gets where no rule says otherwise.
DEFAULTS: Final[dict[str, str]] = {
    "q2_k": "q2_k",
    "q3_k_s": "q3_k",
    "q3_k_m": "q3_k",
    "q3_k_l": "q3_k",
    "mxfp4": "mxfp4",
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
# File types that others make: advisor sizes and serves them.
OTHERS: Final[dict[str, str]] = {
    "iq1_s": "iq1_s",
    "iq1_m": "iq1_m",
    "iq2_xxs": "iq2_xxs",
    "iq2_xs": "iq2_xs",
    "iq2_s": "iq2_xs",
    "iq2_m": "iq2_s",
    "iq3_xxs": "iq3_xxs",
    "iq3_xs": "iq3_s",
    "iq3_s": "iq3_s",
    "iq3_m": "iq3_s",
    "q2_k_s": "q2_k",
    "tq1_0": "tq1_0",
    "tq2_0": "tq2_0",
    "q1_0": "q1_0",
    "q2_0": "q2_0",
    "nvfp4": "nvfp4",
    "f32": "f32",
}
EVERY: Final[dict[str, str]] = DEFAULTS | OTHERS

_MIXED: Final = frozenset(("q4_k_m", "q5_k_m"))
_IQ4: Final = frozenset(("iq4_nl", "iq4_xs"))
# The rules of the smallest types share nothing with the others'. Of the two groups, the second has more bits.
_TINY: Final = frozenset(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"))
_SMALL: Final = frozenset(("iq2_s", "iq2_m"))
_TERNARY: Final = frozenset(("tq1_0", "tq2_0", "q2_0"))
_OUTPUT_Q5: Final = _TINY | _SMALL | {"iq3_xxs"}
_EIGHT_EXPERTS_Q5: Final = frozenset(
    ("q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs")
)


class Shape(NamedTuple):
    """What the rules ask of a model. ``big``: what the engine calls 70B; ``values``: tensors that count as values."""

    arch: str
    gqa: int
    experts: int
    big: bool
    tied: bool
    layers: int
    values: int


def more_bits(i: int, n: int) -> bool:
    """Whether layer ``i`` of ``n`` is one of those that the medium mixes give more bits."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def output(fmt: str, block: int, width: int, s: Shape) -> str:
    """The output matrix, or a tied embedding. ``block``: weights in a block of the file type's own type."""
    if fmt == "mxfp4" or s.arch == "falcon" or width % block or fmt == "q8_0":
        return "q8_0"
    return "q5_k" if fmt in _OUTPUT_Q5 else "q6_k"


def embedding(fmt: str, default: str) -> str:
    """A token embedding that is not the output matrix."""
    if fmt in _TINY:
        return "q2_k"
    if fmt in _SMALL or fmt == "iq3_xxs":
        return "iq3_s"
    return "q4_k" if fmt in _TERNARY else default


def value(fmt: str, default: str, i: int, s: Shape, imatrix: bool) -> str:
    """The ``i``-th value matrix; a fused one of query, key and value counts as one."""
    if fmt in _TINY | _SMALL:
        if s.gqa >= 4 or s.experts >= 4:
            return "q4_k"
        return "iq3_s" if fmt in _SMALL else "q2_k"
    kind = default
    if fmt == "q2_k":
        kind = "q4_k" if s.gqa >= 4 else "q3_k"
    elif fmt == "iq3_xxs":
        kind = "q4_k" if s.gqa >= 4 else ("iq3_xxs" if imatrix else "iq3_s")
    elif fmt in ("q2_k_s", "iq3_xs", "iq3_s"):
        kind = "q4_k" if s.gqa >= 4 else default
    elif fmt == "iq3_m":
        kind = "q4_k"
    elif fmt == "q3_k_m":
        kind = "q5_k" if i < 2 else "q4_k"
    elif fmt == "q3_k_l" or (fmt in _IQ4 and s.gqa >= 4):
        kind = "q5_k"
    elif fmt in _MIXED and more_bits(i, s.values):
        kind = "q6_k"
    elif fmt == "q4_k_s" and i < 4:
        kind = "q5_k"
    if s.big and kind in ("q3_k", "q4_k"):
        kind = "q5_k"
    return "q8_0" if s.experts == 8 else kind


def key_or_query(fmt: str, default: str, what: str, s: Shape) -> str:
    """A key matrix (``what`` is ``attn_k``) or a query matrix."""
    if what == "attn_k" and s.experts == 8:
        return "q4_k" if fmt in _TINY | _SMALL else "q8_0"
    return {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}.get(fmt, default)


def down(fmt: str, default: str, i: int, s: Shape, imatrix: bool) -> str:
    """The second matrix of a feed-forward network, of layer ``i``."""
    n, falcon = s.layers, s.arch == "falcon"
    early = i < n // 8
    if fmt in _TINY | _SMALL:
        return ("iq3_s" if fmt in _SMALL else "q2_k") if early else default
    if fmt == "q2_k":
        return "q3_k"
    if fmt == "q2_k_s":
        return "q4_k" if early else default
    if fmt == "iq3_xxs" and not imatrix:
        return "q4_k" if early else "q3_k"
    if fmt == "iq3_m":
        return "q4_k" if early or (s.experts == 8 and more_bits(i, n)) else default
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
    if early and ((fmt in _IQ4 and not imatrix) or (fmt == "q4_k_s" and not falcon)):
        return "q5_k"
    if early and imatrix and fmt in ("q4_0", "q5_0"):
        return "q4_1" if fmt == "q4_0" else "q5_1"
    return default


def up_or_gate(fmt: str, default: str, i: int, s: Shape) -> str:
    """The first matrices of a feed-forward network, of layer ``i``."""
    return "iq3_xxs" if fmt == "iq3_xs" and s.layers // 8 <= i < 7 * s.layers // 8 else default


def attention_output(fmt: str, default: str, s: Shape) -> str:
    """The matrix after attention."""
    if fmt in _TINY | _SMALL:
        if s.experts == 8:
            return "q5_k"
        return "iq3_s" if fmt in _SMALL else ("iq2_xxs" if fmt in ("iq1_s", "iq1_m") else default)
    if s.arch == "falcon":
        return "q4_k" if fmt == "q3_k_l" else default
    if s.experts == 8:
        return "q5_k" if fmt in _EIGHT_EXPERTS_Q5 else default
    table = {"q2_k": "q3_k", "iq3_xxs": "iq3_s", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}
    return table.get(fmt, default)
