"""Writes small safetensors files for tests: a true header and a body that is a hole in the file."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from advisor.model.safetensors import DTYPE_BITS


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """Write ``tensors``: name to (dtype in capitals, shape). The body takes no disk."""
    at = 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(raw)) + raw)
        f.truncate(8 + len(raw) + at)
    return path


def llama_tensors(
    *, layers: int, hidden: int, heads: int, kv_heads: int, ff: int, vocab: int, tied: bool = False, dtype: str = "BF16"
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a llama checkpoint under their names in transformers."""
    dim = hidden // heads
    out: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": (dtype, (vocab, hidden))}
    for i in range(layers):
        p = f"model.layers.{i}."
        out[f"{p}input_layernorm.weight"] = (dtype, (hidden,))
        out[f"{p}self_attn.q_proj.weight"] = (dtype, (heads * dim, hidden))
        out[f"{p}self_attn.k_proj.weight"] = (dtype, (kv_heads * dim, hidden))
        out[f"{p}self_attn.v_proj.weight"] = (dtype, (kv_heads * dim, hidden))
        out[f"{p}self_attn.o_proj.weight"] = (dtype, (hidden, heads * dim))
        out[f"{p}post_attention_layernorm.weight"] = (dtype, (hidden,))
        out[f"{p}mlp.gate_proj.weight"] = (dtype, (ff, hidden))
        out[f"{p}mlp.up_proj.weight"] = (dtype, (ff, hidden))
        out[f"{p}mlp.down_proj.weight"] = (dtype, (hidden, ff))
    out["model.norm.weight"] = (dtype, (hidden,))
    if not tied:
        out["lm_head.weight"] = (dtype, (vocab, hidden))
    return out
