"""How a checkpoint is quantized: the one shape that planning, the quantizers' backends and their runners share."""

from __future__ import annotations

from advisor.facts.base import Shape
from advisor.facts.words import MethodName


class Recipe(Shape, frozen=True, kw_only=True):
    """Every value that decides the result is named; none is left to a library's default. ``None``: does not apply.

    Attributes:
        method: the contract's word.
        format: the contract's word, group size included.
        quantizer: the library that does it.
        bits: of a weight.
        group_size: input channels that share one scale; ``None``: one scale a row (per channel).
        symmetric: no zero points.
        desc_act: GPTQ quantizes the channels with the largest activations first.
        damp: GPTQ adds this share of the mean of the Hessian's diagonal to the diagonal.
        smoothing: SmoothQuant's strength, 0 to 1; ``None``: activations are not smoothed.
        static_activations: FP8 activations have scales fixed by calibration, not one for each token.
        double_quant: NF4 quantizes its scales once more.
        layout: AutoAWQ's ``gemm`` or ``gemv``.
        samples: pieces of calibration text; 0 for methods without calibration.
        sequence_length: tokens of a piece.
        ignore: modules that stay in 16 bits.
        at_load: the runtime quantizes when it loads; what is stored is the 16-bit checkpoint and this recipe.
    """

    method: MethodName
    format: str
    quantizer: str
    bits: int
    group_size: int | None = None
    symmetric: bool = True
    desc_act: bool | None = None
    damp: float | None = None
    smoothing: float | None = None
    static_activations: bool | None = None
    double_quant: bool | None = None
    layout: str | None = None
    samples: int = 0
    sequence_length: int = 0
    ignore: tuple[str, ...] = ("lm_head",)
    at_load: bool = False


class RecipeOptions(Shape, frozen=True, kw_only=True):
    """What a person asked for of a recipe; ``None`` leaves it to the guide's rules and the method."""

    bits: int | None = None
    group_size: int | None = None
    desc_act: bool | None = None
    sym: bool | None = None
    damp: float | None = None
    samples: int | None = None
    sequence_length: int | None = None
    layout: str | None = None
    static_activations: bool | None = None
    double_quant: bool | None = None
    smoothing: float | None = None
