"""Quantize a checkpoint with llm-compressor: AWQ, GPTQ, SmoothQuant W8A8, FP8, NVFP4, MXFP4, or plain rounding.

Request and result: see ``quantizing.py``. Written in the compressed-tensors form, which vLLM and transformers load.

Methods that calibrate go layer by layer (the library's ``sequential`` pipeline): the model stays in host memory, and
one layer at a time is on the device, where there is one. Rounding needs no text and looks at each matrix once.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol
import quantizing

PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch", "safetensors")
# Columns that GPTQ corrects together; the papers' and the library's own choice.
GPTQ_BLOCK = 128
# Points of AWQ's search for each scale, as in AutoAWQ.
AWQ_GRID = 20
PRESETS = {"nvfp4": "NVFP4A16", "mxfp4": "MXFP4A16"}
# A router decides which experts run; a wrong choice costs far more than the few bytes that it takes.
ROUTER = re.compile(r"\.(gate|router|shared_expert_gate)$")


def scheme(recipe: dict[str, Any]) -> dict[str, Any]:
    """The argument that says how weights and activations are stored: ``config_groups`` or ``scheme``."""
    method = recipe["method"]
    if method in PRESETS:
        return {"scheme": PRESETS[method], "targets": ["Linear"]}
    if method == "fp8":
        return {"scheme": "FP8" if recipe["static_activations"] else "FP8_DYNAMIC", "targets": ["Linear"]}
    whole = {"symmetric": True, "type": "int"}
    if method == "w8a8":
        weights = {**whole, "num_bits": 8, "strategy": "channel", "dynamic": False}
        inputs = {**whole, "num_bits": 8, "strategy": "token", "dynamic": True}
        group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    else:
        weights = {
            "type": "int",
            "num_bits": recipe["bits"],
            "symmetric": bool(recipe["symmetric"]),
            "strategy": "group",
            "group_size": recipe["group_size"],
            "dynamic": False,
        }
        group = {"targets": ["Linear"], "weights": weights}
    return {"config_groups": {"group_0": group}}


def modifiers(recipe: dict[str, Any], ignore: list[str], fallbacks: list[str]) -> list[Any]:
    """The library's steps for ``recipe``. ``fallbacks`` gets the modules that GPTQ had to round."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    stored = {**scheme(recipe), "ignore": ignore}
    if recipe["method"] == "gptq":

        class Gptq(GPTQModifier):
            """GPTQ that tells which modules it rounded because their Hessian could not be inverted."""

            def _log_rtn_fallback_summary(self) -> None:
                fallbacks.extend(self._rtn_fallback_module_names)
                super()._log_rtn_fallback_summary()

        return [
            Gptq(
                **stored,
                block_size=GPTQ_BLOCK,
                dampening_frac=recipe["damp"],
                actorder="static" if recipe["desc_act"] else None,
            )
        ]
    last = QuantizationModifier(**stored)
    if recipe["method"] == "awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        return [AWQModifier(n_grid=AWQ_GRID, duo_scaling=True), last]
    if recipe["method"] == "w8a8" and recipe["smoothing"] is not None:
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        return [SmoothQuantModifier(smoothing_strength=recipe["smoothing"]), last]
    return [last]


def without_pinning() -> None:
    """Pinning memory fails where there is no accelerator to pin it for, and does nothing of use there."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None


def watch(layers: quantizing.Layers) -> None:
    """Count a layer whenever the sequential pipeline is through with one; embeddings and head are pieces, too."""
    from llmcompressor.core import LifecycleCallbacks

    finished = LifecycleCallbacks.sequential_epoch_end

    def told(*args: Any, **kwargs: Any) -> Any:
        out = finished(*args, **kwargs)
        layers.done()
        return out

    LifecycleCallbacks.sequential_epoch_end = told


def linear(model: Any) -> tuple[list[str], list[str]]:
    """Names of the linear modules that are quantized, and of those that are not."""
    import torch

    done, left = [], []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            scheme_of = getattr(module, "quantization_scheme", None)
            (done if getattr(scheme_of, "weights", None) is not None else left).append(name)
    return done, left


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, calibrate, quantize, write."""
    started = time.monotonic()
    folder, out, recipe = Path(request["folder"]), Path(request["out"]), request["recipe"]
    protocol.progress(0, None, "layers", "starting torch and llm-compressor", force=True)
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    quantizing.threads(request)
    torch.manual_seed(0)
    without_pinning()
    tokenizer = quantizing.tokenizer_of(folder)
    samples = quantizing.pieces(tokenizer, request)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=False, use_safetensors=True, low_cpu_mem_usage=True
    ).eval()
    fallbacks: list[str] = []
    routers = [n for n, _ in model.named_modules() if ROUTER.search(n)]
    steps = modifiers(recipe, [*recipe["ignore"], *routers], fallbacks)
    # A step that looks at activations goes once through all layers and the head; one that does not is one piece.
    pieces = model.config.get_text_config().num_hidden_layers + 1
    looks = [bool(samples) and (m.requires_calibration_data or bool(recipe["static_activations"])) for m in steps]
    layers = quantizing.Layers(sum(pieces if look else 1 for look in looks))
    watch(layers)
    loader = None
    if samples:
        batches = [
            {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            for ids in samples
        ]
        loader = torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False)
    oneshot(model=model, tokenizer=tokenizer, recipe=steps, dataset=loader, num_calibration_samples=len(samples))
    quantized, kept = linear(model)
    protocol.progress(layers.total, layers.total, "layers", "writing the checkpoint", force=True)
    model.save_pretrained(out, save_compressed=True, max_shard_size="4GB")
    notes = []
    if fallbacks:
        notes.append(
            f"GPTQ could not invert the Hessian of {len(fallbacks)} of {len(quantized)} modules and rounded them; "
            f"take more samples or a larger damp: {', '.join(fallbacks[:5])}"
        )
    return quantizing.finish(
        request,
        started=started,
        quantized=len(quantized),
        kept=kept,
        samples=samples,
        packages=PACKAGES,
        notes=notes,
        rounded=fallbacks,
    )


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
