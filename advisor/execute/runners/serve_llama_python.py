"""Serve a GGUF file with the server of llama-cpp-python.

Started as ``ENV/bin/python -I serve_llama_python.py --model FILE ...``. Ready when ``/v1/models`` answers. Exit status
1: it could not start, with a last line ``error: ...``; 98: the port is taken.

Differences from ``python -m llama_cpp.server``: the key is read from a file and never stands in the argument list; a
new request does not break off the one that is being answered; logits are kept for the last token only (by default for
all of a context, which is gigabytes); no web page of another origin may ask the server.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import serve_llama

# The numbers of ggml's types.
KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    p = argparse.ArgumentParser(prog="serve_llama_python", allow_abbrev=False)
    p.add_argument("--model", required=True)
    p.add_argument("--alias", required=True)
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--context", type=int, required=True)
    p.add_argument("--threads", type=int)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--ubatch", type=int, default=512)
    p.add_argument("--kv-type", choices=sorted(KV_TYPES), default="f16")
    p.add_argument("--load-mode", choices=["auto", "mmap", "none", "read", "mlock", "mmap+mlock"], default="auto")
    p.add_argument("--api-key-file")
    return p.parse_args(argv)


def model(a: argparse.Namespace) -> dict[str, Any]:
    """The server's settings of the model."""
    out = {
        "model": a.model,
        "model_alias": a.alias,
        "n_ctx": a.context,
        "n_batch": a.batch,
        "n_ubatch": a.ubatch,
        "n_gpu_layers": 0,
        "logits_all": False,
        "use_mmap": a.load_mode in ("auto", "mmap", "mmap+mlock"),
        "use_mlock": a.load_mode in ("mlock", "mmap+mlock"),
        "type_k": KV_TYPES[a.kv_type],
        "type_v": KV_TYPES[a.kv_type],
        # As llama-server does it. Without, the work buffer grows with what is in the cache: by the batch's tokens times
        # those of the context times heads times 4 bytes. A quantized V cache needs it anyway.
        "flash_attn": True,
        "verbose": True,
    }
    if a.threads:
        out |= {"n_threads": a.threads, "n_threads_batch": a.threads}
    return out


def main(argv: list[str] | None = None) -> None:
    """Load, serve until told to stop."""
    a = arguments(argv)
    if not Path(a.model).is_file():
        serve_llama.stop(1, f"there is no file {a.model}")
    if why := serve_llama.port_is_free(a.host, a.port):
        serve_llama.stop(serve_llama.PORT_TAKEN, f"{a.host}:{a.port} cannot be bound: {why}")
    keys = serve_llama.keys(a.api_key_file)
    for name in ("CONFIG_FILE", "API_KEY", "MODEL"):  # the server reads settings from the environment, too
        os.environ.pop(name, None)
    try:
        import uvicorn
        from llama_cpp.server.app import create_app
        from llama_cpp.server.settings import ModelSettings, ServerSettings

        server = ServerSettings(host=a.host, port=a.port, api_key=keys[0] if keys else None, interrupt_requests=False)
        app = create_app(server_settings=server, model_settings=[ModelSettings(**model(a))])
    except Exception as e:
        serve_llama.stop(1, f"llama.cpp does not start: {e}")
    app.user_middleware = [m for m in app.user_middleware if m.cls.__name__ != "CORSMiddleware"]
    uvicorn.run(app, host=a.host, port=a.port, log_level="info", access_log=False, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
