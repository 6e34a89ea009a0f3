"""Prove that the environment ``llama.cpp`` works: write a tiny model, serve it, read its logits.

Request: ``{}``. Result: ``{"versions", "system", "devices", "tokens"}``. A version number proves nothing: wheels exist
whose libraries need another C library or another processor, and fail only when a model runs.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import llama_c
import protocol


def serve(path: Path) -> int:
    """Start the server's engine on a model and complete a prompt; number of tokens.

    Raises:
        Failed: ``env-failed``.
    """
    import xllamacpp as x

    p = x.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel = str(path), 256, 1
    p.n_batch = p.n_ubatch = 64
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.fit_params, p.ui, p.cache_ram_mib, p.n_ctx_checkpoints = False, False, 0, 0
    server = x.Server(p)
    reply = server.handle_completions({"prompt": "ab", "max_tokens": 2, "temperature": 0})
    usage = reply.get("usage") or {}
    if "choices" not in reply or usage.get("completion_tokens", 0) < 1:
        raise protocol.Failed("env-failed", f"The server answers without a completion: {str(reply)[:200]}")
    return int(usage["completion_tokens"])


def work(_request: dict[str, Any]) -> dict[str, Any]:
    """Run both ways that advisor uses the wheel."""
    import numpy as np
    import xllamacpp as x

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        gguf_min.write_tiny(path)
        protocol.progress(1, 3, "checks", "loading a tiny model", force=True)
        model = llama_c.Engine().open(path, context=256, batch=64, threads=1, outputs=1)
        ids = model.tokenize("ab")
        logits = model.decode(ids, [False] * (len(ids) - 1) + [True])
        if len(ids) < 3 or logits.shape != (1, 259) or not np.isfinite(logits).all() or float(logits.std()) == 0:
            raise protocol.Failed("env-failed", "A tiny model loads, but its logits are no use.")
        model.close()
        protocol.progress(2, 3, "checks", "serving a tiny model", force=True)
        tokens = serve(path)
    devices = [{k: d[k] for k in ("name", "description")} for d in x.get_device_info()]
    return {
        "versions": {n: metadata.version(n) for n in ("xllamacpp", "numpy")},
        "system": x.get_system_info(),
        "devices": devices,
        "tokens": tokens,
    }


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
