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

    ``group`` is 0 for one scale a row; with ``flat`` groups run on from row to row. ``fixed``: bytes of a matrix,
    whatever its size.
    """

    bits: float
    group: int = 0
    group_bits: float = 0.0
    row_bits: float = 0.0
    column_bits: float = 0.0
    fixed: int = 0
    flat: bool = False
    spread: float = 1.01


def packing(
    method: str,
    fmt: str,
    quantizer: str | None = None,
    *,
    symmetric: bool | None = None,
    static_activations: bool = False,
    double_quant: bool = True,
) -> Packing | None:
    """How ``fmt`` stores a matrix; ``None`` for 16-bit weights.

    Args:
        quantizer: who writes it; ``None``: the method's usual one. Scales have the 16 bits of the weights.
        symmetric: without zero points; ``None``: AWQ has them, the others have not.

    Sources: files written by each library (compressed-tensors 0.19: ``weight_scale``, ``weight_zero_point``, two 64-bit
    numbers of ``weight_shape``; NVFP4 one f32 scale a matrix), the layouts of AutoAWQ and GPTQModel (int32 words of
    codes, f16 scales, zero points always, GPTQ's ``g_idx``), bitsandbytes (NF4: 8-bit scales of 64 weights, their f32
    scales of 256, two tables; LLM.int8(): an f32 scale a row), OCP MX.

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
            return Packing(bits, group, 16 + bits, column_bits=32)
        if by == "autoawq":
            return Packing(bits, group, 16 + bits)
        plain = method != "awq" if symmetric is None else symmetric
        return Packing(bits, group, 16 if plain else 16 + bits, fixed=16)
    if found:
        return Packing(int(found["hbits"]), int(found["hgroup"]), 32, flat=True, spread=1.03)
    nested = (8 + 32 / 256, 16 * 4 + 256 * 4 + 96) if double_quant else (32, 16 * 4 + 96)
    table = {
        "w8a8": Packing(8, row_bits=16),
        "int8": Packing(8, row_bits=32, fixed=1, spread=1.02),
        "fp8": Packing(8, fixed=4) if static_activations else Packing(8, row_bits=16),
        "nvfp4": Packing(4, 16, 8, fixed=4),
        "mxfp4": Packing(4, 32, 8),
        "nf4": Packing(4, 64, nested[0], fixed=int(nested[1]), flat=True, spread=1.02),
    }
    if fmt not in table:
        raise AdvisorError("bad-option", f'"{fmt}" is not a format of method "{method}" that can be sized.')
    return table[fmt]


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
) -> CheckpointBytes:
    """Size of ``model`` as a checkpoint in ``fmt``; kept from call to call.

    Embeddings, the output matrix, norms and routers stay in 16 bits. With a tied output the embedding is stored once.
    ``recipe`` tells more exactly what is stored than method, format and quantizer do, and takes their place.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
    """
    key = (id(tensors), model.ref, model.experts, model.experts_used, method, fmt, quantizer, recipe)
    found = _CACHE.get(key)
    if found is not None and found[0] is tensors:
        return found[1]
    pack = _packing_of(recipe) if recipe is not None else packing(method, fmt, quantizer)
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
    value = inside + outside
    spread = pack.spread if pack else 1.002
    built = CheckpointBytes(
        total=Quantity(
            value=value,
            low=int(value / spread),
            high=int(value * spread) + 1_000_000,
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


def _packing_of(recipe: Recipe) -> Packing | None:
    return packing(
        recipe.method,
        recipe.format,
        recipe.quantizer,
        symmetric=recipe.symmetric,
        static_activations=bool(recipe.static_activations),
        double_quant=recipe.double_quant is not False,
    )


def _size(t: TensorSpec, pack: Packing | None) -> int:
    if pack is None or not t.packed:
        return 2 * t.elements
    matrices = math.prod(t.shape[:-2])
    rows = t.elements // t.width
    if pack.flat:
        groups = -(-t.elements // pack.group)
    else:
        groups = rows * -(-t.width // pack.group) if pack.group else 0
    bits = t.elements * pack.bits + groups * pack.group_bits + rows * pack.row_bits
    bits += matrices * (t.width * pack.column_bits + 8 * pack.fixed)
    return int(-(-bits // 8))
