"""Bytes of a checkpoint in the formats that are not GGUF: packed weights, scales, zero points, 16-bit rest."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from advisor.cost.gguf_file import speculative_layers
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.quantity import Quantity
from advisor.facts.recipe import Recipe
from advisor.facts.words import GROUPED_FORMAT

_PLAIN: Final = {"bf16": 16, "f16": 16}
_NATIVE_GPTQ: Final = frozenset(("gptqmodel", "optimum"))
_USUAL: Final = {"gptq": "gptqmodel"}


class Packing(NamedTuple):
    """What a quantized matrix takes: bits of a weight's code, of each group, each row, each column, and the rest.

    ``group`` is 0 for one scale a row; with ``flat`` groups run on from row to row. ``square``: one f32 scale for that
    many rows and columns. ``fixed``: bytes of a matrix, whatever its size. ``experts``: only experts are packed.
    """

    bits: float
    group: int = 0
    group_bits: float = 0.0
    row_bits: float = 0.0
    column_bits: float = 0.0
    fixed: int = 0
    flat: bool = False
    square: int = 0
    experts: bool = False
    spread: float = 1.01


def packing(
    method: str,
    fmt: str,
    quantizer: str | None = None,
    *,
    symmetric: bool | None = None,
    static_activations: bool = False,
    double_quant: bool | None = None,
    square: int = 0,
) -> Packing | None:
    """How ``fmt`` stores a matrix; ``None`` for 16-bit weights.

    Args:
        quantizer: who writes it; ``None``: the method's usual one. Scales have the 16 bits of the weights.
        symmetric: without zero points; ``None``: AWQ has them, the others have not.
        static_activations: FP8 with one scale a matrix for weights and one for activations.
        double_quant: scales (HQQ: zero points) are quantized once more, to 8 bits; ``None``: NF4's are, HQQ's are not.
        square: FP8 with one scale for each square of that side, as DeepSeek and Qwen publish it (128).

    A group of 0 (``w4a16-g0``) is one scale a row.

    Sources: files written by each library (compressed-tensors 0.19: ``weight_scale``, ``weight_zero_point``, two 64-bit
    numbers of ``weight_shape``; NVFP4 one f32 scale a matrix), the layouts of AutoAWQ and GPTQModel (int32 words of
    codes, f16 scales, zero points always, GPTQ's ``g_idx``), bitsandbytes (NF4: 8-bit scales of 64 weights, their f32
    scales of 256, two tables; LLM.int8(): an f32 scale a row), OCP MX; benchmarks/data/published_sizes.csv.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
    """
    if fmt in _PLAIN:
        return None
    by = quantizer or _USUAL.get(method, "")
    found = GROUPED_FORMAT.match(fmt)
    if found and found["bits"]:
        bits, group = int(found["bits"]), int(found["group"])
        if method == "gptq" and by in _NATIVE_GPTQ:
            return _grouped(bits, group, 16 + bits, column_bits=32)
        if by == "autoawq":
            return _grouped(bits, group, 16 + bits)
        plain = method != "awq" if symmetric is None else symmetric
        return _grouped(bits, group, 16 if plain else 16 + bits, fixed=16)
    if found:
        meta = 16 + 8 if double_quant else 32
        return Packing(int(found["hbits"]), int(found["hgroup"]), meta, flat=True, spread=1.03)
    nested = (32, 16 * 4 + 96) if double_quant is False else (8 + 32 / 256, 16 * 4 + 256 * 4 + 96)
    fp8 = Packing(8, fixed=4) if static_activations else Packing(8, row_bits=16)
    table = {
        "w8a8": Packing(8, row_bits=16),
        "int8": Packing(8, row_bits=32, fixed=1, spread=1.02),
        "fp8": Packing(8, square=square) if square else fp8,
        "nvfp4": Packing(4, 16, 8, fixed=4),
        "mxfp4": Packing(4, 32, 8),
        "nf4": Packing(4, 64, nested[0], fixed=int(nested[1]), flat=True, spread=1.02),
    }
    if fmt not in table:
        raise AdvisorError("bad-option", f'"{fmt}" is not a format of method "{method}" that can be sized.')
    return table[fmt]


def _grouped(bits: int, group: int, group_bits: int, *, column_bits: int = 0, fixed: int = 0) -> Packing:
    if group:
        return Packing(bits, group, group_bits, column_bits=column_bits, fixed=fixed)
    return Packing(bits, row_bits=group_bits, column_bits=column_bits, fixed=fixed)


class CheckpointBytes(NamedTuple):
    """``total`` bytes on disk and loaded; ``read`` bytes of weights one token reads; ``widest``: the largest matrix."""

    total: Quantity
    read: int
    layers: int
    outside: int
    widest: int


_CACHE: Final[dict[tuple[object, ...], tuple[object, CheckpointBytes]]] = {}


def checkpoint(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    method: str,
    fmt: str,
    quantizer: str | None = None,
    recipe: Recipe | None = None,
    *,
    square: int = 0,
    output_twice: bool = False,
) -> CheckpointBytes:
    """Size of ``model`` as a checkpoint in ``fmt``; kept from call to call.

    Embeddings, the output matrix, norms and routers stay in 16 bits. With a tied output the embedding is stored once.
    gpt-oss in its own MXFP4 has only the experts packed. The parts for images stay in 16 bits; a token reads none.

    Args:
        recipe: tells more exactly what is stored than method, format and quantizer do, and takes their place.
        square: side of the squares of weights that share an FP8 scale.
        output_twice: the file repeats a tied output matrix, as some published ones do.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
    """
    facts = (model.ref, model.experts, model.experts_used, model.quantized_method, model.vision_params)
    key = (id(tensors), *facts, method, fmt, quantizer, recipe, square, output_twice)
    found = _CACHE.get(key)
    if found is not None and found[0] is tensors:
        return found[1]
    pack = _packing_of(recipe, square) if recipe is not None else packing(method, fmt, quantizer, square=square)
    if pack is not None and fmt == "mxfp4" and model.architecture == "gpt-oss" and not (recipe or quantizer):
        pack = pack._replace(experts=True)
    skipped = speculative_layers(tensors)
    inside = outside = read = widest = embedding = 0
    for t in tensors:
        if (t.layer in skipped and t.layer is not None) or t.name.startswith("rope_f"):
            continue
        size = _size(t, pack)
        widest = max(widest, 2 * t.elements)
        if t.layer is None:
            outside += size
            if t.name == "token_embd.weight":
                embedding = size
            else:
                read += size
            continue
        inside += size
        routed = "_exps." in t.name and model.experts
        read += size * model.experts_used // model.experts if routed else size
    if all(t.name != "output.weight" for t in tensors):
        read += embedding
        if output_twice:
            outside += embedding
    outside += 2 * (model.vision_params or 0)
    value = inside + outside
    # Of a file that somebody else made no configuration tells whether it repeats a tied output matrix.
    unsure = 0 if output_twice or model.quantized_method is None or pack is None else embedding * model.tie_embeddings
    spread = pack.spread if pack else 1.002
    built = CheckpointBytes(
        total=Quantity(
            value=value,
            low=int(value / spread),
            high=int(value * spread) + 1_000_000 + unsure,
            unit="bytes",
            method="formula",
            source=f"shapes of the tensors in {fmt}: codes, scales and zero points; embeddings and output in 16 bits",
        ),
        read=read,
        layers=inside,
        outside=outside,
        widest=widest,
    )
    if len(_CACHE) > 256:
        _CACHE.clear()
    _CACHE[key] = (tensors, built)
    return built


def _packing_of(recipe: Recipe, square: int) -> Packing | None:
    return packing(
        recipe.method,
        recipe.format,
        recipe.quantizer,
        symmetric=recipe.symmetric,
        static_activations=bool(recipe.static_activations),
        double_quant=recipe.double_quant,
        square=square,
    )


def _size(t: TensorSpec, pack: Packing | None) -> int:
    if pack is None or not t.packed or (pack.experts and "_exps." not in t.name):
        return 2 * t.elements
    matrices = math.prod(t.shape[:-2])
    rows = t.elements // t.width
    if pack.flat:
        groups = -(-t.elements // pack.group)
    else:
        groups = rows * -(-t.width // pack.group) if pack.group else 0
    bits = t.elements * pack.bits + groups * pack.group_bits + rows * pack.row_bits
    bits += matrices * (t.width * pack.column_bits + 8 * pack.fixed)
    if pack.square:
        bits += 32 * matrices * -(-t.shape[-2] // pack.square) * -(-t.width // pack.square)
    return int(-(-bits // 8))
