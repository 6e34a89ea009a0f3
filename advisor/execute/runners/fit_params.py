"""Ask llama.cpp what its own fit chooses for a model: the context and the layers on devices that fit free memory.

Request: as for ``dryload.py``, without a context: the fit chooses it. ``"margin_bytes"``: left free on each device,
``"least_context"``: below which it does not go.

Result: ``{"status": "fits" | "does-not-fit" | "failed", "context", "gpu_layers"}``; ``gpu_layers`` -1 means all, also
where there is no device. The function is C++ and not of the public interface: its mangled name has the types of its
arguments, so a build with others has no such name.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import llama_c
import protocol

NAME = (
    "_Z17common_fit_paramsPKcP18llama_model_paramsP20llama_context_paramsPfP32llama_model_tensor_buft_overridePm"
    "jPK22common_fit_extra_model14ggml_log_level"
)
STATUS = ("fits", "does-not-fit", "failed")
DEVICES, OVERRIDES = 128, 4096  # entries of the buffers: llama_max_devices and llama_max_tensor_buft_overrides
CONTEXT_TYPES, CONTEXT_TYPES_DEFAULT = 104, (1, 1)
ERRORS_ONLY = 4


def fitted(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Call the fit.

    Raises:
        Failed: ``env-failed`` where the library has none, or is another build.
    """
    engine = llama_c.Engine(keep=True)
    try:
        function = getattr(engine.lib, NAME)
    except AttributeError as e:
        raise protocol.Failed("env-failed", "The llama.cpp library here has no fit of its own.") from e
    mp, cp = engine.lib.llama_model_default_params(), engine.lib.llama_context_default_params()
    types = ctypes.string_at(ctypes.addressof(cp) + CONTEXT_TYPES, 8)
    seen = (int.from_bytes(types[:4], "little"), int.from_bytes(types[4:], "little"))
    if seen != CONTEXT_TYPES_DEFAULT or cp.n_ctx != llama_c.CONTEXT_DEFAULTS[0]:
        raise protocol.Failed("env-failed", "The llama.cpp library here is not the pinned build.")
    cp.n_ctx, cp.n_batch = 0, int(request.get("batch", 2048))
    cp.n_ubatch = min(int(request.get("ubatch", 512)), cp.n_batch)
    cp.n_seq_max = int(request.get("parallel", 1))
    number = gguf_min.TYPES[str(request.get("kv_type", "f16"))].to_bytes(4, "little")
    ctypes.memmove(ctypes.addressof(cp) + CONTEXT_TYPES, number + number, 8)
    split = (ctypes.c_float * DEVICES)()
    overrides = (ctypes.c_void_p * (2 * OVERRIDES))()
    margins = (ctypes.c_size_t * DEVICES)(*([int(request["margin_bytes"])] * DEVICES))
    function.restype = ctypes.c_int
    function.argtypes = [
        *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_int),
    ]
    status = function(
        *(str(path).encode(), ctypes.addressof(mp), ctypes.addressof(cp), split, overrides, margins),
        *(int(request["least_context"]), None, ERRORS_ONLY),
    )
    said = STATUS[status] if 0 <= status < len(STATUS) else "failed"
    return {"status": said, "context": int(cp.n_ctx), "gpu_layers": int(mp.n_gpu_layers)}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Write the header where it is needed, and ask."""
    if request.get("path"):
        return fitted(Path(request["path"]), request)
    tensors = [(str(n), tuple(int(d) for d in shape), str(kind)) for n, shape, kind in request["tensors"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dry.gguf"
        gguf_min.write_sparse(path, request["metadata"], tensors)
        return fitted(path, request)


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
