"""Prove that the environment ``llama-cpp-python`` works: load a tiny model, decode, and bring its server's parts up.

Request: ``{}``. Result: ``{"version", "tokens", "routes", "system"}``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import protocol


def work(_request: dict[str, Any]) -> dict[str, Any]:
    """Load, complete, make the application."""
    import llama_cpp
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        gguf_min.write_tiny(path)
        protocol.progress(1, 3, "checks", "loading a tiny model", force=True)
        engine = llama_cpp.Llama(str(path), n_ctx=256, n_batch=64, n_threads=1, verbose=False)
        reply = engine.create_completion("ab", max_tokens=2, temperature=0)
        tokens = int(reply["usage"]["completion_tokens"])
        engine.close()
        if tokens < 1:
            raise protocol.Failed("env-failed", "A tiny model loads, but nothing is completed.")
        protocol.progress(2, 3, "checks", "starting the server", force=True)
        app = create_app(
            server_settings=ServerSettings(),
            model_settings=[ModelSettings(model=str(path), n_ctx=256, n_threads=1, logits_all=False, verbose=False)],
        )
        # The description of the interface, because included routers have no paths of their own in newer releases.
        routes = sorted(p for p in app.openapi()["paths"] if p.startswith("/v1/"))
    if "/v1/models" not in routes or "/v1/chat/completions" not in routes:
        raise protocol.Failed("env-failed", f"The server has no OpenAI routes: {routes}")
    return {
        "version": llama_cpp.__version__,
        "tokens": tokens,
        "routes": routes,
        "system": llama_cpp.llama_print_system_info().decode(errors="replace"),
    }


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
