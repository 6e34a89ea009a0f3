"""Prove that the environment ``transformers`` works: NF4 and INT8 by bitsandbytes, one layer by HQQ, an adapter merged.

Request: ``{"variant"}``. Result: ``{"versions", "devices", "seconds", "peak_bytes", "tokens", "packed", "hqq_error",
"adapter_change"}``.
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

PACKAGES = (
    *("transformers", "torch", "bitsandbytes", "hqq", "peft", "accelerate", "safetensors", "sentencepiece", "numpy"),
    *("fastapi", "uvicorn"),
)


def bitsandbytes_token(source: Path, out: Path, device: str, eight: bool) -> tuple[int, int]:
    """Quantize while loading, decode one token, save, load what was saved; tokens decoded and tensors packed."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if eight
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, device_map=device, dtype=torch.float32
    )
    ids = torch.tensor(tiny_model.samples(1, 8), device=device)
    with torch.inference_mode():
        got = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, min_new_tokens=1, do_sample=False
        )
    model.save_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(out, device_map=device)
    with torch.inference_mode():
        if not bool(torch.isfinite(loaded(ids).logits).all()):
            raise protocol.Failed("env-failed", "A tiny model quantized by bitsandbytes gives no numbers.")
    return int(got.shape[1] - ids.shape[1]), tiny_model.packed(out)


def hqq_error(device: str) -> float:
    """The relative error of one linear layer's output at 4 bits in groups of 64."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    torch.manual_seed(0)
    layer = torch.nn.Linear(tiny_model.WIDTH, tiny_model.WIDTH, bias=False).to(device)
    x = torch.randn(4, tiny_model.WIDTH, device=device)
    with torch.inference_mode():
        exact = layer(x)
    config = BaseQuantizeConfig(nbits=4, group_size=64)
    quantized = HQQLinear(layer, config, compute_dtype=torch.float32, device=device)
    with torch.inference_mode():
        return float((quantized(x) - exact).norm() / exact.norm())


def adapter_change(source: Path) -> float:
    """How far merging a random LoRA adapter moves a weight (largest difference)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    before = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    merged = adapted.merge_and_unload()
    return float((merged.model.layers[0].self_attn.q_proj.weight.detach() - before).abs().max())


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run every part once."""
    started = time.monotonic()
    protocol.progress(0, 4, "checks", "starting torch and transformers", force=True)
    variant = str(request.get("variant", "cpu"))
    tiny_model.devices(variant)
    device = "cpu" if variant == "cpu" else "cuda:0"
    import fastapi
    import uvicorn

    packed, tokens = {}, 0
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "tiny"
        linear = tiny_model.write(source)
        for n, method in enumerate(("nf4", "int8")):
            protocol.progress(n + 1, 4, "checks", f"quantizing a tiny model to {method.upper()}", force=True)
            tokens, packed[method] = bitsandbytes_token(source, Path(name) / method, device, method == "int8")
            if packed[method] < linear or tokens != 1:
                raise protocol.Failed(
                    "env-failed", f"{method.upper()}: {packed[method]} of {linear} modules packed, {tokens} tokens."
                )
        protocol.progress(3, 4, "checks", "HQQ and an adapter", force=True)
        error, change = hqq_error(device), adapter_change(source)
    if not 0 < error < 0.2:
        raise protocol.Failed("env-failed", f"HQQ at 4 bits has a relative error of {error:.3g} on one layer.")
    if change == 0:
        raise protocol.Failed("env-failed", "Merging an adapter with peft changes nothing.")
    fastapi.FastAPI()
    uvicorn.Config("none:app")
    return tiny_model.report(
        PACKAGES, started, variant, tokens=tokens, packed=packed, hqq_error=round(error, 4), adapter_change=change
    )


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
