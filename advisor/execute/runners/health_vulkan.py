"""Prove that the environment ``llama.cpp-vulkan`` works: a tiny model's layers on a Vulkan device, and its logits.

Request: ``{}``. Result: ``{"versions", "system", "devices", "offloaded"}``.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import llama_vulkan
import protocol

HELP = (
    "Install the driver of the card (Debian and Ubuntu: mesa-vulkan-drivers for AMD and Intel, nvidia-driver for "
    "NVIDIA) with the Vulkan loader (libvulkan1), and see that this user may open /dev/dri."
)


def work(_request: dict[str, Any]) -> dict[str, Any]:
    """Load with every layer on the device, and read a prompt."""
    import numpy as np

    engine = llama_vulkan.Engine()
    if not engine.devices:
        raise protocol.Failed(
            "env-failed",
            "There is no Vulkan device: the packages are in order, but no driver offers a device to them.",
            [*engine.errors, HELP],
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        gguf_min.write_tiny(path)
        settings = {"gpu_layers": 99, "context": 256, "batch": 64, "ubatch": 64, "threads": 1}
        model = engine.open(path, settings)
        found = llama_vulkan.OFFLOADED.search("".join(engine.kept))
        if found is None or int(found[1]) < int(found[2]):
            raise protocol.Failed("env-failed", "llama.cpp keeps layers on the CPU although a device is there.")
        ids = model.tokenize("ab")
        logits = model.decode(ids, [False] * (len(ids) - 1) + [True])
        if len(ids) < 3 or logits.shape != (1, 259) or not np.isfinite(logits).all() or float(logits.std()) == 0:
            raise protocol.Failed("env-failed", "A tiny model loads on the device, but its logits are no use.")
        model.close()
    return {
        "versions": {n: metadata.version(n) for n in ("cyllama-vulkan", "numpy")},
        "devices": engine.devices,
        "offloaded": int(found[1]),
    }


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
