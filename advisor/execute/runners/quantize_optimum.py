"""GPTQ by optimum, through transformers: the whole model is loaded; GPTQModel does the arithmetic and the packing.

Request and result: see ``quantizing``. What optimum writes is changed in two ways: zero points are stored minus one, as
the ``gptq`` format has them (it leaves them in a form that GPTQModel alone reads), and the configuration does not
contain the calibration text.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import native
import protocol
import quantize_gptqmodel
import quantizing

_BLOCK = re.compile(r"Start quantizing block \S+ (\d+)/\d+")


class Blocks(logging.Handler):
    """Progress from what optimum logs when it starts a block."""

    def __init__(self, layers: quantizing.Layers) -> None:
        super().__init__()
        self._layers = layers

    def emit(self, record: logging.LogRecord) -> None:
        """Count the blocks before the one that starts."""
        found = _BLOCK.search(record.getMessage())
        if found and int(found[1]) > 1:
            self._layers.done(int(found[1]) - 1)


def stored(model: Any, quantizer: Any) -> None:
    """Turn zero points into those of the ``gptq`` format, where optimum packed them as they are.

    Its modules do not tell which they hold, so what optimum set its format to decides.

    Raises:
        Failed: ``artifact-invalid``, no module was packed.
    """
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    packed = [m for m in model.modules() if isinstance(m, BaseQuantLinear)]
    if not packed:
        raise protocol.Failed("artifact-invalid", "optimum left every matrix as it was.")
    if quantizer.format == "gptq_v2":
        for module in packed:
            convert_gptq_v2_to_v1_format_module(module=module, quantize_config=quantizer.quantizeConfig)


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, quantize, save, check."""
    started = time.monotonic()
    recipe, folder, out = request["recipe"], Path(request["folder"]), Path(request["out"])
    tensors = native.headers(folder)
    native.check_widths(tensors, recipe, 32)
    os.environ.update(quantize_gptqmodel.environment(int(request.get("threads") or os.cpu_count() or 1)))
    count = native.layer_count(tensors)
    protocol.progress(0, count, "layers", "starting torch and optimum", force=True)
    import torch
    from transformers import AutoModelForCausalLM, GPTQConfig

    quantizing.threads(request)
    tokenizer = quantizing.tokenizer_of(folder)
    samples = quantizing.pieces(tokenizer, request)
    if not samples:
        raise protocol.Failed("quantizer-failed", "GPTQ needs calibration text; the recipe takes no samples.")
    layers = quantizing.Layers(count)
    log = logging.getLogger("optimum.gptq.quantizer")
    log.setLevel(logging.INFO)
    log.addHandler(Blocks(layers))
    dtype = native.dtype_of(tensors)
    desc_act = bool(recipe.get("desc_act"))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=GPTQConfig(
            bits=int(recipe["bits"]),
            group_size=int(recipe.get("group_size") or -1),
            damp_percent=float(recipe["damp"]),
            desc_act=desc_act,
            act_group_aware=not desc_act,
            sym=bool(recipe.get("symmetric", True)),
            true_sequential=True,
            batch_size=1,
            dataset=[{"input_ids": [ids], "attention_mask": [[1] * len(ids)]} for ids in samples],
            tokenizer=tokenizer,
        ),
        device_map={"": "cuda:0" if quantizing.device() == "cuda" else "cpu"},
        dtype=getattr(torch, "bfloat16" if dtype == "float32" else dtype),
        trust_remote_code=False,
        use_safetensors=True,
    )
    layers.done(count)
    protocol.progress(count, count, "layers", "writing the weights", force=True)
    stored(model, model.hf_quantizer.optimum_quantizer)
    model.save_pretrained(out)
    native.only_weights(out)
    written = native.headers(out)
    versions = quantizing.versions("optimum")
    how = quantize_gptqmodel.quantization(recipe, f"optimum:{versions.get('optimum', '')}")
    native.write_config(folder, out, how, native.dtype_of(written))
    return quantizing.finish(
        request,
        started=started,
        quantized=len(native.packed(written, ".qweight")),
        kept=native.kept(written),
        samples=samples,
        packages=("optimum", "gptqmodel", "transformers", "torch"),
    )


if __name__ == "__main__":
    protocol.run(native.elsewhere(work), code="quantizer-failed")
