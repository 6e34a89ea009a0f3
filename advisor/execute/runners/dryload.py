"""Ask llama.cpp what it would allocate for a model, without weights: a dry load.

Request: ``"tensors"`` ([[name, [rows, columns], type], ...]), and either the ``"path"`` of a GGUF file or the
``"metadata"`` of one that need not exist: it is written as a header with a hole behind it. And ``{"context",
"parallel", "batch", "ubatch", "kv_type", "swa_full": false, "unified": false}``, in the terms of the server.

Result: ``{"weights_bytes", "kv_cache_bytes", "state_bytes", "compute_bytes", "output_bytes", "cells"}``. Weights are
the sum of the tensors; a second, repacked copy that the CPU may make is not in it. The others are read from the
engine's own log, which prints MiB with two digits: each is true to 5.3 kB a line. The context is set up as the server
sets it up (one row of logits a slot, no full-size cache for sliding windows), not as llama.cpp's fitting tool does.
"""

from __future__ import annotations

import ctypes
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import llama_c
import protocol

MIB = 1 << 20
# Byte offsets in the parameter structures of the pinned build, with the defaults that prove the layout.
MODEL_FLAGS, MODEL_FLAGS_DEFAULT, NO_ALLOC = 72, bytes((0, 0, 1, 0, 0)), 76
LOAD_MODE, LOAD_MODE_DEFAULT, LOAD_MODE_NONE = 24, b"\xff" * 4, bytes(4)  # no mapping: it would be an allocation
CONTEXT_TYPES, CONTEXT_TYPES_DEFAULT = 104, (1, 1)
CONTEXT_FLASH, CONTEXT_FLAGS, CONTEXT_FLAGS_DEFAULT, SWA_FULL = 52, 136, bytes((0, 1, 1, 1, 1, 0)), 140
UNIFIED = 141
SIZE = r"size\s*=\s*([\d.]+) MiB"
KV = re.compile(rf"^llama_kv_cache\w*:\s+{SIZE} \(\s*(\d+) cells.*K \((\w+)\)", re.MULTILINE)
STATE = re.compile(rf"^llama_memory_recurrent\w*:\s+{SIZE}", re.MULTILINE)
COMPUTE = re.compile(rf"^sched_reserve:\s+\S+ compute buffer {SIZE}", re.MULTILINE)
OUTPUT = re.compile(rf"output buffer {SIZE}", re.MULTILINE)


def sum_mib(pattern: re.Pattern[str], log: str) -> int:
    """Bytes of all matches together."""
    return sum(round(float(m[1]) * MIB) for m in pattern.finditer(log))


def parse(log: str) -> dict[str, int]:
    """Read the sizes out of a log.

    Raises:
        Failed: ``step-failed``, a line that must be there is not.
    """
    if not COMPUTE.search(log) or not (KV.search(log) or STATE.search(log)):
        raise protocol.Failed("step-failed", "llama.cpp's log does not say what it would allocate.")
    return {
        "kv_cache_bytes": sum_mib(KV, log),
        "state_bytes": sum_mib(STATE, log),
        "compute_bytes": sum_mib(COMPUTE, log),
        "output_bytes": sum_mib(OUTPUT, log),
        "cells": max((int(m[2]) for m in KV.finditer(log)), default=0),
    }


def poke(params: Any, offset: int, value: bytes) -> None:
    """Write bytes into a structure."""
    ctypes.memmove(ctypes.addressof(params) + offset, value, len(value))


def peek(params: Any, offset: int, n: int) -> bytes:
    """Read bytes of a structure."""
    return ctypes.string_at(ctypes.addressof(params) + offset, n)


def load(path: Path, request: dict[str, Any]) -> str:
    """Load without allocating and make a context; the log.

    Raises:
        Failed: ``env-failed`` for another build, ``step-failed`` where the engine refuses.
    """
    engine = llama_c.Engine(verbose=True, keep=True)
    lib = engine.lib
    mp, cp = lib.llama_model_default_params(), lib.llama_context_default_params()
    types = tuple(int.from_bytes(peek(cp, CONTEXT_TYPES + 4 * i, 4), "little") for i in (0, 1))
    if (
        peek(mp, MODEL_FLAGS, 5) != MODEL_FLAGS_DEFAULT
        or peek(mp, LOAD_MODE, 4) != LOAD_MODE_DEFAULT
        or types != CONTEXT_TYPES_DEFAULT
        or peek(cp, CONTEXT_FLAGS, 6) != CONTEXT_FLAGS_DEFAULT
    ):
        raise protocol.Failed("env-failed", "The llama.cpp library here is not the pinned build.")
    mp.n_gpu_layers = 0
    poke(mp, NO_ALLOC, b"\x01")
    poke(mp, LOAD_MODE, LOAD_MODE_NONE)
    model = lib.llama_model_load_from_file(str(path).encode(), mp)
    if not model:
        raise protocol.Failed("step-failed", "llama.cpp does not take this header.", engine.errors)
    parallel = int(request.get("parallel", 1))
    kv_type = str(request.get("kv_type", "f16"))
    cp.n_ctx, cp.n_batch = int(request["context"]), int(request.get("batch", 2048))
    cp.n_ubatch = min(int(request.get("ubatch", 512)), cp.n_batch)
    cp.n_seq_max = cp.n_outputs_max = parallel
    cp.n_outputs_max_per_seq = 1
    number = gguf_min.TYPES[kv_type].to_bytes(4, "little")
    poke(cp, CONTEXT_TYPES, number + number)
    if kv_type not in ("f32", "f16", "bf16"):
        poke(cp, CONTEXT_FLASH, (1).to_bytes(4, "little"))
    poke(cp, SWA_FULL, b"\x01" if request.get("swa_full") else b"\x00")
    poke(cp, UNIFIED, b"\x01" if request.get("unified") else b"\x00")
    if not lib.llama_init_from_model(model, cp):
        raise protocol.Failed("step-failed", "llama.cpp makes no context of this size.", engine.errors)
    log = "".join(engine.kept)
    seen = {m[3] for m in KV.finditer(log)}
    if seen and seen != {kv_type}:
        raise protocol.Failed("env-failed", f"The KV cache was asked for in {kv_type} and is in {sorted(seen)}.")
    return log


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Write the header where it is needed, load, read the log."""
    tensors = [(str(n), tuple(int(d) for d in shape), str(kind)) for n, shape, kind in request.get("tensors", [])]
    weights = sum(gguf_min.nbytes(shape, kind) for _, shape, kind in tensors)
    if request.get("path"):
        return {"weights_bytes": weights, **parse(load(Path(request["path"]), request))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dry.gguf"
        gguf_min.write_sparse(path, request["metadata"], tensors)
        return {"weights_bytes": weights, **parse(load(path, request))}


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
