"""Run inside an environment with xllamacpp: load a model as a server, read a prompt, answer, and print what it takes.

The request is one JSON argument; the engine's log goes to standard output, the last line is JSON: bytes resident at
most and at the end (by the kernel's own split), and seconds of CPU and of wall clock by phase.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from typing import Any

import xllamacpp  # type: ignore[import-not-found]


def kilobytes(file: str, *names: str) -> dict[str, int]:
    """``Name:  n kB`` lines of a file of /proc, in bytes."""
    with open(file) as f:
        lines = dict(line.split(":", 1) for line in f if ":" in line)
    return {name: int(lines[name].split()[0]) * 1024 for name in names if name in lines}


class Clock:
    """Seconds since the last question: CPU of this process, CPU of all others on the machine, wall clock."""

    def __init__(self) -> None:
        self.last = self.now()

    @staticmethod
    def now() -> tuple[float, float, float]:
        t = os.times()
        own = t.user + t.system
        with open("/proc/stat") as f:
            ticks = [int(n) for n in f.readline().split()[1:9]]  # user nice system idle iowait irq softirq steal
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return own, max(0.0, busy - own), time.monotonic()

    def lap(self) -> dict[str, float]:
        then, self.last = self.last, self.now()
        return {
            name: round(a - b, 3) for name, a, b in zip(("cpu_s", "others_s", "wall_s"), self.last, then, strict=True)
        }


def parameters(asked: dict[str, Any]) -> Any:
    p = xllamacpp.CommonParams()
    p.model.path = asked["model"]
    p.n_ctx, p.n_parallel, p.n_ubatch = asked["context"], asked["parallel"], asked["ubatch"]
    p.kv_unified, p.warmup, p.verbosity = False, asked.get("warmup", False), 4
    p.fit_params = False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = asked.get("threads", 2)
    p.cache_ram_mib = p.n_ctx_checkpoints = 0
    p.no_extra_bufts = asked["no_repack"]
    kind = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + asked["kv_type"].upper())
    p.cache_type_k, p.cache_type_v = kind, kind
    if asked["load_mode"] is not None:
        name = asked["load_mode"].upper().replace("+", "_")
        p.load_mode = xllamacpp.llama_load_mode["LLAMA_LOAD_MODE_" + name]
    return p


def main() -> None:
    asked = json.loads(sys.argv[1])
    p = parameters(asked)
    clock = Clock()
    server = xllamacpp.Server(p)
    laps = {"start": clock.lap()}
    loaded = kilobytes("/proc/self/status", "VmHWM")["VmHWM"]

    def complete(tokens: list[int], n: int) -> dict[str, Any]:
        body = {"prompt": tokens, "n_predict": n, "ignore_eos": True, "temperature": 0, "cache_prompt": True}
        request = urllib.request.Request(
            server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=500) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    tokens = 0
    if asked["prompt_tokens"]:
        prompt = [5 + i % 200 for i in range(asked["prompt_tokens"])]
        tokens = complete(prompt, 2)["tokens_evaluated"]
        laps["prefill"] = clock.lap()
        for i in range(asked.get("decodes", 0)):
            complete(prompt[:8], asked["predict"])
            laps[f"decode{i}"] = clock.lap()
    if asked.get("idle_s"):
        time.sleep(asked["idle_s"])
        laps["idle"] = clock.lap()
    print(
        "\n"
        + json.dumps(
            {
                "resident": kilobytes("/proc/self/status", "VmHWM")["VmHWM"],
                "loaded": loaded,
                "tokens": tokens,
                "rollup": kilobytes("/proc/self/smaps_rollup", "Rss", "Pss", "Pss_Anon", "Pss_File"),
                "laps": laps,
            }
        ),
        flush=True,
    )
    os._exit(0)


main()
