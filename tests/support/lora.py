"""Writes a small LoRA adapter as peft does: real shapes, small random weights."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path


def write_adapter(
    folder: Path,
    *,
    layers: int,
    widths: dict[str, tuple[int, int]],
    rank: int = 4,
    alpha: float = 8.0,
    base: str = "base/model",
    scale: float = 0.02,
    seed: int = 1,
) -> Path:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into ``folder``.

    ``widths``: the attention matrices to change, each with (inputs, outputs).
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for layer in range(layers):
        for name, (inside, outside) in sorted(widths.items()):
            for side, shape in (("A", (rank, inside)), ("B", (outside, rank))):
                count = shape[0] * shape[1]
                raw = struct.pack(f"<{count}f", *(chance.gauss(0, scale) for _ in range(count)))
                key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{side}.weight"
                header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
                body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(widths),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder
