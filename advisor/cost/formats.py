"""Bytes of a checkpoint in the formats that are not GGUF: packed weights, scales, zero points, 16-bit rest."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.gguf_file import speculative_layers
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.quantity import Quantity
from advisor.facts.words import GROUPED_FORMAT

_PLAIN: Final = {"bf16": 16, "f16": 16}


class Packing(NamedTuple):
    """Bits a weight of a quantized matrix: the codes, and what comes with each group and each row.

    ``group`` is 0 for one scale a row. ``head`` says whether the output matrix is quantized too.
    """

    bits: float
    group: int
    group_bits: float
    row_bits: float
    head: bool = False
    spread: float = 1.01


def packing(method: str, fmt: str) -> Packing | None:
    """How ``fmt`` stores a matrix; ``None`` for 16-bit weights.

    Sources: AutoAWQ and AutoGPTQ layouts (int32 words of codes, f16 scales, packed zero points, GPTQ's ``g_idx``),
    compressed-tensors (W8A8, FP8, NVFP4), bitsandbytes (NF4 with double quantization, LLM.int8()), OCP MX.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
    """
    if fmt in _PLAIN:
        return None
    found = GROUPED_FORMAT.match(fmt)
    if found and found["bits"]:
        bits, group = int(found["bits"]), int(found["group"])
        return Packing(bits, group, 16 + bits, 0.0, spread=1.02)
    if found:
        return Packing(int(found["hbits"]), int(found["hgroup"]), 32, 0.0, spread=1.03)
    table = {
        "w8a8": Packing(8, 0, 0, 32),
        "int8": Packing(8, 0, 0, 32, spread=1.02),
        "fp8": Packing(8, 0, 0, 32),
        "nvfp4": Packing(4, 16, 8, 0.0, spread=1.02),
        "mxfp4": Packing(4, 32, 8, 0.0, spread=1.02),
        "nf4": Packing(4, 64, 8 + 32 / 256, 0.0, spread=1.02),
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


def checkpoint(model: ModelFacts, tensors: tuple[TensorSpec, ...], method: str, fmt: str) -> CheckpointBytes:
    """Size of ``model`` as a checkpoint in ``fmt``; kept from call to call.

    Embeddings, the output matrix, norms and routers stay in 16 bits. With a tied output the embedding is stored once.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format.
    """
    key = (id(tensors), model.ref, model.experts, model.experts_used, method, fmt)
    found = _CACHE.get(key)
    if found is not None and found[0] is tensors:
        return found[1]
    pack = packing(method, fmt)
    skipped = speculative_layers(tensors)
    inside = outside = read = widest = embedding = 0
    for t in tensors:
        if t.layer in skipped and t.layer is not None:
            continue
        size = _size(t, pack, method)
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


def _size(t: TensorSpec, pack: Packing | None, method: str) -> int:
    plain = 2 * t.elements
    quantized = pack is not None and t.layer is not None and len(t.shape) > 1 and t.role not in ("norm", "bias")
    if not quantized or pack is None or t.role == "ffn_gate_inp" or "conv" in t.name:
        return plain
    rows = t.elements // t.width
    groups = -(-t.width // pack.group) if pack.group else 0
    bits = t.elements * pack.bits + rows * (groups * pack.group_bits + pack.row_bits)
    if method == "gptq":
        bits += 32 * t.width  # g_idx: the group of each input channel
    return int(-(-bits // 8))
