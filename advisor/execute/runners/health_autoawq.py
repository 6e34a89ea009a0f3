"""Prove that the environment ``autoawq`` works: AWQ of a tiny model in the GEMM format, read it back, decode.

Request: ``{"variant"}``. Result: ``{"versions", "devices", "seconds", "peak_bytes", "packed", "tokens", "likeness"}``.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol
import tiny_model

PACKAGES = ("autoawq", "transformers", "torch", "numpy", "safetensors")


def logits_of(model: Any, device: str) -> Any:
    """What ``model`` says about one short text."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor(tiny_model.samples(1, 8), device=device)).logits.float()


def read_back(out: Path, model: Any, device: str) -> Any:
    """Logits of the model as saved. On the CPU the library loads nothing without a further package, so there the saved
    tensors are held against those of the model in memory, which then decodes.

    Raises:
        protocol.Failed: what was saved is not what was quantized.
    """
    import torch
    from safetensors.torch import load_file

    if device != "cpu":
        from awq import AutoAWQForCausalLM

        return logits_of(
            AutoAWQForCausalLM.from_quantized(str(out), fuse_layers=False, device_map=device).model, device
        )
    saved = {k: v for path in sorted(out.glob("*.safetensors")) for k, v in load_file(path).items()}
    memory = model.model.state_dict()
    other = [n for n, t in memory.items() if n.endswith(("qweight", "qzeros")) and not torch.equal(t, saved[n])]
    if other:
        raise protocol.Failed("env-failed", f"AWQ saved other tensors than it made: {', '.join(other[:3])}.")
    return logits_of(model.model, device)


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize, save, read back, decode."""
    started = time.monotonic()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    protocol.progress(0, 3, "checks", "starting torch and AutoAWQ", force=True)
    import torch

    variant = str(request.get("variant", "cpu"))
    tiny_model.devices(variant)
    device = "cpu" if variant == "cpu" else "cuda:0"
    from awq import AutoAWQForCausalLM
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "tiny", Path(name) / "awq"
        linear = tiny_model.write(source)
        protocol.progress(1, 3, "checks", "quantizing a tiny model by AWQ", force=True)
        model = AutoAWQForCausalLM.from_pretrained(str(source), device_map=device)
        before = logits_of(model.model, device)
        model.quantize(
            AutoTokenizer.from_pretrained(source),
            quant_config={"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"},
            calib_data=[tiny_model.TEXT] * 8,
            max_calib_samples=8,
            max_calib_seq_len=32,
        )
        model.save_quantized(str(out))
        packed = tiny_model.packed(out)
        if packed < linear:
            raise protocol.Failed("env-failed", f"AWQ packed {packed} of {linear} modules.")
        protocol.progress(2, 3, "checks", "reading it back", force=True)
        after = read_back(out, model, device)
    likeness = float(torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0))
    if not likeness > 0.9:
        raise protocol.Failed("env-failed", f"A tiny model quantized by AWQ says other things (cosine {likeness:.3g}).")
    return tiny_model.report(
        PACKAGES, started, variant, packed=packed, tokens=int(after.shape[1]), likeness=round(likeness, 4)
    )


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
