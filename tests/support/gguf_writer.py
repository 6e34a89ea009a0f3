"""Writes small GGUF files for tests: a true header, and a body that is a hole in the file unless data is wanted."""

from __future__ import annotations

import random
import struct
from functools import cache
from pathlib import Path
from typing import Any

from advisor.facts.ggml_types import BLOCKS, NUMBERS

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q", I64: "<q"}
_PACK[F64] = "<d"


class Typed(tuple):  # type: ignore[type-arg]
    """``Typed((type_id, value))``: a metadata value with a named GGUF value type."""


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value_type(value: Any) -> int:
    """The value type that converters choose for ``value``."""
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return U32 if 0 <= value < 2**32 else (U64 if value > 0 else I64)
    if isinstance(value, float):
        return F32
    if isinstance(value, (str, bytes)):
        return STRING
    if isinstance(value, (list, tuple)):
        return ARRAY
    raise TypeError(type(value))


def encode(kind: int, value: Any) -> bytes:
    """The bytes of one value, without its type."""
    if kind == STRING:
        return string(value)
    if kind == ARRAY:
        item = value_type(value[0]) if value else U32
        return struct.pack("<IQ", item, len(value)) + b"".join(encode(item, v) for v in value)
    return struct.pack(_PACK[kind], value)


def key_value(key: str, value: Any) -> bytes:
    if isinstance(value, Typed):
        kind, value = value
    else:
        kind = value_type(value)
    return string(key) + struct.pack("<I", kind) + encode(kind, value)


def tensor_bytes(shape: tuple[int, ...], type_name: str) -> int:
    weights, size = BLOCKS[type_name]
    if shape[-1] % weights:
        raise ValueError(f"a row of {shape[-1]} does not hold whole {type_name} blocks of {weights}")
    n = 1
    for d in shape:
        n *= d
    return n // weights * size


def header(
    metadata: dict[str, Any],
    tensors: list[tuple[str, tuple[int, ...], str]],
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> tuple[bytes, int]:
    """Return the header, padded to the alignment, and the size of the body."""
    alignment = int(metadata.get("general.alignment", 32))
    out = bytearray(magic + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += key_value(key, value)
    offset = 0
    for name, shape, type_name in tensors:
        out += string(name) + struct.pack("<I", len(shape))
        for d in reversed(shape):  # the file has the row width first
            out += struct.pack("<Q", d)
        out += struct.pack("<IQ", NUMBERS[type_name], offset)
        offset += -(-tensor_bytes(shape, type_name) // alignment) * alignment
    out += b"\0" * (-len(out) % alignment)
    return bytes(out), offset


# type -> where in a block its half-precision scales are
SCALES: dict[str, tuple[int, ...]] = {
    "q4_0": (0,), "q5_0": (0,), "q8_0": (0,), "iq4_nl": (0,), "q4_1": (0, 2), "q5_1": (0, 2),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q3_k": (108,), "q2_k": (80, 82), "iq4_xs": (0,),
}  # fmt: skip


@cache
def blocks(type_name: str) -> bytes:
    """Some 4,096 blocks of random weights of one type; vectors are ones."""
    size = BLOCKS[type_name][1]
    if type_name == "f32":
        return struct.pack("<f", 1.0) * 4096
    if type_name in ("f16", "bf16"):
        return struct.pack("<e" if type_name == "f16" else "<H", 0.01 if type_name == "f16" else 0x3C23) * 4096
    raw = bytearray(random.Random(type_name).randbytes(size * 4096))
    for start in range(0, len(raw), size):
        for at in SCALES[type_name]:
            raw[start + at : start + at + 2] = struct.pack("<e", 0.001)
    return bytes(raw)


def write_gguf(
    path: Path,
    metadata: dict[str, Any],
    tensors: list[tuple[str, tuple[int, ...], str]],
    sparse: bool = True,
    filled: bool = False,
) -> Path:
    """Write a GGUF version 3 file.

    Args:
        path: where to.
        metadata: plain values (integers become u32 or 64 bit, floats f32, lists arrays), or ``Typed((id, value))``.
        tensors: (name, shape as (rows, columns) or (experts, rows, columns), type in lower case).
        sparse: the body is a hole made by ``truncate`` and takes no disk; otherwise zeros are written.
        filled: random weights of a sane size are written, so that computing with them is like computing with real ones.
    """
    head, body = header(metadata, tensors)
    with path.open("wb") as f:
        f.write(head)
        if filled:
            alignment = int(metadata.get("general.alignment", 32))
            for _, shape, type_name in tensors:
                size = tensor_bytes(shape, type_name)
                pattern = blocks(type_name)
                for start in range(0, size, len(pattern)):
                    f.write(pattern[: size - start])
                f.write(b"\0" * (-size % alignment))
        elif sparse:
            f.truncate(len(head) + body)
        else:
            for _ in range(body // (1 << 20)):
                f.write(b"\0" * (1 << 20))
            f.write(b"\0" * (body % (1 << 20)))
    return path


def no_vocab() -> dict[str, Any]:
    """Tokenizer metadata with which llama.cpp loads a model that has no vocabulary."""
    return {"tokenizer.ggml.model": "no_vocab"}


def llama_like(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 512,
    vocab: int = 320,
    context: int = 2048,
    types: dict[str, str] | str = "f16",
    tied: bool = False,
    name: str = "tiny",
    extra: dict[str, Any] | None = None,
    head_dim: int | None = None,
    arch: str = "llama",
    sparse: bool = True,
) -> Path:
    """Write a complete header of architecture llama that llama.cpp accepts, with a sparse body.

    Args:
        types: one type for every matrix, or by the tensor's last name part without ``.weight`` (``attn_v``,
            ``ffn_down``, ``token_embd``, ``output`` ...) with ``""`` as the default. Norms are f32.
        extra: further metadata, which also replaces what is written by default.
    """
    dim = head_dim or hidden // heads
    meta: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": name,
        f"{arch}.block_count": layers,
        f"{arch}.context_length": context,
        f"{arch}.embedding_length": hidden,
        f"{arch}.feed_forward_length": ff,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.dimension_count": dim,
        f"{arch}.vocab_size": vocab,
        **no_vocab(),
        **(extra or {}),
    }
    if head_dim:
        meta[f"{arch}.attention.key_length"] = dim
        meta[f"{arch}.attention.value_length"] = dim

    def kind(part: str) -> str:
        if part.endswith("norm"):
            return "f32"
        return types if isinstance(types, str) else types.get(part, types.get("", "f16"))

    shapes: list[tuple[str, tuple[int, ...]]] = [("token_embd", (vocab, hidden)), ("output_norm", (hidden,))]
    if not tied:
        shapes.append(("output", (vocab, hidden)))
    for i in range(layers):
        shapes += [
            (f"blk.{i}.attn_norm", (hidden,)),
            (f"blk.{i}.attn_q", (heads * dim, hidden)),
            (f"blk.{i}.attn_k", (kv_heads * dim, hidden)),
            (f"blk.{i}.attn_v", (kv_heads * dim, hidden)),
            (f"blk.{i}.attn_output", (hidden, heads * dim)),
            (f"blk.{i}.ffn_norm", (hidden,)),
            (f"blk.{i}.ffn_gate", (ff, hidden)),
            (f"blk.{i}.ffn_up", (ff, hidden)),
            (f"blk.{i}.ffn_down", (hidden, ff)),
        ]
    return write_gguf(path, meta, [(f"{n}.weight", s, kind(n.rsplit(".", 1)[-1])) for n, s in shapes], sparse=sparse)
