"""AWQ in its native form by AutoAWQ: 4 bits with zero points, in the GEMM or GEMV layout.

Request and result: see ``quantizing``. Calibration pieces are joined and cut to equal blocks, as AutoAWQ does itself;
``samples`` and ``tokens`` of the result count the blocks that were used.

On a CPU the library's search for where to clip multiplies and sums element by element, through temporaries of hundreds
of megabytes; ``by_products`` computes the same errors with matrix products.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import native
import protocol
import quantizing

# Tokens that run through a layer at once; more needs more memory and gains nothing.
_AT_ONCE = 4096


def blocks(pieces: list[list[int]], length: int) -> list[list[int]]:
    """The pieces joined and cut to blocks of ``length`` tokens; one shorter block where there are fewer tokens."""
    joined = [i for piece in pieces for i in piece]
    length = min(length, len(joined))
    return [joined[i : i + length] for i in range(0, len(joined) - length + 1, length)] if length else []


def quantization(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a loader must know: the keys that transformers and vLLM read."""
    ignored = [n for n in recipe.get("ignore", ()) if n != "lm_head"]  # AutoAWQ never looks outside layers
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": int(recipe["group_size"]),
        "zero_point": True,
        "version": recipe.get("layout") or "gemm",
        "modules_to_not_convert": ignored or None,
    }


def by_products(quantize: Any, w: Any, inputs: Any, group: int, *, grid: int = 20, tokens: int = 512) -> Any:
    """The largest weight of every row and group that makes the group's output least wrong, shape (rows, groups, 1).

    The same grid, tokens and errors as AutoAWQ's ``_compute_best_clip``. ``w``: (rows, columns); ``inputs``: (...,
    columns); ``quantize`` rounds a tensor whose last dimension is a group.
    """
    import torch

    rows, columns = w.shape
    x = inputs.reshape(-1, columns).to(w.device, w.dtype)
    x = x[:: max(1, x.shape[0] // tokens)].reshape(-1, columns // group, group).transpose(0, 1).contiguous()
    found = []
    for part in w.reshape(rows, columns // group, group).split(256):
        widest = part.abs().amax(dim=-1, keepdim=True)
        exact = x @ part.permute(1, 2, 0)  # groups, tokens, rows
        best, least = widest.clone(), torch.full_like(widest, 1e9)
        for step in range(grid // 2):
            limit = widest * (1 - step / grid)
            rounded = quantize(part.clamp(-limit, limit))
            error = (x @ rounded.permute(1, 2, 0) - exact).pow_(2).mean(dim=1).t().unsqueeze(-1)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, limit, best)
        found.append(best)
    return torch.cat(found)


def _dtype(folder: Path, device: str) -> str:
    """Float16 on a device, as the library wants it; float32 on a CPU where twice the weights fit well."""
    if device != "cpu":
        return "float16"
    import psutil

    stored = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return "float32" if 2 * stored < 0.5 * psutil.virtual_memory().available else "bfloat16"


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize layer by layer, save, check."""
    started = time.monotonic()
    recipe, folder, out = request["recipe"], Path(request["folder"]), Path(request["out"])
    tensors = native.headers(folder)
    native.dtype_of(tensors)
    native.check_widths(tensors, recipe, 8)
    count = native.layer_count(tensors)
    protocol.progress(0, count, "layers", "starting torch and AutoAWQ", force=True)
    import torch

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from awq import AutoAWQForCausalLM
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from awq.quantize.quantizer import AwqQuantizer
    from huggingface_hub import save_torch_state_dict
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    if kind not in AWQ_CAUSAL_LM_MODEL_MAP:
        raise protocol.Failed(
            "quantizer-failed", f"AutoAWQ does not know the architecture {kind!r}.", sorted(AWQ_CAUSAL_LM_MODEL_MAP)
        )
    quantizing.threads(request)
    tokenizer = quantizing.tokenizer_of(folder)
    samples = blocks(quantizing.pieces(tokenizer, request), int(recipe["sequence_length"]))
    if not samples:
        raise protocol.Failed("quantizer-failed", "AWQ needs calibration text; the recipe takes no samples.")
    device = quantizing.device()
    shown: list[quantizing.Layers] = []

    class Quantizer(AwqQuantizer):  # type: ignore[misc, unused-ignore]
        def _apply_quant(self, module: Any, named_linears: Any) -> None:
            super()._apply_quant(module, named_linears)
            shown[0].done()

        def _compute_best_clip(self, w: Any, input_feat: Any, **settings: Any) -> Any:
            if device != "cpu":
                return super()._compute_best_clip(w, input_feat, **settings)
            group = self.group_size if self.group_size > 0 else w.shape[1]
            return by_products(lambda t: self.pseudo_quantize_tensor(t)[0], w, input_feat, group)

    model = AutoAWQForCausalLM.from_pretrained(
        str(folder), torch_dtype=getattr(torch, _dtype(folder, device)), trust_remote_code=False, device_map="cpu"
    )
    shown.append(quantizing.Layers(count))
    how = quantization(recipe)
    length = len(samples[0])
    model.quantize(
        tokenizer,
        quant_config={
            "zero_point": True,
            "q_group_size": how["group_size"],
            "w_bit": 4,
            "version": how["version"].upper(),
            "modules_to_not_convert": how["modules_to_not_convert"],
        },
        calib_data=samples,
        max_calib_samples=len(samples),
        max_calib_seq_len=length,
        n_parallel_calib_samples=max(1, _AT_ONCE // length),
        quantizer_cls=Quantizer,
    )
    protocol.progress(count, count, "layers", "writing the weights", force=True)
    # The kernels compute in float16, and AWQ has scaled norms and the layers before: all is written in it.
    state = model.model.half().state_dict()
    if "lm_head.weight" not in tensors:  # tied to the embedding
        state.pop("lm_head.weight", None)
    state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    save_torch_state_dict(state, str(out), max_shard_size="5GB", metadata={"format": "pt"})
    native.only_weights(out)
    native.write_config(folder, out, how, "float16")
    written = native.headers(out)
    return quantizing.finish(
        request,
        started=started,
        quantized=len(native.packed(written, ".qweight")),
        kept=native.kept(written),
        samples=samples,
        packages=("autoawq", "transformers", "torch"),
    )


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
