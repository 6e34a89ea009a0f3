"""What each method of making a checkpoint takes: libraries, bits, options, calibration; every value with its source."""

from __future__ import annotations

from typing import Final, NamedTuple


class Method(NamedTuple):
    """What a method takes. ``quantizers``: libraries, the usual one first; ``bits``: of a weight, the usual ones first.

    ``options``: those of ``RecipeOptions`` that mean something to it. ``samples`` and ``length``: calibration, where it
    has any; ``source``: who says so.
    """

    quantizers: tuple[str, ...]
    bits: tuple[int, ...]
    usual: str
    options: frozenset[str] = frozenset()
    samples: int = 0
    length: int = 0
    source: str = ""


_CALIBRATION: Final = frozenset(("samples", "sequence_length"))
_GROUPED: Final = frozenset(("bits", "group_size", "sym"))
_BITS_ONLY: Final = frozenset(("bits",))
CHOICES: Final[dict[str, Method]] = {
    "awq": Method(
        ("llmcompressor", "autoawq", "gptqmodel", "auto-round"),
        (4,),
        "w4a16-g128",
        _GROUPED | _CALIBRATION | {"layout"},
        64,
        512,
        "003 AWQ and 002 section 27.4.4: 16 to 128 samples; AutoAWQ 0.2.9: 512 tokens of each; zero points by 000",
    ),
    "gptq": Method(
        ("gptqmodel", "llmcompressor", "optimum", "auto-round"),
        (4, 8, 3, 2),
        "w4a16-g128",
        _GROUPED | _CALIBRATION | {"desc_act", "damp"},
        128,
        2048,
        "000 section 2 and 002 section 27.8.1: 128 to 512 samples, damp 0.01; arXiv 2210.17323: 2048 tokens of each",
    ),
    "w8a8": Method(
        ("llmcompressor",),
        (8,),
        "w8a8",
        _BITS_ONLY | _CALIBRATION | {"smoothing"},
        128,
        512,
        "arXiv 2211.10438: 512 tokens of each sample; LLM Compressor 0.14, SmoothQuant examples: strength 0.8",
    ),
    "fp8": Method(
        ("llmcompressor",),
        (8,),
        "fp8",
        _BITS_ONLY | _CALIBRATION | {"static_activations"},
        64,
        512,
        "LLM Compressor 0.14: scales of activations are fixed by text, those of each token need none",
    ),
    "nvfp4": Method(("llmcompressor",), (4,), "nvfp4", _BITS_ONLY),
    "mxfp4": Method(("llmcompressor",), (4,), "mxfp4", _BITS_ONLY),
    "rtn": Method(("llmcompressor",), (4, 8), "w4a16-g128", _GROUPED),
    "nf4": Method(("bitsandbytes",), (4,), "nf4", _BITS_ONLY | {"double_quant"}),
    "int8": Method(("bitsandbytes",), (8,), "int8", _BITS_ONLY),
    "hqq": Method(("hqq",), (4, 8, 3, 2), "hqq4-g64", _BITS_ONLY | {"group_size"}),
    "none": Method(("none",), (16,), "bf16", _BITS_ONLY),
}
DAMP: Final = 0.01
SMOOTHING: Final = 0.8
# Weights that share one scale where the format has no word for it: NVFP4 and OCP MX, fixed by the formats themselves.
BLOCKS: Final = {"nvfp4": 16, "mxfp4": 32}
