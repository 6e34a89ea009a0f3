"""Write small GGUF files with the standard library alone: a tiny random model, and headers without weights."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

ALIGNMENT = 32
TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12,
    "q5_k": 13, "q6_k": 14, "iq2_xxs": 16, "iq2_xs": 17, "iq3_xxs": 18, "iq1_s": 19, "iq4_nl": 20, "iq3_s": 21,
    "iq2_s": 22, "iq4_xs": 23, "iq1_m": 29, "bf16": 30, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39, "nvfp4": 40, "q1_0": 41,
    "q2_0": 42,
}  # fmt: skip
# (weights in a block, bytes of a block)
BLOCKS = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22),
    "q5_1": (32, 24), "q8_0": (32, 34), "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176),
    "q6_k": (256, 210), "iq1_s": (256, 50), "iq1_m": (256, 56), "iq2_xxs": (256, 66), "iq2_xs": (256, 74),
    "iq2_s": (256, 82), "iq3_xxs": (256, 98), "iq3_s": (256, 110), "iq4_nl": (32, 18), "iq4_xs": (256, 136),
    "tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17), "nvfp4": (64, 36), "q1_0": (128, 18), "q2_0": (64, 18),
}  # fmt: skip


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> tuple[int, bytes]:
    """(GGUF value type, encoded value); whole numbers become u32, in lists i32, as llama.cpp wants them."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if value >= 0 else (5, struct.pack("<i", value))
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _string(value)
    if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return 9, struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
    inner = [_value(v) for v in value]
    return 9, struct.pack("<IQ", inner[0][0], len(inner)) + b"".join(raw for _, raw in inner)


def nbytes(shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor; the last dimension is the row width.

    Raises:
        ValueError: the row width is not a multiple of the block.
    """
    block, size = BLOCKS[kind]
    if shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} do not divide into blocks of {block} ({kind})")
    n = 1
    for d in shape:
        n *= d
    return n // block * size


def header(metadata: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], str]]) -> tuple[bytes, int]:
    """(everything before the data, padded; bytes of the data). ``tensors``: name, shape (row width last), type."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind, raw = _value(value)
        out += [_string(key), struct.pack("<I", kind), raw]
    offset = 0
    for name, shape, kind in tensors:
        dims = tuple(reversed(shape))
        out += [_string(name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPES[kind], offset)]
        offset += -(-nbytes(shape, kind) // ALIGNMENT) * ALIGNMENT
    raw = b"".join(out)
    return raw + bytes(-len(raw) % ALIGNMENT), offset


def write_sparse(path: Path, metadata: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], str]]) -> None:
    """Write a file whose data are a hole: its full size shows, but it takes no disk."""
    head, size = header(metadata, tensors)
    with path.open("wb") as f:
        f.write(head)
        f.truncate(len(head) + size)


def byte_tokens() -> dict[str, Any]:
    """Metadata of a tokenizer of the Llama kind with 256 byte tokens: 259 in all."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }


def _q8_0(values: list[float]) -> bytes:
    """Blocks of 32 weights: one scale (f16) and a whole number each."""
    out = []
    for at in range(0, len(values), 32):
        block = values[at : at + 32]
        scale = max(abs(v) for v in block) / 127 or 1.0
        out.append(struct.pack("<e32b", scale, *(max(-127, min(127, round(v / scale))) for v in block)))
    return b"".join(out)


def write_tiny(path: Path, *, seed: int = 0, matrices: str = "f32") -> None:
    """Write a random Llama of two layers, 64 wide, at most 0.5 MB: nonsense, but a whole model.

    ``matrices``: type of the layers' matrices, ``f32`` or ``q8_0``.
    """
    hidden, heads, inner, layers, vocab = 64, 4, 128, 2, 259
    tensors: list[tuple[str, tuple[int, ...], str]] = [
        ("token_embd.weight", (vocab, hidden), "f32"),
        ("output_norm.weight", (hidden,), "f32"),
        ("output.weight", (vocab, hidden), "f32"),
    ]
    for i in range(layers):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (hidden,), "f32"),
            (f"blk.{i}.ffn_norm.weight", (hidden,), "f32"),
            *((f"blk.{i}.attn_{n}.weight", (hidden, hidden), matrices) for n in ("q", "k", "v", "output")),
            (f"blk.{i}.ffn_gate.weight", (inner, hidden), matrices),
            (f"blk.{i}.ffn_up.weight", (inner, hidden), matrices),
            (f"blk.{i}.ffn_down.weight", (hidden, inner), matrices),
        ]
    metadata = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": 512,
        "llama.embedding_length": hidden,
        "llama.block_count": layers,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": hidden // heads,
        "llama.vocab_size": vocab,
        **byte_tokens(),
    }
    head, _ = header(metadata, tensors)
    rng = random.Random(seed)  # noqa: S311 - weights of a test model
    with path.open("wb") as f:
        f.write(head)
        for name, shape, kind in tensors:
            n = nbytes(shape, "f32") // 4
            values = [1.0] * n if "norm" in name else [rng.gauss(0, 0.1) for _ in range(n)]
            raw = _q8_0(values) if kind == "q8_0" else struct.pack(f"<{n}f", *values)
            f.write(raw + bytes(-len(raw) % ALIGNMENT))
