"""A tiny checkpoint in the shape of gpt-oss: experts in MXFP4, everything else bfloat16, all of it random."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Final, NamedTuple

HIDDEN: Final = 64
INNER: Final = 96
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
LAYERS: Final = 2
EXPERTS, USED = 4, 2
_SIGNS: Final = bytes(0xBC if b & 1 else 0x3C for b in range(256))


class Tensor(NamedTuple):
    """``dtype`` as safetensors writes it, the shape, and the bytes."""

    dtype: str
    shape: tuple[int, ...]
    raw: bytes


def config(vocab: int) -> dict[str, object]:
    """``config.json``, with the keys of the published models."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": vocab,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 256,
            "truncate": False,
        },
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": USED,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    }


def tensors(vocab: int, seed: int = 0) -> dict[str, Tensor]:
    """All tensors under their published names: blocks before their scales, as the converter expects them."""
    rng = random.Random(seed)

    def plain(*shape: int, ones: bool = False) -> Tensor:
        n = 1
        for d in shape:
            n *= d
        raw = bytearray(2 * n)
        if ones:
            raw[1::2] = b"\x3f" * n
            raw[0::2] = b"\x80" * n
        else:  # between 1/128 and 1/32, of both signs
            raw[0::2] = rng.randbytes(n)
            raw[1::2] = rng.randbytes(n).translate(_SIGNS)
        return Tensor("BF16", shape, bytes(raw))

    def packed(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        groups = columns // 32
        blocks = rng.randbytes(EXPERTS * rows * groups * 16)
        scales = bytes(rng.randrange(119, 122) for _ in range(EXPERTS * rows * groups))
        return Tensor("U8", (EXPERTS, rows, groups, 16), blocks), Tensor("U8", (EXPERTS, rows, groups), scales)

    out = {"model.embed_tokens.weight": plain(vocab, HIDDEN)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        out[f"{at}.input_layernorm.weight"] = plain(HIDDEN, ones=True)
        up, down = packed(2 * INNER, HIDDEN), packed(HIDDEN, INNER)
        out[f"{at}.mlp.experts.down_proj_bias"] = plain(EXPERTS, HIDDEN)
        out[f"{at}.mlp.experts.down_proj_blocks"], out[f"{at}.mlp.experts.down_proj_scales"] = down
        out[f"{at}.mlp.experts.gate_up_proj_bias"] = plain(EXPERTS, 2 * INNER)
        out[f"{at}.mlp.experts.gate_up_proj_blocks"], out[f"{at}.mlp.experts.gate_up_proj_scales"] = up
        out[f"{at}.mlp.router.bias"] = plain(EXPERTS)
        out[f"{at}.mlp.router.weight"] = plain(EXPERTS, HIDDEN)
        out[f"{at}.post_attention_layernorm.weight"] = plain(HIDDEN, ones=True)
        for name, rows in (("q", HEADS * HEAD_DIM), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            out[f"{at}.self_attn.{name}_proj.bias"] = plain(rows)
            out[f"{at}.self_attn.{name}_proj.weight"] = plain(rows, HIDDEN)
        out[f"{at}.self_attn.o_proj.bias"] = plain(HIDDEN)
        out[f"{at}.self_attn.o_proj.weight"] = plain(HIDDEN, HEADS * HEAD_DIM)
        out[f"{at}.self_attn.sinks"] = plain(HEADS)
    out["model.norm.weight"] = plain(HIDDEN, ones=True)
    out["lm_head.weight"] = plain(vocab, HIDDEN)
    return out


def write(folder: Path, vocab: int, seed: int = 0) -> dict[str, Tensor]:
    """Write ``config.json`` and ``model.safetensors``; the tokenizer is the caller's. Returns the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(vocab)), encoding="utf-8")
    made = tensors(vocab, seed)
    write_weights(folder / "model.safetensors", made)
    return made


def write_weights(path: Path, made: dict[str, Tensor]) -> None:
    """Write a safetensors file, the tensors in their order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, t in made.items():
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + len(t.raw)]}
        at += len(t.raw)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(raw)) + raw)
        for t in made.values():
            f.write(t.raw)


def as_ggml(blocks: Tensor, scales: Tensor, *, first: int = 0, step: int = 1) -> bytes:
    """The rows ``first``, ``first + step`` ... of every expert as ggml stores MXFP4: of each 32 weights the scale, then
    16 bytes with the first half of the weights in the low four bits and the second half in the high ones.

    The checkpoint has neighbours in one byte.
    """
    experts, rows, groups, _ = blocks.shape
    out = bytearray()
    for e in range(experts):
        for row in range(first, rows, step):
            for g in range(groups):
                at = (e * rows + row) * groups + g
                codes = [c for b in blocks.raw[16 * at : 16 * at + 16] for c in (b & 15, b >> 4)]
                out.append(scales.raw[at])
                out += bytes(codes[i] | codes[16 + i] << 4 for i in range(16))
    return bytes(out)
