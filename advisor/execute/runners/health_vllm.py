"""Prove that the environment ``vllm`` works: load a tiny model in this process and decode a token.

Request: ``{"variant"}``. Result: ``{"versions", "devices", "seconds", "peak_bytes", "tokens", "platform", "plugins"}``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol
import tiny_model

PACKAGES = ("transformers", "compressed-tensors", "torch", "numpy", "bitsandbytes", "vllm-bnb-plugin")
VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, decode."""
    started = time.monotonic()
    os.environ.update(VARIABLES)
    protocol.progress(0, 2, "checks", "starting torch and vLLM", force=True)
    variant = str(request.get("variant", "cpu"))
    tiny_model.devices(variant)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "tiny"
        os.environ["VLLM_CACHE_ROOT"] = str(Path(name) / "cache")
        tiny_model.write(source, dtype="bfloat16", width=4 * tiny_model.WIDTH)
        import vllm
        from vllm.platforms import current_platform

        protocol.progress(1, 2, "checks", "loading a tiny model", force=True)
        more: dict[str, Any] = {} if variant == "cpu" else {"gpu_memory_utilization": 0.1}
        engine = vllm.LLM(
            str(source),
            max_model_len=128,
            max_num_seqs=1,
            enforce_eager=True,
            enable_prefix_caching=False,
            seed=0,
            **more,
        )
        sampling = vllm.SamplingParams(temperature=0, max_tokens=1, min_tokens=1, prompt_logprobs=1)
        (reply,) = engine.generate([{"prompt_token_ids": tiny_model.samples(1, 8)[0]}], sampling, use_tqdm=False)
    tokens = len(reply.outputs[0].token_ids)
    if tokens != 1 or reply.prompt_logprobs is None or len(reply.prompt_logprobs) != 8:
        raise protocol.Failed(
            "env-failed", f"A tiny model gives {tokens} tokens, or no log-probabilities of its prompt."
        )
    found = metadata.entry_points(group="vllm.general_plugins")
    return tiny_model.report(
        PACKAGES,
        started,
        variant,
        tokens=tokens,
        version=vllm.__version__,
        platform=current_platform.device_name,
        plugins=sorted(e.name for e in found),
    )


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
