"""GPTQ in its native form by GPTQModel, a layer at a time: only the layer at work is in memory.

Request and result: see ``quantizing``. Further keys. Request: ``"resume"``: a folder that outlives a killed run, in
which finished layers are kept, or ``null``. Result: ``"damp_raised"``: modules whose Hessian needed more damping than
the recipe says; ``"worst_loss"``: the largest error of a module, as GPTQModel measures it; ``"resumed"``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import native
import protocol
import quantizing

# GPTQModel keeps finished layers of these architectures only (7.6.0, looper/gptq_checkpoint.py).
RESUMABLE = ("llama", "qwen3_moe")
# By how much damping grows where a Hessian is not positive definite; the library's own step, named here.
DAMP_STEP = 0.01


def environment(threads: int) -> dict[str, str]:
    """Variables that GPTQModel reads when it is imported.

    Its default number of workers is half of the cores, and with one worker its pool fails; its packing extension would
    be compiled on the user's machine while it quantizes, to save less than that takes.
    """
    workers = max(2, min(12, threads // 2))
    return {"GPTQMODEL_CPU_WORKERS": str(workers), "GPTQMODEL_DISABLE_PACK_EXT": "1"}


def quantization(recipe: dict[str, Any], package: str) -> dict[str, Any]:
    """What a loader must know: the keys that transformers, vLLM and ExLlama read, and no local paths."""
    group = recipe.get("group_size")
    return {
        "quant_method": "gptq",
        "bits": recipe["bits"],
        "group_size": group or -1,
        "desc_act": bool(recipe.get("desc_act")),
        "sym": bool(recipe.get("symmetric", True)),
        "lm_head": False,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "meta": {
            "quantizer": [package],
            "damp_percent": recipe.get("damp"),
            "damp_auto_increment": DAMP_STEP,
            "true_sequential": True,
            "act_group_aware": not recipe.get("desc_act"),
            "mse": 0.0,
        },
    }


def _numbers(rows: list[dict[str, Any]], key: str) -> list[float]:
    out = []
    for row in rows:
        try:
            out.append(float(row.get(key, "")))
        except (TypeError, ValueError):  # a module without calibration has words there
            continue
    return out


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize layer by layer, save, check."""
    started = time.monotonic()
    recipe, folder, out = request["recipe"], Path(request["folder"]), Path(request["out"])
    tensors = native.headers(folder)
    native.check_widths(tensors, recipe, 32)
    os.environ.update(environment(int(request.get("threads") or os.cpu_count() or 1)))
    layers = native.layer_count(tensors)
    protocol.progress(0, layers, "layers", "starting torch and GPTQModel", force=True)
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    from gptqmodel.looper.checkpoint import CheckpointStopped
    from gptqmodel.looper.checkpoint_store import CheckpointConfig, CheckpointError
    from gptqmodel.quantization.config import FORMAT, METHOD

    quantizing.threads(request)
    tokenizer = quantizing.tokenizer_of(folder)
    samples = quantizing.pieces(tokenizer, request)
    desc_act, symmetric = bool(recipe.get("desc_act")), bool(recipe.get("symmetric", True))
    dtype = native.dtype_of(tensors)
    scratch = Path(tempfile.mkdtemp(prefix="layers-", dir=out.parent))
    try:
        config = QuantizeConfig(
            bits=int(recipe["bits"]),
            group_size=int(recipe.get("group_size") or -1),
            desc_act=desc_act,
            act_group_aware=not desc_act,
            sym=symmetric,
            damp_percent=float(recipe["damp"]),
            damp_auto_increment=DAMP_STEP,
            true_sequential=True,
            mse=0.0,
            method=METHOD.GPTQ,
            format=FORMAT.GPTQ,
            offload_to_disk=True,
            offload_to_disk_path=str(scratch),
        )
        # Left to itself it takes bfloat16 on a CPU, whatever the weights are.
        model = GPTQModel.load(
            str(folder),
            config,
            device="cuda:0" if quantizing.device() == "cuda" else "cpu",
            dtype=getattr(torch, "bfloat16" if dtype == "float32" else dtype),
            trust_remote_code=False,
        )
        keep, misfit = None, False
        if request.get("resume") and model.model.config.model_type in RESUMABLE:
            keep = CheckpointConfig(path=str(request["resume"]), resume="auto", interval="layer:1")
        shown: list[quantizing.Layers] = []
        first: list[int] = []

        def layer(layer_idx: int, submodule_finalized: bool) -> None:
            if not first:
                first.append(layer_idx)
            if submodule_finalized:
                shown[0].done(layer_idx + 1)

        shown.append(quantizing.Layers(layers))
        model.layer_callback = layer
        try:
            model.quantize(
                [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples],
                batch_size=1,
                tokenizer=tokenizer,
                calibration_data_min_length=quantizing.MIN_TOKENS,
                checkpoint=keep,
            )
        except CheckpointStopped as e:
            raise protocol.Failed("interrupted", f"Stopped after a finished layer: {e}") from e
        except (CheckpointError, NotImplementedError):
            # Of other devices or threads, or damaged: what was kept does not fit this run, so that begins anew.
            if keep is None:
                raise
            misfit = True
        if misfit:  # past the handler, whose traceback holds the weights
            shutil.rmtree(request["resume"], ignore_errors=True)
            del model
            return work({**request, "resume": None})
        protocol.progress(layers, layers, "layers", "writing the weights", force=True)
        rows = list(model.quant_log or [])
        model.save(str(out))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    native.only_weights(out)
    written = native.headers(out)
    versions = quantizing.versions("gptqmodel")
    how = quantization(recipe, f"gptqmodel:{versions.get('gptqmodel', '')}")
    native.write_config(folder, out, how, native.dtype_of(written))
    raised = sum(d > float(recipe["damp"]) + 1e-9 for d in _numbers(rows, "damp"))
    resumed = bool(first and first[0])
    notes = []
    if raised:
        notes.append(f"{raised} modules needed more damping than {recipe['damp']} to be inverted.")
    if resumed:
        notes.append(f"{first[0]} layers were finished by an earlier run.")
    return quantizing.finish(
        request,
        started=started,
        quantized=len(native.packed(written, ".qweight")),
        kept=native.kept(written),
        samples=samples,
        packages=("gptqmodel", "transformers", "torch"),
        notes=notes,
        damp_raised=raised,
        worst_loss=max(_numbers(rows, "loss"), default=None),
        resumed=resumed,
    )


if __name__ == "__main__":
    protocol.run(native.elsewhere(work), code="quantizer-failed")
