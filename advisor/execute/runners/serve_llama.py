"""Serve a GGUF file with llama.cpp's own server, out of the xllamacpp wheel.

Started as ``ENV/bin/python -I serve_llama.py --model FILE ...``; speaks the OpenAI API on ``--host``:``--port`` and
answers ``/health``. Logs go to standard error. SIGTERM and SIGINT stop it; exit status 0 then. Exit status 1: it could
not start, with a last line ``error: ...``; 98: the port is taken.

Differences from the server's own defaults, so that a plan stays true: nothing is refitted to free memory behind the
plan's back (``fit_params`` off); no prompts are kept in host memory beyond the slots' own cache (``cache_ram_mib`` 0,
which by default may grow to 8 GiB) and no state checkpoints are kept unless asked for; the web page and the slot
listing, which shows users' prompts, are off. The key is read from a file and never stands in the argument list.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

PORT_TAKEN = 98
GRACE_S = 10.0
LOAD_MODES = {"auto": "AUTO", "none": "NONE", "mmap": "MMAP", "mlock": "MLOCK", "mmap+mlock": "MMAP_MLOCK"}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    p = argparse.ArgumentParser(prog="serve_llama", allow_abbrev=False)
    p.add_argument("--model", required=True)
    p.add_argument("--alias", required=True)
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--context", type=int, required=True, help="tokens of all slots together")
    p.add_argument("--parallel", type=int, default=1)
    p.add_argument("--threads", type=int)
    p.add_argument("--threads-batch", type=int)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--ubatch", type=int, default=512)
    p.add_argument("--kv-type", default="f16")
    p.add_argument("--gpu-layers", type=int, default=0)
    p.add_argument("--tensor-split", help="shares, separated by commas")
    p.add_argument("--cpu-moe-layers", type=int, default=0)
    p.add_argument("--load-mode", choices=sorted(LOAD_MODES), default="mmap")
    p.add_argument("--cache-ram-mib", type=int, default=0)
    p.add_argument("--checkpoints", type=int, default=0)
    p.add_argument("--api-key-file")
    p.add_argument("--metrics", action="store_true")
    p.add_argument("--embeddings", action="store_true")
    return p.parse_args(argv)


def stop(code: int, line: str) -> NoReturn:
    """Say why and end."""
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()
    os._exit(code)


def keys(path: str | None) -> list[str]:
    """The keys in a file, one a line."""
    if path is None:
        return []
    try:
        found = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as e:
        stop(1, f"the key file cannot be read: {e}")
    if not found:
        stop(1, f"the key file {path} is empty")
    return found


def port_is_free(host: str, port: int) -> str | None:
    """Why ``host``:``port`` cannot be bound, or ``None``."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, port))
    except OSError as e:
        return str(e)
    return None


def parameters(a: argparse.Namespace) -> Any:
    """The server's parameters."""
    import xllamacpp as x

    def kv(name: str) -> Any:
        try:
            return x.ggml_type[f"GGML_TYPE_{name.upper()}"]
        except KeyError:
            stop(1, f"llama.cpp has no type {name!r} for the KV cache")

    p = x.CommonParams()
    p.model.path = a.model
    p.model_alias = {a.alias}
    p.hostnames, p.port, p.reuse_port = [a.host], a.port, False
    p.n_ctx, p.n_parallel, p.kv_unified = a.context, a.parallel, False
    p.n_batch, p.n_ubatch = a.batch, min(a.ubatch, a.batch)
    if a.threads:
        p.cpuparams.n_threads = a.threads
    if a.threads_batch or a.threads:
        p.cpuparams_batch.n_threads = a.threads_batch or a.threads
    p.cache_type_k = p.cache_type_v = kv(a.kv_type)
    if a.kv_type not in ("f16", "bf16", "f32"):  # a quantized V cache needs flash attention
        p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    p.n_gpu_layers = a.gpu_layers
    if a.tensor_split:
        shares = [float(s) for s in a.tensor_split.split(",")]
        p.tensor_split = shares + [0.0] * (len(p.tensor_split) - len(shares))
    if a.cpu_moe_layers:
        layers = "|".join(str(i) for i in range(a.cpu_moe_layers))
        p.tensor_buft_overrides = rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
    p.load_mode = x.llama_load_mode[f"LLAMA_LOAD_MODE_{LOAD_MODES[a.load_mode]}"]
    p.fit_params = False
    p.cache_ram_mib, p.n_ctx_checkpoints = a.cache_ram_mib, a.checkpoints
    p.cache_idle_slots = a.cache_ram_mib != 0
    p.ui = p.endpoint_slots = False
    p.endpoint_metrics, p.embedding = a.metrics, a.embeddings
    # Otherwise any web page in a browser on this machine could talk to the server.
    p.cors_origins, p.cors_credentials, p.cors_origins_explicit = "http://localhost", False, True
    p.api_keys = keys(a.api_key_file)
    p.use_jinja, p.verbosity = True, 4  # 4: with the sizes of all buffers
    return p


def main(argv: list[str] | None = None) -> None:
    """Start, serve until told to stop, stop."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    a = arguments(argv)
    if not Path(a.model).is_file():
        stop(1, f"there is no file {a.model}")
    if why := port_is_free(a.host, a.port):
        stop(PORT_TAKEN, f"{a.host}:{a.port} cannot be bound: {why}")
    # A pipe, not an event: a handler that sets the event its own thread waits for can find its lock held.
    told, tell = os.pipe()
    failed: list[BaseException] = []
    server: list[Any] = []

    def start() -> None:
        try:
            import xllamacpp as x

            server.append(x.Server(parameters(a)))
        except BaseException as e:  # told to the main thread, which ends the process
            failed.append(e)
            os.write(tell, b"!")
            return
        sys.stderr.write(f"serving {a.alias} on {server[0].listening_address}\n")
        sys.stderr.flush()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: os.write(tell, b"!"))
    threading.Thread(target=start, daemon=True).start()
    os.read(told, 1)
    if failed:
        stop(1, f"llama.cpp does not start: {failed[0]}")
    # A load that runs, or a request that hangs, must not keep the process from ending.
    watchdog = threading.Timer(GRACE_S, lambda: os._exit(0))
    watchdog.daemon = True
    watchdog.start()
    server.clear()
    sys.stderr.write("stopped\n")
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
