"""NF4 and INT8 by bitsandbytes, saved as safetensors: transformers quantizes while it loads, then writes that.

Request and result: see ``quantizing``. No calibration. The whole model passes through memory, in 16 bits tensor by
tensor, then packed.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import native
import protocol
import quantizing


def quantization(recipe: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The arguments of transformers' ``BitsAndBytesConfig``, all that matter named."""
    skipped = list(recipe.get("ignore") or ["lm_head"])
    if recipe["method"] == "nf4":
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": bool(recipe.get("double_quant")),
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": skipped,
        }
    return {"load_in_8bit": True, "llm_int8_threshold": 6.0, "llm_int8_skip_modules": skipped}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load packed, save, check."""
    started = time.monotonic()
    recipe, folder, out = request["recipe"], Path(request["folder"]), Path(request["out"])
    if recipe.get("at_load"):
        raise protocol.Failed("bug", "This recipe is carried out when the model is loaded; there is nothing to make.")
    tensors = native.headers(folder)
    dtype = native.dtype_of(tensors)
    dtype = "bfloat16" if dtype == "float32" else dtype
    count = native.layer_count(tensors)
    protocol.progress(0, count, "layers", "starting torch and bitsandbytes", force=True)
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantizing.threads(request)
    how = quantization(recipe, dtype)
    layers = quantizing.Layers(count)
    stop = threading.Event()
    packs = _Counted()
    watch = threading.Thread(target=packs.show, args=(layers, stop, len(native.matrices(tensors))), daemon=True)
    watch.start()
    try:
        with packs:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                quantization_config=BitsAndBytesConfig(**how),
                device_map={"": "cuda:0" if quantizing.device() == "cuda" else "cpu"},
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
            )
    finally:
        stop.set()
        watch.join()
    layers.done(count)
    protocol.progress(count, count, "layers", "writing the weights", force=True)
    model.save_pretrained(out)
    native.only_weights(out)
    native.write_config(folder, out, {"quant_method": "bitsandbytes", **how}, dtype)
    written = native.headers(out)
    suffix = ".weight.quant_state.bitsandbytes__nf4" if recipe["method"] == "nf4" else ".SCB"
    return quantizing.finish(
        request,
        started=started,
        quantized=len(native.packed(written, suffix)),
        kept=native.kept(written),
        samples=[],
        packages=("bitsandbytes", "transformers", "torch"),
    )


class _Counted:
    """Counts the matrices that bitsandbytes has packed so far."""

    def __init__(self) -> None:
        self.count = 0
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> _Counted:
        import bitsandbytes.functional as functional

        for name in ("quantize_4bit", "int8_vectorwise_quant"):
            was = getattr(functional, name)
            self._undo.append((functional, name, was))
            setattr(functional, name, self._counting(was))
        return self

    def __exit__(self, *_: object) -> None:
        for where, name, was in self._undo:
            setattr(where, name, was)

    def _counting(self, was: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            self.count += 1
            return was(*args, **settings)

        return call

    def show(self, layers: quantizing.Layers, stop: threading.Event, matrices: int) -> None:
        """Report layers until ``stop``."""
        shown = 0
        while not stop.wait(0.5):
            done = self.count * layers.total // matrices if matrices else 0
            if done > shown:
                shown = done
                layers.done(done)


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
