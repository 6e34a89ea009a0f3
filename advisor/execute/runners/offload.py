"""Load a GGUF file with layers on a device, and say what lies where; optionally how well it predicts a text.

Request: ``{"path", "settings": {"gpu_layers", "cpu_moe_layers", "tensor_split", "load_mode", "context", "parallel",
"batch", "ubatch", "kv_type", "kv_on_device", "threads", "dry"}, "limit_bytes": null, "text": null, "chunks": 1,
"chunk_tokens": 128}``. ``limit_bytes`` is what the process may take beyond what libraries and drivers took before.
``dry``: nothing is read or allocated, ``buffers`` are what would be, to the byte.

Result: ``{"devices", "buffers": {DEVICE or "host": {"weights", "kv", "state", "compute", "output"}}, "offloaded",
"layers", "perplexity", "logprobs", "address_space_bytes"}``; ``offloaded`` counts the output matrix as a layer, as
the engine does; ``address_space_bytes`` is the most that loading took beyond what ``limit_bytes`` counts from.
``logprobs`` are the log-probabilities of the scored tokens, in order; ``perplexity`` is their
exponential mean. The engine's log goes to standard error.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import llama_c
import llama_vulkan
import protocol


def score(model: llama_c.Model, text: str, chunks: int, n: int) -> list[float]:
    """Log-probability of each token of the second half of every chunk, as in perplexity.

    Raises:
        Failed: ``bad-option``, the text is too short.
    """
    import numpy as np
    import scores

    tokens = model.tokenize(text)
    chunks = min(chunks, len(tokens) // n)
    if chunks < 1:
        raise protocol.Failed("bad-option", f"The text has {len(tokens)} tokens; one chunk takes {n}.")
    scored = [False] * (n // 2) + [True] * (n - 1 - n // 2) + [False]
    out: list[float] = []
    for i in range(chunks):
        chunk = tokens[i * n : (i + 1) * n]
        if model.adds_bos:
            chunk[0] = model.bos
        model.forget()
        rows = model.decode(chunk, scored)
        if not np.isfinite(rows).all():
            raise protocol.Failed("artifact-invalid", f"{model.path.name} gives logits that are not finite.")
        logp, _ = scores.log_softmax(rows)
        out += [float(x) for x in logp[np.arange(len(rows)), chunk[n // 2 + 1 :]]]
        protocol.progress(i + 1, chunks, "chunks")
    return out


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load under the limit, read the log, score the text."""
    engine = llama_vulkan.Engine(verbose=True)
    before = llama_vulkan.virtual_bytes()
    if request.get("limit_bytes"):
        engine.limit(int(request["limit_bytes"]))
    model = engine.open(Path(request["path"]), request["settings"])
    taken = llama_vulkan.virtual_bytes(peak=True) - before
    log = "".join(engine.kept)
    found = llama_vulkan.OFFLOADED.search(log)
    logprobs: list[float] = []
    if request.get("text"):
        text = Path(request["text"]).read_text(encoding="utf-8")
        logprobs = score(model, text, int(request.get("chunks", 1)), int(request.get("chunk_tokens", 128)))
    buffers = engine.buffers()
    if request["settings"].get("dry"):
        output = buffers.get("host", {}).get("output", 0)
        buffers = engine.needs(model)
        buffers.setdefault("host", {})["output"] = output
    model.close()
    return {
        "devices": engine.devices,
        "buffers": buffers,
        "offloaded": int(found[1]) if found else 0,
        "layers": int(found[2]) if found else None,
        "perplexity": math.exp(-sum(logprobs) / len(logprobs)) if logprobs else None,
        "logprobs": logprobs,
        "address_space_bytes": taken,
    }


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
