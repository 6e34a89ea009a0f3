"""Prove that the environment ``llmcompressor`` works: quantize a tiny model by RTN and by AWQ, load, decode a token.

Request: ``{"variant"}``. Result: ``{"versions", "devices", "seconds", "peak_bytes", "packed": {method: tensors}}``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol
import tiny_model

PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch", "numpy", "safetensors")


def pin_nothing(torch: Any) -> None:
    """llm-compressor pins its cached activations for a copy to the device; without a device pinning fails."""
    if not torch.cuda.is_available():
        torch.Tensor.pin_memory = lambda self, *_, **__: self


def quantize(source: Path, out: Path, method: str) -> None:
    """Write ``source`` quantized to 4 bits in groups of 64."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=64)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe: list[Any] = [QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])]
    calibration: dict[str, Any] = {}
    if method == "awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        recipe.insert(0, AWQModifier(n_grid=4))
        ids = tiny_model.samples(4, 16)
        data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(i) for i in ids]})
        calibration = {"dataset": data, "num_calibration_samples": 4, "max_seq_length": 16}
    model = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
    oneshot(model=model, processor=AutoTokenizer.from_pretrained(source), recipe=recipe, **calibration)
    model.save_pretrained(out, save_compressed=True)


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize twice, load both."""
    started = time.monotonic()
    protocol.progress(0, 3, "checks", "starting torch and llm-compressor", force=True)
    import torch

    variant = str(request.get("variant", "cpu"))
    tiny_model.devices(variant)
    pin_nothing(torch)
    packed = {}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "tiny"
        linear = tiny_model.write(source)
        for n, method in enumerate(("rtn", "awq")):
            protocol.progress(n + 1, 3, "checks", f"quantizing a tiny model by {method.upper()}", force=True)
            out = Path(name) / method
            quantize(source, out, method)
            packed[method] = tiny_model.packed(out)
            if packed[method] < linear:
                raise protocol.Failed("env-failed", f"{method.upper()} packed {packed[method]} of {linear} modules.")
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            with torch.inference_mode():
                logits = model(torch.tensor(tiny_model.samples(1, 8))).logits
            if not bool(torch.isfinite(logits).all()):
                raise protocol.Failed("env-failed", f"A tiny model quantized by {method.upper()} gives no numbers.")
    return tiny_model.report(PACKAGES, started, variant, packed=packed)


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
