"""What the runners of native formats (GPTQ, AWQ, bitsandbytes) share: headers read, widths checked, config written.

Their libraries write configurations with local paths, and calibration text, in them; and round what they do not
quantize to a type of their own. So the configuration is written here: the source's own, and what tells a loader how
the weights are packed, no more.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

Headers = dict[str, tuple[str, list[int]]]
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_BEFORE = ("embed", "wte", "wpe", "norm", "lm_head")
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def elsewhere(work: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``work`` in a folder of its own that goes with it: GPTQModel writes its logs into whatever folder is current."""

    def run(request: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="advisor-") as folder:
            os.chdir(folder)
            try:
                return work(request)
            finally:
                os.chdir("/")

    return run


def headers(folder: Path) -> Headers:
    """Name -> type and shape of every tensor in the safetensors files of ``folder``.

    Raises:
        Failed: ``quantizer-failed``, there is none.
    """
    found: Headers = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as f:
            inside = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        found.update({n: (t["dtype"], t["shape"]) for n, t in inside.items() if n != "__metadata__"})
    if not found:
        raise protocol.Failed("quantizer-failed", f"There are no safetensors in {folder}.")
    return found


def layer_count(tensors: Headers) -> int:
    """Layers that the tensors belong to."""
    return len({m[1] for n in tensors if (m := _LAYER.search(n))})


def dtype_of(tensors: Headers) -> str:
    """The floating-point type that most matrices have, as torch calls it.

    Raises:
        Failed: ``quantizer-failed`` for a checkpoint that is not of 16 or 32 bits.
    """
    sizes: dict[str, int] = {}
    for dtype, shape in tensors.values():
        if len(shape) > 1:
            sizes[dtype] = sizes.get(dtype, 0) + shape[0] * shape[1]
    most = max(sizes, key=lambda t: sizes[t], default="none")
    if most not in _NAMES:
        raise protocol.Failed("quantizer-failed", f"The weights are {most}; what is quantized must have 16 or 32 bits.")
    return _NAMES[most]


def matrices(tensors: Headers) -> dict[str, tuple[int, int]]:
    """Module -> rows and columns of the matrices inside layers, those that are quantized."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, (_, shape) in tensors.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and _LAYER.search(name)
        and not any(w in name.rsplit(".", 2)[-2] for w in _BEFORE)
    }


def check_widths(tensors: Headers, recipe: dict[str, Any], rows: int) -> None:
    """Refuse, before anything is loaded, what a library would write but no kernel reads.

    ``rows``: the multiple that rows must have for codes to be packed in 32-bit words.

    Raises:
        Failed: ``illegal-recipe``.
    """
    group = recipe.get("group_size")
    for name, (out, width) in sorted(matrices(tensors).items()):
        if group and width % group:
            raise protocol.Failed(
                "illegal-recipe", f"Groups of {group} do not divide the {width} columns of {name}; nothing loads that."
            )
        if out % rows or width % 32:
            raise protocol.Failed(
                "illegal-recipe",
                f"{name} has {out} rows and {width} columns; packing {recipe['bits']}-bit codes needs multiples of "
                f"{rows} and 32.",
            )


def packed(tensors: Headers, suffix: str) -> list[str]:
    """Modules that have a tensor ``suffix``: those that were quantized."""
    return sorted(n.removesuffix(suffix) for n in tensors if n.endswith(suffix))


def kept(tensors: Headers) -> list[str]:
    """Linear modules whose matrix was left in floating point; the output matrix also where it is the embedding."""
    plain = {
        n.removesuffix(".weight")
        for n, (dtype, shape) in tensors.items()
        if n.endswith(".weight") and len(shape) == 2 and dtype in _NAMES
    }
    linear = {n for n in plain if not any(w in n.rsplit(".", 1)[-1] for w in ("embed", "wte", "wpe", "norm"))}
    return sorted(linear if any(n.startswith("lm_head.") for n in tensors) else linear | {"lm_head"})


def write_config(folder: Path, out: Path, quantization: dict[str, Any], dtype: str) -> None:
    """Write ``config.json``: the source's, with how the weights are packed and the type of what is not."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config.pop("_name_or_path", None)
    config["dtype"] = dtype
    config["quantization_config"] = quantization
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def only_weights(out: Path) -> None:
    """Remove everything from ``out`` but the weights and their index."""
    for path in out.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            path.unlink()
