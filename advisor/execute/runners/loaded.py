"""What a loaded model really consists of: types, classes of layers, bytes, quantization; for runners with torch."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

QUANTIZED = ("Linear4bit", "Linear8bitLt", "HQQLinear")


def what(model: Any) -> dict[str, Any]:
    """What a model really consists of.

    Returns:
        ``dtype`` of what is not quantized (the type that most of those elements have), ``modules``: class -> count of
        the matrices (linear layers of any kind and embeddings), ``quantized``: how many linear layers are quantized,
        ``kept``: where some are, the names of those in floating point; ``bytes`` of all tensors, scales and zero points
        too, shared ones once; ``quantization``: bits, type, group or block size, second quantization of the scales, as
        found on the first quantized layer.
    """
    import torch

    floats: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    kept: list[str] = []
    first: dict[str, Any] | None = None
    for name, module in model.named_modules():
        kind = type(module).__name__
        found = _layer(module)
        if found is not None:
            first = first or found
            classes[kind] += 1
        elif isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            classes[kind] += 1
            if isinstance(module, torch.nn.Linear):
                kept.append(name)
    for p in model.parameters():
        if p.is_floating_point():
            floats[str(p.dtype).removeprefix("torch.")] += p.numel()
    quantized = sum(n for k, n in classes.items() if k in QUANTIZED)
    return {
        "dtype": floats.most_common(1)[0][0] if floats else None,
        "modules": dict(classes),
        "quantized": quantized,
        "kept": kept if quantized else [],
        "bytes": tensor_bytes(model),
        "quantization": first,
    }


def _layer(module: Any) -> dict[str, Any] | None:
    """How a layer is quantized, ``None`` for one that is not."""
    kind = type(module).__name__
    if kind == "Linear4bit":
        state = module.weight.quant_state
        return {
            "method": str(state.quant_type) if state is not None else "nf4",
            "bits": 4,
            "group_size": int(state.blocksize) if state is not None else None,
            "double_quant": bool(state.nested) if state is not None else None,
            "compute": str(module.compute_dtype).removeprefix("torch."),
        }
    if kind == "Linear8bitLt":
        stored = module.state.CB if module.state.CB is not None else module.weight.data
        return {"method": "int8", "bits": 8, "group_size": None, "stored": str(stored.dtype).removeprefix("torch.")}
    if kind == "HQQLinear":
        meta = module.meta
        return {"method": "hqq", "bits": meta["nbits"], "group_size": meta["group_size"], "axis": meta["axis"]}
    return None


def tensor_bytes(model: Any) -> int:
    """Bytes of all tensors of a model: parameters, buffers, and what quantized layers keep beside them."""
    import torch

    seen: dict[tuple[str, int], int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if value.device.type != "meta" and value.numel():
                storage = value.untyped_storage()
                seen[(str(value.device), storage.data_ptr())] = storage.nbytes()
        elif isinstance(value, dict):
            for inner in value.values():
                add(inner)
        elif type(value).__name__ in ("QuantState", "MatmulLtState"):
            add({k: v for k, v in vars(value).items() if k not in ("idx", "is_grad")})

    for module in model.modules():
        add(dict(module.named_parameters(recurse=False)))
        add(dict(module.named_buffers(recurse=False)))
        for leaf in ("W_q", "meta", "state"):
            add(getattr(module, leaf, None))
        weight = getattr(module, "weight", None)
        add(getattr(weight, "quant_state", None))
        add({k: getattr(weight, k, None) for k in ("CB", "SCB")} if weight is not None else None)
    return sum(seen.values())


def non_finite(model: Any) -> int:
    """How many NaN or infinite numbers the floating-point tensors hold, scales included."""
    import torch

    count = 0
    for module in model.modules():
        values = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        meta = getattr(module, "meta", None)
        values += [v for v in meta.values() if isinstance(v, torch.Tensor)] if isinstance(meta, dict) else []
        for v in values:
            if v.is_floating_point() and v.numel():
                count += int(math.prod(v.shape) - torch.isfinite(v).sum().item())
    return count
