"""Run inside an environment with xllamacpp: load a model as a server, read a prompt, and print what it takes.

The request is one JSON argument; the engine's log goes to standard output, the last line is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

import xllamacpp  # type: ignore[import-not-found]


def resident() -> int:
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))


def main() -> None:
    asked = json.loads(sys.argv[1])
    p = xllamacpp.CommonParams()
    p.model.path = asked["model"]
    p.n_ctx, p.n_parallel, p.n_ubatch = asked["context"], asked["parallel"], asked["ubatch"]
    p.kv_unified, p.warmup, p.verbosity = False, False, 4
    p.fit_params = False
    p.cpuparams.n_threads = 2
    p.cache_ram_mib = 0
    p.no_extra_bufts = asked["no_repack"]
    kind = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + asked["kv_type"].upper())
    p.cache_type_k, p.cache_type_v = kind, kind
    if asked["load_mode"] == "none":
        p.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    server = xllamacpp.Server(p)
    tokens = 0
    if asked["prompt_tokens"]:
        body = json.dumps({"prompt": [5 + i % 200 for i in range(asked["prompt_tokens"])], "n_predict": 2}).encode()
        request = urllib.request.Request(
            server.listening_address + "/completion", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=500) as reply:
            tokens = json.load(reply)["tokens_evaluated"]
    sys.stdout.flush()
    print("\n" + json.dumps({"resident": resident(), "tokens": tokens}), flush=True)
    os._exit(0)


main()
