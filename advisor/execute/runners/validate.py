"""Prove that a GGUF file is a model: load it with llama.cpp, continue a prompt, look at the logits.

Request: ``{"path", "prompt": text, "tokens": n, "threads": n}``.
Result: ``{"answer", "tokens", "vocabulary", "non_finite", "spread", "load_seconds", "decode_seconds"}``; ``spread`` is
the standard deviation of the logits after the prompt: a file of garbage often has logits that are all alike.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import llama_c
import protocol


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, decode, check."""
    import numpy as np

    path, limit = Path(request["path"]), int(request.get("tokens", 8))
    protocol.progress(0, 2, "stages", "loading", force=True)
    started = time.monotonic()
    engine = llama_c.Engine()
    model = engine.open(path, context=512, batch=512, threads=int(request.get("threads") or 1), outputs=1)
    loaded = time.monotonic()
    protocol.progress(1, 2, "stages", "decoding", force=True)
    prompt = str(request.get("prompt") or "The capital of France is")
    tokens = model.tokenize(prompt)
    logits = model.decode(tokens, [False] * (len(tokens) - 1) + [True])[0].copy()
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        raise protocol.Failed("artifact-invalid", f"{bad} of {logits.size} logits of {path.name} are not numbers.")
    spread = float(logits.std())
    if spread < 1e-6:
        raise protocol.Failed("artifact-invalid", f"All logits of {path.name} are the same.")
    answer, bad = model.greedy(prompt, limit)
    if bad:
        raise protocol.Failed("artifact-invalid", f"{bad} logits of {path.name} are not numbers.")
    done = time.monotonic()
    model.close()
    protocol.progress(2, 2, "stages", "done")
    return {
        "answer": answer,
        "tokens": limit,
        "vocabulary": int(logits.size),
        "non_finite": 0,
        "spread": round(spread, 4),
        "load_seconds": round(loaded - started, 3),
        "decode_seconds": round(done - loaded, 3),
    }


if __name__ == "__main__":
    protocol.run(work, code="artifact-invalid")
