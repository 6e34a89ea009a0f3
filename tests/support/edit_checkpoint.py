"""Checkpoints made and broken with the standard library alone: bytes of safetensors files, one tensor at a time."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

Tensors = dict[str, tuple[str, list[int], bytes]]


def read(path: Path) -> Tensors:
    """Every tensor of a safetensors file: dtype, shape, bytes."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    at = 8 + size
    return {
        name: (t["dtype"], t["shape"], raw[at + t["data_offsets"][0] : at + t["data_offsets"][1]])
        for name, t in header.items()
        if name != "__metadata__"
    }


def write(path: Path, tensors: Tensors) -> None:
    """A safetensors file of ``tensors``."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for _, _, data in tensors.values():
            f.write(data)


def copy(source: Path, out: Path, change: Callable[[str, str, bytes], bytes]) -> Path:
    """A copy of a checkpoint folder, each tensor as ``change(name, dtype, bytes)`` returns it."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in source.glob("*.safetensors"):
        tensors = read(file)
        write(out / file.name, {n: (d, s, change(n, d, b)) for n, (d, s, b) in tensors.items()})
    return out


def floats(dtype: str, data: bytes) -> list[float]:
    """The numbers of a BF16, F16 or F32 tensor."""
    if dtype == "BF16":
        wide = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
        return list(struct.unpack(f"<{len(data) // 2}f", wide))
    code, size = {"F16": ("e", 2), "F32": ("f", 4)}[dtype]
    return list(struct.unpack(f"<{len(data) // size}{code}", data))


def scaled(dtype: str, data: bytes, factor: float) -> bytes:
    """A floating-point tensor times ``factor``; BF16 is cut, not rounded."""
    values = [v * factor for v in floats(dtype, data)]
    if dtype == "BF16":
        raw = struct.pack(f"<{len(values)}f", *values)
        return b"".join(raw[i + 2 : i + 4] for i in range(0, len(raw), 4))
    return struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'f'}", *values)


def to_int8(source: Path, out: Path) -> Path:
    """The matrices of the layers rounded to nearest, 8 bits, one scale a row, activations quantized as they come: a
    W8A8 checkpoint in the format of compressed-tensors."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    tensors: Tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, (dtype, shape, data) in read(file).items():
            if "_proj.weight" not in name:
                tensors[name] = (dtype, shape, data)
                continue
            codes, scales = bytearray(), []
            values = floats(dtype, data)
            for row in range(shape[0]):
                one = values[row * shape[1] : (row + 1) * shape[1]]
                scale = max(max(one), -min(one)) / 127 or 1.0
                scales.append(scale)
                codes += struct.pack(f"<{shape[1]}b", *(round(v / scale) for v in one))
            tensors[name] = ("I8", shape, bytes(codes))
            tensors[f"{name}_scale"] = ("F32", [shape[0], 1], struct.pack(f"<{shape[0]}f", *scales))
    write(out / "model.safetensors", tensors)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    eight = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "actorder": None}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight, "strategy": "token", "dynamic": True},
                "output_activations": None,
            }
        },
    }
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return out
