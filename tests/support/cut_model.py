"""A real checkpoint with its first layers only: the real widths, kernels and tokenizer at a fraction of the time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def cut(source: Path, out: Path, layers: int = 2) -> Path:
    """Write the checkpoint folder ``source``, its first ``layers`` layers only, into ``out``; one weights file."""
    out.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt", ".model") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = layers
    if isinstance(config.get("layer_types"), list):
        config["layer_types"] = config["layer_types"][:layers]
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts: list[tuple[Path, int, int]] = []
    at = 0
    for file in sorted(source.glob("*.safetensors")):
        with file.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            inside = json.loads(f.read(size))
        for name, told in inside.items():
            if name == "__metadata__":
                continue
            found = _LAYER.search(name)
            if found is not None and int(found[1]) >= layers:
                continue
            first, last = told["data_offsets"]
            header[name] = {**told, "data_offsets": [at, at + last - first]}
            parts.append((file, 8 + size + first, last - first))
            at += last - first
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with (out / "model.safetensors").open("wb") as to:
        to.write(len(raw).to_bytes(8, "little") + raw)
        for file, offset, length in parts:
            with file.open("rb") as f:
                f.seek(offset)
                to.write(f.read(length))
    return out
