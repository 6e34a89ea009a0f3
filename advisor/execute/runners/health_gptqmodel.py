"""Prove that the environment ``gptqmodel`` works: GPTQ of a tiny model to 4 bits, load it, decode a token.

Request: ``{"variant"}``. Result: ``{"versions", "devices", "seconds", "peak_bytes", "packed", "tokens"}``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import native
import protocol
import tiny_model

PACKAGES = ("gptqmodel", "optimum", "transformers", "torch", "numpy", "safetensors")


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize, save, load, decode."""
    started = time.monotonic()
    # With two cores or fewer the library's pool of workers is empty unless it is told their number.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    protocol.progress(0, 3, "checks", "starting torch and GPTQModel", force=True)
    import torch

    variant = str(request.get("variant", "cpu"))
    tiny_model.devices(variant)
    device = "cpu" if variant == "cpu" else "cuda:0"
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "tiny", Path(name) / "gptq"
        linear = tiny_model.write(source)
        protocol.progress(1, 3, "checks", "quantizing a tiny model by GPTQ", force=True)
        config = QuantizeConfig(bits=4, group_size=64, desc_act=False, sym=True, device=device, offload_to_disk=False)
        model = GPTQModel.load(str(source), config)
        ids = tiny_model.samples(8, 32)
        model.quantize([{"input_ids": i, "attention_mask": [1] * len(i)} for i in ids], batch_size=1)
        model.save(str(out))
        del model
        packed = tiny_model.packed(out)
        if packed < linear:
            raise protocol.Failed("env-failed", f"GPTQ packed {packed} of {linear} modules.")
        protocol.progress(2, 3, "checks", "loading it", force=True)
        loaded = GPTQModel.load(str(out), device=device, backend=BACKEND.AUTO)
        with torch.inference_mode():
            logits = loaded.model(torch.tensor(tiny_model.samples(1, 8), device=device)).logits
        if not bool(torch.isfinite(logits).all()):
            raise protocol.Failed("env-failed", "A tiny model quantized by GPTQ gives no numbers.")
    return tiny_model.report(PACKAGES, started, variant, packed=packed, tokens=int(logits.shape[1]))


if __name__ == "__main__":
    protocol.run(native.elsewhere(work), code="env-failed")
